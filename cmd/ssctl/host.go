package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"ss/api/identity"
	"ss/fault"
	"ss/orchestrator"
	"ss/report"
	"ss/store"
)

func (a *app) hostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "Register, list and remove hosts", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		return usage("usage: ssctl host add|list|rm")
	}}
	cmd.AddCommand(a.hostAdd(), a.hostList(), a.hostRemove())
	return cmd
}

func (a *app) hostAdd() *cobra.Command {
	var addr, bundle string
	cmd := &cobra.Command{
		Use: "add NAME --addr IP:PORT --bundle DIR", Short: "Register a host and write its agent's configuration, key and certificates", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if addr == "" || bundle == "" {
				return usage("--addr and --bundle are needed")
			}
			if err := store.CheckAddr(addr); err != nil {
				return usage("--addr: %v", err)
			}
			return a.addHost(cmd.Context(), argv[0], addr, bundle)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "", "where the agent listens, IP:PORT")
	cmd.Flags().StringVar(&bundle, "bundle", "", "folder to write the bundle to; copy it to the host as /etc/ss")
	return cmd
}

func (a *app) addHost(ctx context.Context, name, addr, bundle string) error {
	cat, err := store.Open(ctx, a.dir)
	if err != nil {
		return err
	}
	defer cat.Close()
	cat.Where = a.where()
	authority, err := identity.LoadAuthority(a.dir)
	if err != nil {
		return err
	}
	if err := cat.AddHost(ctx, store.Host{Name: name, Addr: addr}); err != nil {
		return err
	}
	serial, err := writeBundle(authority, name, addr, bundle)
	if err == nil {
		err = cat.CertifyHost(ctx, name, serial)
	}
	if err != nil {
		return errors.Join(err, cat.RemoveHost(ctx, name))
	}
	return a.say(report.HostAdded{Schema: "ss/host-add/1", Host: name, Addr: addr, Bundle: bundle},
		"%s is registered at %s; its bundle is in %s\nnext: copy that folder to %s as /etc/ss (0700) and start ssagent there\n", name, addr, bundle, name)
}

// writeBundle writes what an agent needs, and returns the serial number of its certificate.
func writeBundle(authority *identity.Authority, name, addr, dir string) (string, error) {
	b, err := authority.Issue(identity.RoleAgent, name)
	if err != nil {
		return "", err
	}
	serial, err := b.Serial()
	if err == nil {
		err = b.Write(dir, "agent")
	}
	if err != nil {
		return "", err
	}
	yaml := fmt.Sprintf(`# Written by ssctl host add. Paths without a leading / count from this folder.
host: %s
listen: %q
cert: agent.crt
key: agent.key
ca: ca.crt
# state_dir: /var/lib/ss            images and journal; on a disk with room for the members' memory
# criu: /opt/ss/criu/bin/criu       default: that one where it is, else criu
# cgroup: ss                        folder below the cgroup mount that holds the members
`, name, addr)
	return serial, os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(yaml), 0o600)
}

func (a *app) hostRemove() *cobra.Command {
	var lost bool
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Forget a host that has no members, or with --lost one that is gone for good", Args: args(1, 1),
		Long: "rm forgets a host. One that has members, or alone holds images of a cut, is refused. With --lost it is forgotten all the same, with its\n" +
			"members and its copies of images: it must never come back. ssctl repair then makes other copies.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				name := argv[0]
				if !lost {
					if err := c.RemoveHost(ctx, name); err != nil {
						return err
					}
					return a.say(report.HostRemoved{Schema: "ss/host-rm/1", Host: name, Cuts: []string{}},
						"%s is forgotten; if it held images, ssctl repair makes other copies of them\n", name)
				}
				cuts, err := c.LoseHost(ctx, name)
				if err != nil {
					return err
				}
				next := "%s is forgotten; it held images of no cut\n"
				if len(cuts) > 0 {
					next = fmt.Sprintf("%%s is forgotten; it held images of %s\nnext: ssctl repair makes other copies of them\n", english.Plural(len(cuts), "cut", ""))
				}
				return a.say(report.HostRemoved{Schema: "ss/host-rm/1", Host: name, Lost: true, Cuts: some(cuts)}, next, name)
			})
		},
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "it is gone for good, with what it had")
	return cmd
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Ask every host: reachable, versions, CRIU usable or why not, images damaged", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				hosts, err := c.Hosts(ctx)
				if err != nil {
					return err
				}
				unsettled, err := c.Unsettled(ctx, "")
				if err != nil {
					return err
				}
				return a.showHosts(hosts, unsettled)
			})
		},
	}
}

func (a *app) showHosts(hosts []orchestrator.HostStatus, unsettled []orchestrator.Unsettled) error {
	doc := report.HostsOf(hosts, unsettled)
	if a.json() {
		return a.print(doc)
	}
	if err := a.table(doc.Table()); err != nil {
		return err
	}
	for _, p := range doc.Problems() {
		fmt.Fprintln(a.stdout, fault.Printable(strings.TrimSpace(p)))
	}
	return nil
}
