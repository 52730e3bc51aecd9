package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/report"
)

func (a *app) started(m orchestrator.Member) error {
	return a.say(report.StartedOf(m), "%s\n", startedText(m))
}

func startedText(m orchestrator.Member) string {
	if m.State == orchestrator.StateExited {
		return fmt.Sprintf("%s on %s has ended already: %s; see ssctl logs %s %s", m.Name, m.Host, m.Exit, m.Job, m.Name)
	}
	return fmt.Sprintf("%s runs on %s as process %d", m.Name, m.Host, m.Pid)
}

func (a *app) runCommand() *cobra.Command {
	var host, cwd, log, memory string
	var env, folders []string
	cmd := &cobra.Command{
		Use: "run JOB --host HOST -- CMD ARG…", Short: "Start a member of a job on a host",
		Args: func(cmd *cobra.Command, argv []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(argv) < 2 {
				return usage("usage: ssctl run JOB --host HOST [--env K=V] [--cwd DIR] [--log FILE] [--files DIR] [--memory frozen] -- CMD ARG…")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, argv []string) error {
			if host == "" {
				return usage("--host is needed")
			}
			frozen, err := memoryFrozen(memory)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				m, err := c.Run(ctx, host, orchestrator.Member{Job: argv[0], Command: argv[1:], Env: env, Dir: cwd, Log: log, Folders: folders, MemoryFrozen: frozen})
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
	cmd.Flags().StringArrayVar(&folders, "files", nil, "folder on the host whose files are part of each cut, open or not; may be repeated")
	memoryFlag(cmd, &memory)
	return cmd
}

// The values of --memory.
const (
	memoryTracked = "tracked"
	memoryOff     = "frozen"
)

func memoryFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "memory", memoryTracked, "how its memory is copied: tracked, while it runs, where its host can; or frozen, while it stands still")
}

// memoryFrozen reads --memory.
func memoryFrozen(flag string) (bool, error) {
	if flag != memoryTracked && flag != memoryOff {
		return false, usage("--memory %s: it is %s or %s", flag, memoryTracked, memoryOff)
	}
	return flag == memoryOff, nil
}

func (a *app) attachCommand() *cobra.Command {
	var host, memory string
	var pid int
	cmd := &cobra.Command{
		Use: "attach JOB --host HOST --pid N", Short: "Make a running process tree a member", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if host == "" || pid <= 0 {
				return usage("--host and --pid are needed")
			}
			frozen, err := memoryFrozen(memory)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				m, err := c.Attach(ctx, host, orchestrator.Member{Job: argv[0], Pid: pid, MemoryFrozen: frozen})
				if err != nil {
					return err
				}
				return a.started(m)
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "where it runs")
	cmd.Flags().IntVar(&pid, "pid", 0, "root of the tree, as the host sees it")
	memoryFlag(cmd, &memory)
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
	doc := report.MembersOf(members, missing, unsettled)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	a.silent(doc.Unreachable)
	for _, u := range unsettled {
		a.screen.notice(u.String())
	}
	return nil
}

// silent names hosts and vaults that did not answer.
func (a *app) silent(why map[string]string) {
	for _, where := range slices.Sorted(maps.Keys(why)) {
		a.screen.notice(where + ": " + why[where])
	}
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
				return a.say(report.Killed{Schema: "ss/kill/1", Job: argv[0], Killed: killed}, "ended: %s\n", dash(strings.Join(killed, ", ")))
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "only what this host has of the job")
	return cmd
}
