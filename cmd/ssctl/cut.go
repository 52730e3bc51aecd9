package main

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/report"
	"ss/store"
)

// labelMax bounds a label, in bytes: it stands in one column of a table.
const labelMax = 200

func (a *app) snapshotCommand() *cobra.Command {
	var opt orchestrator.SnapshotOptions
	cmd := &cobra.Command{
		Use: "snapshot JOB", Short: "Record a consistent cut of a running job", Args: args(1, 1),
		Long: "snapshot records a consistent cut of a running job. Without --timeout it is given up if the members of a host do not run again 10 minutes\n" +
			"after it began, with --stop if there is no cut then. After the members run again, storing the images takes as long as hosts and vaults need. Ctrl-C ends it.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.Job, opt.Timeout = argv[0], a.timeout
			if len(opt.Label) > labelMax || !utf8.ValidString(opt.Label) {
				return usage("--label takes up to %d bytes of UTF-8", labelMax)
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				cut, err := c.Snapshot(ctx, opt)
				if err != nil {
					return err
				}
				a.screen.finish()
				doc := report.CutOf("ss/snapshot/1", cut)
				if a.json() {
					return a.print(doc)
				}
				_, err = fmt.Fprintln(a.stdout, doc.Summary())
				if len(cut.Without) > 0 {
					a.screen.notice("the cut lacks " + strings.Join(cut.Without, ", ") + ", which had ended")
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&opt.Stop, "stop", false, "end the members once the cut exists; if it fails they run on")
	cmd.Flags().DurationVar(&opt.Settle, "settle", orchestrator.DefaultSettle, "how long members get to accept new connections before they are frozen; they run meanwhile, and further connections wait")
	cmd.Flags().StringVar(&opt.Initiator, "initiator", "", "host that records first")
	cmd.Flags().StringVar(&opt.Label, "label", "", "text to find it by")
	cmd.Flags().StringArrayVar(&opt.Without, "without", nil, "member that has ended with an error or a signal, and that the cut may lack; may be repeated")
	return cmd
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list [JOB]", Short: "List cuts, oldest first", Args: args(0, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				job := ""
				if len(argv) == 1 {
					job = argv[0]
					if _, err := c.Catalogue.Job(ctx, job); err != nil {
						return err
					}
				}
				cuts, err := c.Catalogue.Cuts(ctx, job)
				if err != nil {
					return err
				}
				return a.showCuts(cuts)
			})
		},
	}
}

func (a *app) showCuts(cuts []store.Cut) error {
	doc := report.CutsOf(cuts)
	if a.json() {
		return a.print(doc)
	}
	return a.table(doc.Table())
}

func (a *app) showCommand() *cobra.Command {
	var of jobFlag
	cmd := &cobra.Command{
		Use: "show CUT|latest", Short: "Show a cut: members, channels with their bytes in transit, timings", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				cut, err := c.Catalogue.Cut(ctx, of.job, argv[0])
				if err != nil {
					return err
				}
				if a.json() {
					return a.print(report.CutOf("ss/cut/1", cut))
				}
				return a.showCut(cut)
			})
		},
	}
	of.add(cmd)
	return cmd
}

// jobFlag is --job of a command about one cut: latest, or the beginning of an id, means a cut of that job.
type jobFlag struct{ job string }

func (f *jobFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.job, "job", "", "the cut is one of this job; needed for latest where several jobs have cuts")
}

// cut is the whole id of the cut that ref names, or ref itself without --job: what a command does of a name that the catalogue does not know is its own affair.
func (f *jobFlag) cut(ctx context.Context, c *orchestrator.Cluster, ref string) (string, error) {
	if f.job == "" {
		return ref, nil
	}
	cut, err := c.Catalogue.Cut(ctx, f.job, ref)
	return cut.ID, err
}

func (a *app) showCut(c store.Cut) error {
	fmt.Fprintf(a.stdout, "cut %s of job %s, epoch %d, %s%s\n", c.ID, c.Job, c.Epoch, c.Time.Local().Format(time.RFC1123), fault.Field(labelled(c)))
	fmt.Fprintf(a.stdout, "%s of images, %s in transit, all running again after %s, CRIU %s\n\n", size(c.Bytes()), size(c.InTransit()), ms(c.TotalMs), c.CRIUVersion)
	doc := report.CutOf("ss/cut/1", c)
	if err := a.table(doc.MemberTable()); err != nil {
		return err
	}
	for _, m := range doc.Members {
		for _, why := range m.Memory.Left {
			fmt.Fprintf(a.stdout, "%s: its memory was copied while it stood still: %s\n", m.Name, fault.Printable(why))
		}
	}
	fmt.Fprintln(a.stdout)
	if err := a.table(doc.ChannelTable()); err != nil {
		return err
	}
	if len(doc.Ends) > 0 {
		fmt.Fprintln(a.stdout)
		if err := a.table(doc.EndTable()); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.stdout)
	return a.table(doc.HostTable())
}

func labelled(c store.Cut) string {
	s := ""
	if c.Stopped {
		s = ", stopped with it"
	}
	if c.Pinned {
		s += ", pinned"
	}
	if c.Label != "" {
		s += ", " + c.Label
	}
	return s
}
