package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/upkeep"
	"ss/report"
)

func (a *app) repairCommand() *cobra.Command {
	var opt upkeep.RepairOptions
	var of jobFlag
	cmd := &cobra.Command{
		Use: "repair [JOB|CUT|latest]", Short: "Restore missing or damaged copies of cuts", Args: args(0, 1),
		Long: "repair has every host and vault look through what it holds of the cuts, heals what is damaged from another copy, and makes new copies\n" +
			"where there are fewer than the job wants. Nobody knows what a silent host holds, so a part that needs its copy counts as unconfirmed,\n" +
			"and repair fails. No other copy is made in its place before you say that it is gone for good, with ssctl host rm HOST --lost.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			if len(argv) == 0 && of.job != "" {
				return usage("--job says of which job a cut is: name the cut, or the job alone, as in ssctl repair %s", of.job)
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) (err error) {
				if len(argv) == 1 {
					if opt.Of, err = of.cut(ctx, c, argv[0]); err != nil {
						return err
					}
				}
				parts, err := upkeep.Repair(ctx, c, opt)
				a.screen.finish()
				if parts != nil {
					if serr := a.showRepaired(parts, opt.DryRun); serr != nil {
						return serr
					}
				}
				return err
			})
		},
	}
	of.add(cmd)
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "say which copies would be made, and touch nothing; what is damaged is found by repair itself, or by verify")
	return cmd
}

func (a *app) showRepaired(parts []upkeep.RepairedPart, dry bool) error {
	doc := report.RepairedOf(parts, dry)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	for _, f := range doc.Problems() {
		fmt.Fprintln(a.stdout, fault.Printable(f))
	}
	return nil
}

func (a *app) gcCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove what no cut needs: by retention, left behind, or referred to by nothing", Args: args(0, 0),
		Long: "gc removes the cuts that no rule of their job keeps, image sets that belong to no cut, and objects that no image set refers to, on all hosts\n" +
			"that answer and in all vaults. It runs beside snapshots, but leaves a vault alone while a snapshot of its job runs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				res, err := upkeep.GC(ctx, c, dry)
				a.screen.finish()
				if err != nil && len(res.Places) == 0 {
					return err
				}
				if serr := a.showCollected(res, dry); serr != nil {
					return serr
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and remove nothing; objects that only those cuts and sets need are not counted")
	return cmd
}

func (a *app) showCollected(res upkeep.GCResult, dry bool) error {
	doc := report.CollectedOf(res, dry)
	if a.json() {
		return a.print(doc)
	}
	word := "removed"
	if dry {
		word = "to be removed"
	}
	if len(doc.Expired) > 0 {
		fmt.Fprintf(a.stdout, "cuts %s by retention: %s\n", word, strings.Join(doc.Expired, ", "))
	}
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	for _, p := range doc.Places {
		if p.Skipped != "" {
			fmt.Fprintf(a.stdout, "skipped %s: %s\n", strings.TrimSpace(p.Where+" "+p.Job), fault.Field(p.Skipped))
		}
	}
	return nil
}

func (a *app) dfCommand() *cobra.Command {
	return &cobra.Command{
		Use: "df [JOB]", Short: "Show how much space images take: logical, stored, on each host and in each vault", Args: args(0, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			job := strings.Join(argv, "")
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				u, err := upkeep.UsageOf(ctx, c, job)
				if err != nil {
					return err
				}
				return a.showUsage(u)
			})
		},
	}
}

func (a *app) showUsage(u upkeep.Usage) error {
	doc := report.UsageOf(u)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	a.silent(doc.Unreachable)
	return nil
}
