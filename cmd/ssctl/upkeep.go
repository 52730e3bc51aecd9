package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/upkeep"
)

func (a *app) repairCommand() *cobra.Command {
	var opt upkeep.RepairOptions
	cmd := &cobra.Command{
		Use: "repair [JOB|CUT]", Short: "Bring cuts back to their copies: heal what is damaged, copy what lacks copies", Args: args(0, 1),
		Long: "repair has every host and vault look through what it holds of the cuts, heals what is damaged from another copy, and makes new copies\n" +
			"where there are fewer than the job wants. A host that does not answer is not known to hold anything: a part that needs its copy is unconfirmed,\n" +
			"and repair fails. No other copy is made in its place before you say that it is gone for good, with ssctl host rm HOST --lost.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			if len(argv) == 1 {
				opt.Of = argv[0]
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
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
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "say which copies would be made, and touch nothing; what is damaged is found by repair itself, or by verify")
	return cmd
}

type repairedJSON struct {
	Cut    string   `json:"cut"`
	Job    string   `json:"job"`
	Host   string   `json:"host"`
	State  string   `json:"state"`
	Copies []string `json:"copies"`
	Vaults []string `json:"vaults"`
	Silent []string `json:"silent"`
	Done   []string `json:"done"`
	Faults []string `json:"faults"`
}

// answering lists those of holders that answer.
func answering(holders, silent []string) []string {
	return slices.DeleteFunc(some(holders), func(h string) bool { return slices.Contains(silent, h) })
}

func copiesOn(p upkeep.RepairedPart) string {
	var on []string
	for _, h := range append(some(p.Copies), p.Vaults...) {
		if slices.Contains(p.Silent, h) {
			h += " (silent)"
		}
		on = append(on, h)
	}
	return dash(strings.Join(on, ","))
}

func (a *app) showRepaired(parts []upkeep.RepairedPart, dry bool) error {
	out := []repairedJSON{}
	rows := [][]string{{"CUT", "JOB", "IMAGES OF", "STATE", "COPIES ON", "DONE"}}
	if dry {
		rows[0][3], rows[0][5] = "WOULD BE", "TO DO"
	}
	var faults []string
	for _, p := range parts {
		out = append(out, repairedJSON{p.Key.Snapshot, p.Key.Job, p.Key.Host, string(p.State), answering(p.Copies, p.Silent), answering(p.Vaults, p.Silent), some(p.Silent), some(p.Done), some(p.Faults)})
		rows = append(rows, []string{p.Key.Snapshot, p.Key.Job, p.Key.Host, string(p.State), copiesOn(p), dash(strings.Join(p.Done, ", "))})
		for _, f := range p.Faults {
			faults = append(faults, fmt.Sprintf("%s, images of %s: %s", p.Key.Snapshot, p.Key.Host, f))
		}
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/repair/1", "dry_run": dry, "parts": out})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, f := range faults {
		fmt.Fprintln(a.stdout, fault.Printable(f))
	}
	return nil
}

func (a *app) gcCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove what no cut needs: by retention, left behind, or referred to by nothing", Args: args(0, 0),
		Long: "gc removes the cuts that no rule of their job keeps, image sets that belong to no cut, and objects that no image set refers to, on all hosts\n" +
			"that answer and in all vaults. It runs beside snapshots; a vault is left alone for a job that has one on.",
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
	type placeJSON struct {
		Where   string   `json:"where"`
		Vault   bool     `json:"vault"`
		Job     string   `json:"job,omitempty"`
		Sets    []string `json:"sets"`
		Objects int      `json:"objects"`
		Bytes   int64    `json:"bytes"`
		Skipped string   `json:"skipped,omitempty"`
	}
	places, expired := []placeJSON{}, []string{}
	rows := [][]string{{"WHERE", "JOB", "SETS", "OBJECTS", "SIZE"}}
	for _, p := range res.Places {
		places = append(places, placeJSON{p.Where, p.Vault, p.Job, some(p.Sets), p.Objects, p.Bytes, p.Skipped})
		rows = append(rows, []string{p.Where, dash(p.Job), fmt.Sprint(len(p.Sets)), fmt.Sprint(p.Objects), size(p.Bytes)})
	}
	for _, cut := range res.Expired {
		expired = append(expired, cut.ID)
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/gc/1", "dry_run": dry, "expired": expired, "places": places})
	}
	word := "removed"
	if dry {
		word = "to be removed"
	}
	if len(expired) > 0 {
		fmt.Fprintf(a.stdout, "cuts %s by retention: %s\n", word, strings.Join(expired, ", "))
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, p := range places {
		if p.Skipped != "" {
			fmt.Fprintf(a.stdout, "skipped %s: %s\n", strings.TrimSpace(p.Where+" "+p.Job), fault.Field(p.Skipped))
		}
	}
	return nil
}

func (a *app) dfCommand() *cobra.Command {
	return &cobra.Command{
		Use: "df [JOB]", Short: "Show what images take: logical, stored, on each host and in each vault", Args: args(0, 1),
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

type usageJSON struct {
	Where   string  `json:"where"`
	Vault   bool    `json:"vault"`
	Job     string  `json:"job"`
	Sets    int     `json:"sets"`
	Logical int64   `json:"logical_bytes"`
	Stored  int64   `json:"stored_bytes"`
	Ratio   float64 `json:"ratio"`
}

// ratio is how many bytes of files a stored byte stands for; 0 if nothing is stored.
func ratio(logical, stored int64) float64 {
	if stored == 0 {
		return 0
	}
	return float64(logical) / float64(stored)
}

func (u usageJSON) row() []string {
	r := "-"
	if u.Stored > 0 {
		r = fmt.Sprintf("%.2f", u.Ratio)
	}
	return []string{u.Where, u.Job, fmt.Sprint(u.Sets), size(u.Logical), size(u.Stored), r}
}

func (a *app) showUsage(u upkeep.Usage) error {
	usage, free := []usageJSON{}, map[string]int64{}
	rows := [][]string{{"WHERE", "JOB", "SETS", "LOGICAL", "STORED", "RATIO", "FREE"}}
	total := usageJSON{Where: "total"}
	for _, p := range u.Places {
		room := "-"
		if !p.Vault {
			free[p.Where] = p.Free
			room = size(p.Free)
		}
		if len(p.Jobs) == 0 {
			rows = append(rows, []string{p.Where, "-", "0", size(0), size(0), "-", room})
		}
		for _, j := range p.Jobs {
			line := usageJSON{p.Where, p.Vault, j.Job, j.Sets, j.Logical, j.Stored, ratio(j.Logical, j.Stored)}
			usage = append(usage, line)
			rows = append(rows, append(line.row(), room))
			total.Sets, total.Logical, total.Stored = total.Sets+j.Sets, total.Logical+j.Logical, total.Stored+j.Stored
		}
	}
	total.Ratio = ratio(total.Logical, total.Stored)
	silent := map[string]string{}
	for where, err := range u.Silent {
		silent[where] = err.Error()
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/df/1", "usage": usage, "free_bytes": free, "unreachable": silent,
			"total": map[string]any{"sets": total.Sets, "logical_bytes": total.Logical, "stored_bytes": total.Stored, "ratio": total.Ratio}})
	}
	total.Job = "-"
	if err := a.table(append(rows, append(total.row(), "-"))); err != nil {
		return err
	}
	for where, text := range silent {
		a.screen.notice(where + ": " + text)
	}
	return nil
}
