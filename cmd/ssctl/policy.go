package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/report"
	"ss/store"
)

func (a *app) jobCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Show jobs, and set how many copies of their images there are and how long cuts stay", Args: args(0, 0), RunE: func(*cobra.Command, []string) error {
		return usage("usage: ssctl job set|show|list|rm")
	}}
	cmd.AddCommand(a.jobSet(), a.jobShow(), a.jobList(), a.jobRemove())
	return cmd
}

// policyFlags are the flags of job set. Those that were not given change nothing.
type policyFlags struct {
	copies                      int
	vaults                      []string
	noVault, clusterVaults      bool
	last, hourly, daily, weekly int
	outside                     string
	except                      []string
}

func (f policyFlags) check(changed func(string) bool) error {
	if err := checkVaults(f.vaults); err != nil {
		return err
	}
	if changed("copies") && f.copies < 1 {
		return usage("--copies takes 1 or more, not %d", f.copies)
	}
	for name, n := range map[string]int{"keep-last": f.last, "keep-hourly": f.hourly, "keep-daily": f.daily, "keep-weekly": f.weekly} {
		if n < 0 {
			return usage("--%s takes 0 or more, not %d", name, n)
		}
	}
	ways := 0
	for _, given := range []bool{len(f.vaults) > 0, f.noVault, f.clusterVaults} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return usage("--vault, --no-vault and --cluster-vaults exclude each other")
	}
	return nil
}

// apply changes what was given.
func (f policyFlags) apply(p *store.Policy, changed func(string) bool) {
	for _, v := range []struct {
		flag string
		to   *int
		n    int
	}{{"copies", &p.Copies, f.copies}, {"keep-last", &p.Keep.Last, f.last}, {"keep-hourly", &p.Keep.Hourly, f.hourly},
		{"keep-daily", &p.Keep.Daily, f.daily}, {"keep-weekly", &p.Keep.Weekly, f.weekly}} {
		if changed(v.flag) {
			*v.to = v.n
		}
	}
	if changed("outside") || changed("outside-except") {
		p.Outside = f.rules(*p, changed)
	}
	switch {
	case len(f.vaults) > 0:
		p.Vaults = f.vaults
	case f.noVault:
		p.Vaults = []string{}
	case f.clusterVaults:
		p.Vaults = nil
	}
}

// rules are the exceptions, those that were if none were given, and last the rule for all.
func (f policyFlags) rules(was store.Policy, changed func(string) bool) []store.OutsideRule {
	var out, all []store.OutsideRule
	for _, r := range was.Outside {
		if r.Match == "" {
			all = []store.OutsideRule{r}
		} else if !changed("outside-except") {
			out = append(out, r)
		}
	}
	for _, e := range f.except {
		if match, as, _ := strings.Cut(e, "="); match != "" {
			out = append(out, store.OutsideRule{Match: match, As: as})
		}
	}
	if changed("outside") {
		all = []store.OutsideRule{{As: f.outside}}
	}
	return append(out, all...)
}

func (a *app) jobSet() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use: "set JOB", Short: "Change a job's policy: copies, vaults, retention", Args: args(1, 1),
		Long: "set changes what is given and leaves the rest. Each vault counts as a copy, and so does the host that the images come from. Cuts that no\n" +
			"--keep rule keeps are removed after the job's next snapshot, and by gc; the newest one and pinned ones always stay. Without a rule all stay.\n" +
			"Cuts that are there already get their copies with ssctl repair.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			if cmd.Flags().NFlag() == 0 {
				return usage("no setting given: see ssctl job set --help")
			}
			if err := f.check(cmd.Flags().Changed); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				err := c.SetPolicy(ctx, argv[0], func(p *store.Policy) { f.apply(p, cmd.Flags().Changed) })
				if err != nil {
					return err
				}
				return a.showJob(ctx, c, argv[0])
			})
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.copies, "copies", 0, fmt.Sprintf("how many hosts and vaults hold each host's images, itself counted (default %d)", store.DefaultCopies))
	fl.StringArrayVar(&f.vaults, "vault", nil, "URL of a vault that holds a copy, in place of the cluster's: file:///PATH or s3://BUCKET/PREFIX?endpoint=…; may be repeated")
	fl.StringVar(&f.outside, "outside", store.OutsideRefuse, "what becomes of connections with programs outside of the job: refuse (no snapshot), close (a restore finds them closed), keep (restored as they were)")
	fl.StringArrayVar(&f.except, "outside-except", nil, "ADDRESS=…, PREFIX=… or :PORT=…: what becomes of those with that address at the other end, or that port at either end; may be repeated, and replaces earlier exceptions")
	fl.BoolVar(&f.noVault, "no-vault", false, "no vault, also none of the cluster's")
	fl.BoolVar(&f.clusterVaults, "cluster-vaults", false, "the cluster's vaults again")
	fl.IntVar(&f.last, "keep-last", 0, "keep the newest N cuts")
	fl.IntVar(&f.hourly, "keep-hourly", 0, "keep the newest cut of each of N hours that have one")
	fl.IntVar(&f.daily, "keep-daily", 0, "likewise of days (UTC)")
	fl.IntVar(&f.weekly, "keep-weekly", 0, "likewise of weeks (ISO 8601)")
	return cmd
}

func (a *app) jobShow() *cobra.Command {
	return &cobra.Command{
		Use: "show JOB", Short: "Show a job: policy, key, where its members are", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error { return a.showJob(ctx, c, argv[0]) })
		},
	}
}

func (a *app) showJob(ctx context.Context, c *orchestrator.Cluster, name string) error {
	j, err := c.Catalogue.Job(ctx, name)
	if err != nil {
		return err
	}
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	cuts, err := c.Catalogue.Cuts(ctx, name)
	if err != nil {
		return err
	}
	doc := report.JobOf("ss/job/1", j, cluster, cuts)
	if a.json() {
		return a.print(doc)
	}
	return a.table(doc.Table())
}

func (a *app) jobList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the jobs and their policies", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				jobs, err := c.Catalogue.Jobs(ctx)
				if err != nil {
					return err
				}
				cluster, err := c.Catalogue.Cluster(ctx)
				if err != nil {
					return err
				}
				doc := report.Jobs{Schema: "ss/job-list/1", Jobs: []report.Job{}}
				for _, j := range jobs {
					cuts, err := c.Catalogue.Cuts(ctx, j.Name)
					if err != nil {
						return err
					}
					doc.Jobs = append(doc.Jobs, report.JobOf("", j, cluster, cuts))
				}
				if a.json() {
					return a.print(doc)
				}
				return a.table(doc.Table())
			})
		},
	}
}

func (a *app) jobRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm JOB", Short: "Forget a job that has no members and no cuts, and remove its members' logs", Args: args(1, 1),
		Long: "rm forgets a job: its settings, its members that have ended, and the logs that agents keep of them. One that has members that live, or cuts, is\n" +
			"refused: ssctl kill ends the members, ssctl rm removes a cut.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				if err := c.RemoveJob(ctx, argv[0]); err != nil {
					return &fault.Error{Op: "job rm", Job: argv[0], Err: err}
				}
				return a.say(report.JobRemoved{Schema: "ss/job-rm/1", Job: argv[0]}, "%s is forgotten\n", argv[0])
			})
		},
	}
}

// pinCommand is pin, or unpin.
func (a *app) pinCommand(name, short string, pinned bool) *cobra.Command {
	var of jobFlag
	cmd := &cobra.Command{
		Use: name + " CUT|latest", Short: short, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				ref, err := of.cut(ctx, c, argv[0])
				if err != nil {
					return err
				}
				cut, err := c.Pin(ctx, ref, pinned)
				if err != nil {
					return err
				}
				return a.say(report.Pinned{Schema: "ss/pin/1", Cut: cut.ID, Pinned: cut.Pinned}, "%s is %sned\n", cut.ID, name)
			})
		},
	}
	of.add(cmd)
	return cmd
}
