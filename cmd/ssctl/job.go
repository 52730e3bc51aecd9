package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
)

type memberJSON struct {
	Job      string   `json:"job"`
	Name     string   `json:"name"`
	Host     string   `json:"host"`
	Pid      int      `json:"pid"`
	Command  []string `json:"command"`
	State    string   `json:"state"`
	Exit     string   `json:"exit,omitempty"`
	RSS      int64    `json:"rss_bytes"`
	Channels int      `json:"channels"`
	Attached bool     `json:"attached,omitempty"`
	Epoch    uint64   `json:"epoch"`
	// SupersededBy is there for an old copy.
	SupersededBy uint64 `json:"superseded_by,omitempty"`
	// Log is the path of its log on the host, and LogBytes how long that is: -1 where that is not known.
	Log      string `json:"log,omitempty"`
	LogBytes int64  `json:"log_bytes"`
	// Since is of state "unreachable": when the host was first found silent.
	Since *time.Time `json:"since,omitempty"`
}

func toMemberJSON(m orchestrator.Member) memberJSON {
	state := m.State
	if m.Frozen {
		state = "frozen"
	}
	var since *time.Time
	if !m.Since.IsZero() {
		since = &m.Since
	}
	return memberJSON{Since: since, Job: m.Job, Name: m.Name, Host: m.Host, Pid: m.Pid, Command: m.Command, State: state, Exit: m.Exit,
		RSS: m.RSS, Channels: m.Channels, Attached: m.Attached, Epoch: m.Epoch, SupersededBy: m.SupersededBy,
		Log: m.Log, LogBytes: m.LogBytes}
}

func (a *app) started(m orchestrator.Member) error {
	return a.say(struct {
		Schema string `json:"schema"`
		memberJSON
	}{"ss/member/1", toMemberJSON(m)}, "%s\n", startedText(m))
}

func startedText(m orchestrator.Member) string {
	if m.State == orchestrator.StateExited {
		return fmt.Sprintf("%s on %s has ended already: %s; see ssctl logs %s %s", m.Name, m.Host, m.Exit, m.Job, m.Name)
	}
	return fmt.Sprintf("%s runs on %s as process %d", m.Name, m.Host, m.Pid)
}

func (a *app) runCommand() *cobra.Command {
	var host, cwd, log string
	var env []string
	cmd := &cobra.Command{
		Use: "run JOB --host HOST -- CMD ARG…", Short: "Start a member of a job on a host",
		Args: func(cmd *cobra.Command, argv []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(argv) < 2 {
				return usage("usage: ssctl run JOB --host HOST [--env K=V] [--cwd DIR] [--log FILE] -- CMD ARG…")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, argv []string) error {
			if host == "" {
				return usage("--host is needed")
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				m, err := c.Run(ctx, host, orchestrator.Member{Job: argv[0], Command: argv[1:], Env: env, Dir: cwd, Log: log})
				if err != nil {
					return err
				}
				return a.started(m)
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "where it runs")
	cmd.Flags().StringArrayVar(&env, "env", nil, "K=V, added to its environment; may be repeated")
	cmd.Flags().StringVar(&cwd, "cwd", "", "its working directory on the host")
	cmd.Flags().StringVar(&log, "log", "", "file on the host for its output, appended to; without it, one below the agent's state folder (ssctl logs)")
	return cmd
}

func (a *app) attachCommand() *cobra.Command {
	var host string
	var pid int
	cmd := &cobra.Command{
		Use: "attach JOB --host HOST --pid N", Short: "Take a running process tree in as a member", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if host == "" || pid <= 0 {
				return usage("--host and --pid are needed")
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				m, err := c.Attach(ctx, host, argv[0], pid)
				if err != nil {
					return err
				}
				return a.started(m)
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "where it runs")
	cmd.Flags().IntVar(&pid, "pid", 0, "root of the tree, as the host sees it")
	return cmd
}

func (a *app) psCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ps [JOB]", Short: "Show members: host, pid, command, state, memory, channels, log", Args: args(0, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				job := ""
				if len(argv) == 1 {
					job = argv[0]
					if _, err := c.Catalogue.Job(ctx, job); err != nil {
						return err
					}
				}
				members, missing, err := c.Members(ctx, job)
				if err != nil {
					return err
				}
				unsettled, err := c.Unsettled(ctx, job)
				if err != nil {
					return err
				}
				return a.showMembers(members, missing, unsettled)
			})
		},
	}
}

func (a *app) showMembers(members []orchestrator.Member, missing map[string]error, unsettled []orchestrator.Unsettled) error {
	out := []memberJSON{}
	rows := [][]string{{"JOB", "MEMBER", "HOST", "PID", "STATE", "RSS", "CHANNELS", "LOG", "COMMAND"}}
	for _, m := range members {
		j := toMemberJSON(m)
		out = append(out, j)
		state := j.State
		if j.State == orchestrator.StateUnreachable {
			state = "not reachable" + since(m.Since)
		}
		if j.Exit != "" {
			state += " (" + j.Exit + ")"
		}
		if j.SupersededBy > 0 {
			state += fmt.Sprintf(", superseded by epoch %d", j.SupersededBy)
		}
		rows = append(rows, []string{m.Job, m.Name, m.Host, fmt.Sprint(m.Pid), state, size(m.RSS), fmt.Sprint(m.Channels), logText(m), short(strings.Join(m.Command, " "), 60)})
	}
	silent := map[string]string{}
	for host, err := range missing {
		silent[host] = err.Error()
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/ps/1", "members": out, "unreachable": silent, "unsettled": toUnsettledJSON(unsettled)})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for host, text := range silent {
		a.screen.notice(host + ": " + text)
	}
	for _, u := range unsettled {
		a.screen.notice(u.String())
	}
	return nil
}

// logText is a member's log and how long it is.
func logText(m orchestrator.Member) string {
	switch {
	case m.Log == "":
		return "-"
	case m.LogBytes < 0:
		return m.Log
	}
	return fmt.Sprintf("%s (%s)", m.Log, size(m.LogBytes))
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + t.Local().Format("2006-01-02 15:04:05")
}

// unsettledJSON is a host that a job was restored without.
type unsettledJSON struct {
	Job     string    `json:"job"`
	Host    string    `json:"host"`
	Members []string  `json:"members"`
	Epoch   uint64    `json:"epoch"`
	Since   time.Time `json:"since"`
}

func toUnsettledJSON(in []orchestrator.Unsettled) []unsettledJSON {
	out := []unsettledJSON{}
	for _, u := range in {
		out = append(out, unsettledJSON{Job: u.Job, Host: u.Host, Members: some(u.Members), Epoch: u.Epoch, Since: u.Since})
	}
	return out
}

func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func (a *app) killCommand() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use: "kill JOB", Short: "End a job on every host, or on one; its cuts stay", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				kill := c.Kill
				if host != "" {
					kill = func(ctx context.Context, job string) ([]string, error) { return c.KillOn(ctx, job, host) }
				}
				killed, err := kill(ctx, argv[0])
				if err != nil {
					return &fault.Error{Op: "kill", Job: argv[0], Err: err}
				}
				killed = append([]string{}, killed...) // never null
				slices.Sort(killed)
				return a.say(map[string]any{"schema": "ss/kill/1", "job": argv[0], "killed": killed}, "ended: %s\n", dash(strings.Join(killed, ", ")))
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "only what this host has of the job")
	return cmd
}
