package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"ss/orchestrator"
	"ss/report"
)

func (a *app) restoreCommand() *cobra.Command {
	var opt orchestrator.RestoreOptions
	var remap, remapAddr []string
	var of jobFlag
	cmd := &cobra.Command{
		Use: "restore CUT|latest", Short: "Restore a cut: the whole job, or nothing", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.Cut, opt.Job = argv[0], of.job
			var err error
			if opt.Remap, err = parseRemap(remap); err != nil {
				return err
			}
			if opt.RemapAddr, err = parseRemapAddr(remapAddr); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				res, err := c.Restore(ctx, opt)
				a.screen.finish()
				if opt.DryRun && res.Plan.Cut.ID != "" {
					if perr := a.showPlan(res.Plan); perr != nil {
						return perr
					}
				}
				if err != nil || opt.DryRun {
					return err
				}
				return a.showRestored(res)
			})
		},
	}
	of.add(cmd)
	cmd.Flags().StringArrayVar(&remap, "remap", nil, "hostA=hostC: hostA's part goes to hostC; may be repeated")
	cmd.Flags().StringArrayVar(&remapAddr, "remap-addr", nil, "OLD=NEW: connections that had the address OLD get NEW, an address of the target; may be repeated")
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "show the plan and every problem found, and touch nothing")
	return cmd
}

// parseRemap reads hostA=hostC pairs.
func parseRemap(pairs []string) (map[string]string, error) {
	return parsePairs("--remap", ": all members of a host go to one host", pairs)
}

// parsePairs reads what a flag that may be repeated says of hosts, each once. why is added where one is named twice.
func parsePairs(flag, why string, pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range pairs {
		from, to, ok := strings.Cut(p, "=")
		if !ok || from == "" || to == "" || strings.Contains(to, "=") {
			return nil, usage("%s takes hostA=hostC, not %q", flag, p)
		}
		if _, twice := out[from]; twice {
			return nil, usage("%s names %s twice%s", flag, from, why)
		}
		out[from] = to
	}
	return out, nil
}

// parseRemapAddr reads OLD=NEW pairs of addresses, each OLD once.
func parseRemapAddr(pairs []string) (map[netip.Addr]netip.Addr, error) {
	out := map[netip.Addr]netip.Addr{}
	for _, p := range pairs {
		old, to, _ := strings.Cut(p, "=")
		from, err1 := netip.ParseAddr(old)
		becomes, err2 := netip.ParseAddr(to)
		if err1 != nil || err2 != nil {
			return nil, usage("--remap-addr takes two addresses, 192.0.2.1=198.51.100.7, not %q", p)
		}
		from, becomes = from.Unmap(), becomes.Unmap()
		if _, twice := out[from]; twice {
			return nil, usage("--remap-addr names %s twice", from)
		}
		out[from] = becomes
	}
	return out, nil
}

func (a *app) showPlan(p orchestrator.RestorePlan) error {
	doc := report.RestorePlanOf(p)
	if a.json() {
		return a.print(doc)
	}
	fmt.Fprintf(a.stdout, "cut %s of job %s\n", doc.Cut, doc.Job)
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	for _, from := range slices.Sorted(maps.Keys(doc.Moved)) {
		fmt.Fprintf(a.stdout, "address %s becomes %s in every image\n", from, doc.Moved[from])
	}
	for _, from := range slices.Sorted(maps.Keys(doc.Aliases)) {
		fmt.Fprintf(a.stdout, "connections that members open to %s will go to %s\n", from, doc.Aliases[from])
	}
	if len(p.Problems) == 0 {
		fmt.Fprintln(a.stdout, "no problems found")
	}
	return nil
}

func (a *app) showRestored(res orchestrator.RestoreResult) error {
	doc := report.RestoredOf(res)
	if a.json() {
		return a.print(doc)
	}
	for _, p := range doc.Parts {
		word := "in place"
		if p.From != p.To {
			word = "from " + p.From
		}
		fmt.Fprintf(a.stdout, "%s: %s %s\n", p.To, english.Plural(len(p.Members), "member", ""), word)
	}
	_, err := fmt.Fprintf(a.stdout, "job %s runs again from %s, after %s\n", doc.Job, doc.Cut, report.Millis(doc.TotalMs))
	return err
}
