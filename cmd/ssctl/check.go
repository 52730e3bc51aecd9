package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/report"
)

func (a *app) checkCommand() *cobra.Command {
	var opt orchestrator.CheckOptions
	var remap, remapAddr []string
	cmd := &cobra.Command{
		Use: "check JOB", Short: "List what would make a snapshot of a job, or a restore on other hosts, fail", Args: args(1, 1),
		Long: "check examines a running job as snapshot does before it freezes anything, on all hosts at once, and prints every problem found. With --remap it also compares the\n" +
			"members with the hosts that they would go to, as restore does. It stops no member. What the hosts say of their members goes into the\n" +
			"catalogue, as with ps. The exit code is 0 if no problem was found, and 4 otherwise.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.Job = argv[0]
			var err error
			if opt.Remap, err = parseRemap(remap); err != nil {
				return err
			}
			if opt.RemapAddr, err = parseRemapAddr(remapAddr); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				res, err := c.Check(ctx, opt)
				a.screen.finish()
				if err == nil || fault.Is(err, fault.Refused) && len(res.Hosts) > 0 {
					if perr := a.showCheck(res); perr != nil {
						return perr
					}
				}
				return err
			})
		},
	}
	cmd.Flags().StringArrayVar(&remap, "remap", nil, "hostA=hostC: compare hostA's members with hostC as well; may be repeated")
	cmd.Flags().StringArrayVar(&remapAddr, "remap-addr", nil, "OLD=NEW: connections that have the address OLD would get NEW, an address of the target; may be repeated")
	cmd.Flags().BoolVar(&opt.Holdings, "inventory", false, "list what each member holds that CRIU does not put back by itself, as JSON")
	return cmd
}

func (a *app) showCheck(res orchestrator.CheckResult) error {
	doc := report.CheckOf(res)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.HostTable()); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	if err := a.table(doc.MemberTable()); err != nil {
		return err
	}
	for _, m := range doc.Members {
		if m.Holdings == nil {
			continue
		}
		var b bytes.Buffer
		if err := json.Indent(&b, m.Holdings, "", "  "); err != nil {
			return fmt.Errorf("the inventory of %s: %w", m.Name, err)
		}
		fmt.Fprintf(a.stdout, "\n%s holds:\n", m.Name)
		for line := range strings.Lines(b.String()) {
			fmt.Fprintln(a.stdout, fault.Printable(strings.TrimSuffix(line, "\n")))
		}
	}
	if len(doc.Problems) == 0 {
		fmt.Fprintln(a.stdout, "\nno problems found")
	}
	return nil
}
