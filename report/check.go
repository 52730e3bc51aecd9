package report

import (
	"encoding/json"
	"fmt"
	"time"

	"ss/orchestrator"
)

// Check is what check says.
type Check struct {
	Schema   string            `json:"schema"`
	Job      string            `json:"job"`
	Hosts    []CheckedHost     `json:"hosts"`
	Members  []CheckedMember   `json:"members"`
	Moved    map[string]string `json:"moved"`
	Problems []Problem         `json:"problems"`
}

// CheckedHost is what matters of a host.
type CheckedHost struct {
	Host         string  `json:"host"`
	Kernel       string  `json:"kernel"`
	CRIU         string  `json:"criu"`
	Gate         string  `json:"gate"`
	Memory       string  `json:"memory"`
	ClockMs      float64 `json:"clock_ms"`
	ClockErrorMs float64 `json:"clock_error_ms"`
}

// CheckedMember is what a member holds.
type CheckedMember struct {
	Host      string          `json:"host"`
	Name      string          `json:"name"`
	Processes int             `json:"processes"`
	RSSBytes  int64           `json:"rss_bytes"`
	Holdings  json.RawMessage `json:"holdings,omitempty"`
}

// CheckOf describes what a check has found.
func CheckOf(r orchestrator.CheckResult) Check {
	out := Check{Schema: "ss/check/1", Job: r.Job, Hosts: []CheckedHost{}, Members: []CheckedMember{}, Moved: map[string]string{}, Problems: []Problem{}}
	for _, h := range r.Hosts {
		memory := "tracked"
		if h.Info.Memory != "" {
			memory = "copied while frozen"
		}
		out.Hosts = append(out.Hosts, CheckedHost{Host: h.Name, Kernel: h.Info.Kernel, CRIU: h.Info.CRIU, Gate: h.Info.Gate, Memory: memory,
			ClockMs: millis(h.Clock), ClockErrorMs: millis(h.Error)})
	}
	for _, m := range r.Members {
		out.Members = append(out.Members, CheckedMember{m.Host, m.Name, m.Processes, m.RSS, m.Holdings})
	}
	for from, to := range r.Moved {
		out.Moved[from.String()] = to.String()
	}
	for _, f := range r.Problems {
		out.Problems = append(out.Problems, Problem(f))
	}
	return out
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// HostTable has a row for each host.
func (c Check) HostTable() Table {
	rows := Table{{"HOST", "KERNEL", "CRIU", "GATE", "MEMORY", "CLOCK"}}
	for _, h := range c.Hosts {
		clock := "the same"
		if h.ClockMs > h.ClockErrorMs+1 || h.ClockMs < -h.ClockErrorMs-1 {
			clock = fmt.Sprintf("%+.0f ms", h.ClockMs)
		}
		rows = append(rows, []string{h.Host, h.Kernel, Dash(h.CRIU), h.Gate, h.Memory, clock})
	}
	return rows
}

// MemberTable has a row for each member.
func (c Check) MemberTable() Table {
	rows := Table{{"MEMBER", "HOST", "PROCESSES", "MEMORY"}}
	for _, m := range c.Members {
		rows = append(rows, []string{m.Name, m.Host, fmt.Sprint(m.Processes), Size(m.RSSBytes)})
	}
	return rows
}
