package report

import "ss/fault"

// Failure is what a command that fails says.
type Failure struct {
	Schema   string `json:"schema"`
	Kind     string `json:"kind"`
	ExitCode int    `json:"exit_code"`
	Op       string `json:"op"`
	Host     string `json:"host"`
	Job      string `json:"job"`
	Snapshot string `json:"snapshot"`
	Phase    string `json:"phase"`
	Message  string `json:"message"`
	Next     string `json:"next"`
}

// FailureOf describes an error, which ends the program with an exit code.
func FailureOf(err error, kind fault.Kind, exit int) Failure {
	r := fault.Describe(err)
	return Failure{Schema: "ss/error/1", Kind: kind.String(), ExitCode: exit, Op: r.Op, Host: r.Host, Job: r.Job, Snapshot: r.Snapshot, Phase: r.Phase, Message: r.Message, Next: r.Next}
}
