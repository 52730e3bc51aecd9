package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"ss/fault"
	"ss/names"
	"ss/orchestrator"
	"ss/orchestrator/remote"
	"ss/orchestrator/upkeep"
	"ss/report"
	"ss/store"
)

func (a *app) exportCommand() *cobra.Command {
	var opt orchestrator.ExportOptions
	var of jobFlag
	cmd := &cobra.Command{
		Use: "export CUT|latest FILE", Short: "Write a cut into one file, to import it elsewhere or to examine it", Args: args(2, 2),
		Long: "export writes a cut into a tar. Unpacked, sha256sum -c SHA256SUMS checks it, HOST/MEMBER/checkpoint holds CRIU's images, which crit reads, and\n" +
			"a tar of HOST/MEMBER is a container's checkpoint to checkpointctl. The file holds the memory of programs: give --recipient to encrypt it with age.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.File = argv[1]
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) (err error) {
				if opt.Cut, err = of.cut(ctx, c, argv[0]); err != nil {
					return err
				}
				res, err := c.Export(ctx, opt)
				if err != nil {
					return err
				}
				a.screen.finish()
				if len(opt.Recipients) == 0 {
					a.screen.notice(opt.File + " is not encrypted, and holds the memory of programs with all their secrets; --recipient encrypts it")
				}
				return a.say(report.Exported{Schema: "ss/export/1", Cut: res.Cut.ID, Job: res.Cut.Job, File: opt.File, Files: res.Files, Bytes: res.Bytes,
					Encrypted: len(opt.Recipients) > 0}, "%s is in %s: %d files, %s\n", res.Cut.ID, opt.File, res.Files, size(res.Bytes))
			})
		},
	}
	of.add(cmd)
	cmd.Flags().StringArrayVar(&opt.Recipients, "recipient", nil, "age1…: encrypt the file to it; may be repeated")
	return cmd
}

func (a *app) importCommand() *cobra.Command {
	var opt orchestrator.ImportOptions
	var hosts []string
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Make a cut from a file that export wrote, here or in another cluster", Args: args(1, 1),
		Long: "import checks every byte of the file and makes a cut of it, and the job, if no job has that name. The images of each host go to the host of\n" +
			"the same name, or where --host says, or where there is the most room. Then restore it with ssctl restore CUT --remap FROM=TO.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.File = argv[0]
			var err error
			if opt.Hosts, err = parsePairs("--host", "", hosts); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				res, err := c.Import(ctx, opt)
				if err != nil {
					return err
				}
				a.screen.finish()
				return a.showImported(res)
			})
		},
	}
	cmd.Flags().StringVar(&opt.Job, "job", "", "name of the job here (default: as it was)")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "FROM=TO: images of FROM go to host TO; may be repeated")
	return cmd
}

func (a *app) showImported(res orchestrator.ImportResult) error {
	remap := ""
	for _, from := range slices.Sorted(maps.Keys(res.Targets)) {
		if to := res.Targets[from]; to != from {
			remap += fmt.Sprintf(" --remap %s=%s", from, to)
		}
	}
	doc := report.ImportedOf(res)
	return a.say(doc, "%s of job %s is here: %d members, %s of images\nnext: ssctl restore %s%s\n",
		res.Cut.ID, res.Cut.Job, len(doc.Members), size(doc.Bytes), res.Cut.ID, remap)
}

func (a *app) catalogCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "catalog", Short: "Rebuild a lost, old or damaged catalogue", Args: args(0, 0), RunE: func(*cobra.Command, []string) error {
		return usage("usage: ssctl catalog rebuild")
	}}
	cmd.AddCommand(a.catalogRebuild())
	return cmd
}

func (a *app) catalogRebuild() *cobra.Command {
	var hosts, vaults []string
	var replace bool
	cmd := &cobra.Command{
		Use: "rebuild --host NAME=IP:PORT", Short: "Rebuild the catalogue from what hosts and vaults hold", Args: args(0, 0),
		Long: "rebuild asks the hosts given for the signed manifests that they hold of cuts, finds the other hosts and the vaults in them, asks these as well, and\n" +
			"writes a new catalogue. The folder needs admin.crt, admin.key and ca.crt; images.key opens the images later. With --replace, a catalogue that is\n" +
			"there, old or damaged, is put aside, and what can be read of it is taken in, its hosts at least; --host is then needed only if none is found.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(hosts) == 0 && !replace {
				return usage("--host is needed, at least once: vaults are reached by way of a host, too")
			}
			begin, err := parseHosts(hosts)
			if err != nil {
				return err
			}
			if err := checkVaults(vaults); err != nil {
				return err
			}
			return a.rebuild(cmd.Context(), begin, vaults, replace)
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "NAME=IP:PORT of a host to ask; may be repeated")
	cmd.Flags().StringArrayVar(&vaults, "vault", nil, "URL of a vault to ask; may be repeated")
	cmd.Flags().BoolVar(&replace, "replace", false, "put the catalogue that is there aside, and take in what can be read of it")
	return cmd
}

func parseHosts(pairs []string) ([]store.Host, error) {
	var out []store.Host
	seen := map[string]bool{}
	for _, p := range pairs {
		name, addr, ok := strings.Cut(p, "=")
		if err := errors.Join(names.Check("host", name), store.CheckAddr(addr)); !ok || err != nil {
			return nil, usage("--host takes NAME=IP:PORT, not %q: %v", p, err)
		}
		if seen[name] {
			return nil, usage("--host names %s twice", name)
		}
		seen[name] = true
		out = append(out, store.Host{Name: name, Addr: addr})
	}
	return out, nil
}

func (a *app) rebuild(ctx context.Context, hosts []store.Host, vaults []string, replace bool) error {
	creds, err := a.credentials()
	if err != nil {
		return err
	}
	dialer := remote.NewDialer(creds)
	defer dialer.Close()
	ctx, cancel := a.limited(ctx)
	defer cancel()
	b := upkeep.Rebuilder{Place: upkeep.Folder(a.dir), Where: a.where(), Dial: dialer.Dial, Verifier: creds, Statements: remote.Statements{Credentials: creds}, Replace: replace, Progress: a.screen.progress, Notice: a.screen.notice, Hosts: hosts, Vaults: vaults}
	res, err := b.Rebuild(ctx)
	a.screen.finish()
	if err != nil {
		for _, r := range res.Remarks {
			a.screen.notice(r)
		}
		if ctx.Err() != nil && !fault.Is(err, fault.Interrupted) {
			err = &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "nothing was written"}
		}
		return err
	}
	if !a.json() {
		if err := a.showCuts(res.Rebuilt.Cuts); err != nil {
			return err
		}
		for _, r := range res.Remarks {
			fmt.Fprintln(a.stdout, fault.Printable(r))
		}
		if res.Aside != "" {
			fmt.Fprintf(a.stdout, "the catalogue that was there is now %s\n", res.Aside)
		}
		_, err = fmt.Fprintf(a.stdout, "the catalogue in %s knows %s, %s, %s\n", a.dir,
			english.Plural(len(res.Rebuilt.Hosts), "host", ""), english.Plural(len(res.Rebuilt.Jobs), "job", ""), english.Plural(len(res.Rebuilt.Cuts), "cut", ""))
		return err
	}
	return a.print(report.Rebuilt{Schema: "ss/catalog-rebuild/1", Hosts: len(res.Rebuilt.Hosts), Jobs: len(res.Rebuilt.Jobs), Cuts: report.CutsOf(res.Rebuilt.Cuts).Cuts,
		Remarks: some(res.Remarks), Asked: some(res.Asked), Aside: res.Aside})
}
