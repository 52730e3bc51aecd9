package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ss/api/identity"
	"ss/orchestrator"
	"ss/store"
)

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Make the cluster's folder: its authority, your admin identity, its catalogue", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			// The catalogue comes last: where it is, the rest is there as well.
			if _, err := os.Stat(filepath.Join(a.dir, "ca.key")); err == nil {
				return fmt.Errorf("%s holds a cluster already: choose another folder with --dir: %w", a.dir, store.ErrConflict)
			}
			authority, err := identity.CreateAuthority(a.dir)
			if err != nil {
				return err
			}
			admin, err := authority.Issue(identity.RoleAdmin, "admin")
			if err != nil {
				return err
			}
			if err := admin.Write(a.dir, "admin"); err != nil {
				return err
			}
			cat, err := store.Create(a.dir, store.Cluster{ID: authority.Cluster()})
			if err != nil {
				return err
			}
			defer cat.Close()
			return a.say(map[string]any{"schema": "ss/init/1", "cluster": authority.Cluster(), "dir": a.dir},
				"cluster %s is in %s: keep that folder safe, it holds the cluster's keys\nnext: ssctl host add NAME --addr IP:7070 --bundle DIR, for each host\n", authority.Cluster(), a.dir)
		},
	}
}

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
		RunE: func(_ *cobra.Command, argv []string) error {
			if addr == "" || bundle == "" {
				return usage("--addr and --bundle are needed")
			}
			if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
				return usage("--addr takes IP:PORT, not %q", addr)
			}
			return a.addHost(argv[0], addr, bundle)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "", "where the agent listens, IP:PORT")
	cmd.Flags().StringVar(&bundle, "bundle", "", "folder to write the bundle to; copy it to the host as /etc/ss")
	return cmd
}

func (a *app) addHost(name, addr, bundle string) error {
	cat, err := store.Open(a.dir)
	if err != nil {
		return err
	}
	defer cat.Close()
	authority, err := identity.LoadAuthority(a.dir)
	if err != nil {
		return err
	}
	if err := cat.AddHost(store.Host{Name: name, Addr: addr}); err != nil {
		return err
	}
	if err := writeBundle(authority, name, addr, bundle); err != nil {
		return errors.Join(err, cat.RemoveHost(name))
	}
	return a.say(map[string]any{"schema": "ss/host-add/1", "host": name, "addr": addr, "bundle": bundle},
		"%s is registered at %s; its bundle is in %s\nnext: copy that folder to %s as /etc/ss (0700) and start ssagent there\n", name, addr, bundle, name)
}

func writeBundle(authority *identity.Authority, name, addr, dir string) error {
	b, err := authority.Issue(identity.RoleAgent, name)
	if err != nil {
		return err
	}
	if err := b.Write(dir, "agent"); err != nil {
		return err
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
	return os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(yaml), 0o600)
}

func (a *app) hostRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Forget a host that has no members", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(_ context.Context, c *orchestrator.Cluster) error {
				if err := c.Catalogue.RemoveHost(argv[0]); err != nil {
					return err
				}
				return a.say(map[string]any{"schema": "ss/host-rm/1", "host": argv[0]}, "%s is forgotten\n", argv[0])
			})
		},
	}
}

type hostJSON struct {
	Host      string   `json:"host"`
	Addr      string   `json:"addr"`
	Reachable bool     `json:"reachable"`
	Version   string   `json:"version,omitempty"`
	Kernel    string   `json:"kernel,omitempty"`
	Addrs     []string `json:"addrs,omitempty"`
	CRIU      string   `json:"criu"`
	Gate      string   `json:"gate"`
	FreeBytes int64    `json:"free_bytes"`
	Error     string   `json:"error,omitempty"`
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Ask every host: reachable, versions, CRIU usable or why not", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				hosts, err := c.Hosts(ctx)
				if err != nil {
					return err
				}
				return a.showHosts(hosts)
			})
		},
	}
}

func (a *app) showHosts(hosts []orchestrator.HostStatus) error {
	out := []hostJSON{}
	rows := [][]string{{"HOST", "ADDR", "STATE", "VERSION", "KERNEL", "CRIU", "GATE", "FREE"}}
	var problems []string
	for _, h := range hosts {
		j := hostJSON{Host: h.Name, Addr: h.Addr, Reachable: h.Err == nil, Version: h.Info.Version, Kernel: h.Info.Kernel,
			CRIU: h.Info.CRIU, Gate: h.Info.Gate, FreeBytes: h.Info.FreeBytes}
		for _, ad := range h.Info.Addrs {
			j.Addrs = append(j.Addrs, ad.String())
		}
		state, criu := "up", h.Info.CRIU
		if h.Err != nil {
			state, j.Error = "unreachable", h.Err.Error()
		} else if h.Info.CRIUError != "" {
			criu, j.Error = "unusable", h.Info.CRIUError
		}
		if j.Error != "" {
			problems = append(problems, h.Name+": "+j.Error)
		}
		out = append(out, j)
		rows = append(rows, []string{h.Name, h.Addr, state, j.Version, j.Kernel, criu, j.Gate, size(j.FreeBytes)})
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/host-list/1", "hosts": out})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(a.stdout, strings.TrimSpace(p))
	}
	return nil
}
