package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ss/orchestrator"
	"ss/orchestrator/upkeep"
	"ss/report"
)

func (a *app) verifyCommand() *cobra.Command {
	var opt upkeep.VerifyOptions
	var of jobFlag
	cmd := &cobra.Command{
		Use: "verify CUT|latest", Short: "Read every byte of every copy of a cut, and check its channels again", Args: args(1, 1),
		Long: "verify reads every object of every copy of a cut, on hosts and in vaults, compares it with its SHA-256, and checks from the images that no\n" +
			"byte of a connection is lost or duplicated. With --read-data every page is decrypted, unpacked and compared with its name as well.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) (err error) {
				if opt.Cut, err = of.cut(ctx, c, argv[0]); err != nil {
					return err
				}
				res, err := upkeep.Verify(ctx, c, opt)
				a.screen.finish()
				if err == nil || !a.json() && len(res.Copies) > 0 {
					if serr := a.showVerified(res, opt.ReadData, err == nil); serr != nil {
						return serr
					}
				}
				return err
			})
		},
	}
	of.add(cmd)
	cmd.Flags().BoolVar(&opt.ReadData, "read-data", false, "decode every page of the images as well")
	return cmd
}

func (a *app) showVerified(res upkeep.VerifyResult, readData, whole bool) error {
	doc := report.VerifiedOf(res, readData)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.Table()); err != nil || !whole {
		return err
	}
	if len(res.Unchecked) > 0 {
		_, err := fmt.Fprintf(a.stdout, "%s is whole; its channels were not checked, for only vaults hold the images of %s: ssctl repair brings them to a host\n",
			res.Cut.ID, strings.Join(res.Unchecked, ", "))
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s is whole, and its %d channels are consistent\n", res.Cut.ID, res.Channels)
	return err
}

func (a *app) rmCommand() *cobra.Command {
	var force bool
	var of jobFlag
	cmd := &cobra.Command{
		Use: "rm CUT|latest", Short: "Remove a cut and its images, on hosts and in vaults", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				ref, err := of.cut(ctx, c, argv[0])
				if err != nil {
					return err
				}
				cut, err := c.Remove(ctx, ref, force)
				if err != nil {
					return err
				}
				return a.say(report.CutRemoved{Schema: "ss/rm/1", Cut: cut.ID}, "%s is removed\n", cut.ID)
			})
		},
	}
	of.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also if it is pinned; with a whole id, also images that the catalogue has no cut of")
	return cmd
}
