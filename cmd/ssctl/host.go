package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ss/api/identity"
	"ss/fault"
	"ss/orchestrator"
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
	return a.say(map[string]any{"schema": "ss/host-add/1", "host": name, "addr": addr, "bundle": bundle},
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
					return a.say(map[string]any{"schema": "ss/host-rm/1", "host": name, "lost": false, "cuts": []string{}},
						"%s is forgotten; if it held images, ssctl repair makes other copies of them\n", name)
				}
				cuts, err := c.LoseHost(ctx, name)
				if err != nil {
					return err
				}
				next := "%s is forgotten; it held images of no cut\n"
				if len(cuts) > 0 {
					next = fmt.Sprintf("%%s is forgotten; it held images of %d cut(s)\nnext: ssctl repair makes other copies of them\n", len(cuts))
				}
				return a.say(map[string]any{"schema": "ss/host-rm/1", "host": name, "lost": true, "cuts": some(cuts)}, next, name)
			})
		},
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "it is gone for good, with what it had")
	return cmd
}

type hostJSON struct {
	Host      string       `json:"host"`
	Addr      string       `json:"addr"`
	Reachable bool         `json:"reachable"`
	Version   string       `json:"version,omitempty"`
	Kernel    string       `json:"kernel,omitempty"`
	Addrs     []string     `json:"addrs,omitempty"`
	CRIU      string       `json:"criu"`
	Gate      string       `json:"gate"`
	Memory    string       `json:"memory"`
	MemoryWhy string       `json:"memory_reason"`
	FreeBytes int64        `json:"free_bytes"`
	Error     string       `json:"error,omitempty"`
	Damage    []damageJSON `json:"damage"`
	Unsettled []string     `json:"unsettled"` // jobs that were restored without the host and may have members there
	SetAside  []asideJSON  `json:"set_aside"`
}

type asideJSON struct {
	Job    string `json:"job"`
	File   string `json:"file"`
	Detail string `json:"detail"`
	Next   string `json:"next"`
}

type damageJSON struct {
	Job    string    `json:"job"`
	Object string    `json:"object"`
	Detail string    `json:"detail"`
	Found  time.Time `json:"found"`
	Healed bool      `json:"healed"`
}

func (d damageJSON) String() string {
	state := "ssctl repair heals it from another copy"
	if d.Healed {
		state = "healed from another copy"
	}
	return fmt.Sprintf("damaged object %s of job %s, found %s: %s; %s", d.Object, d.Job, d.Found.Local().Format("2006-01-02 15:04:05"), d.Detail, state)
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
	out := []hostJSON{}
	rows := [][]string{{"HOST", "ADDR", "STATE", "VERSION", "KERNEL", "CRIU", "GATE", "MEMORY", "FREE"}}
	var problems []string
	for _, h := range hosts {
		j := hostJSON{Host: h.Name, Addr: h.Addr, Reachable: h.Err == nil, Version: h.Info.Version, Kernel: h.Info.Kernel,
			CRIU: h.Info.CRIU, Gate: h.Info.Gate, FreeBytes: h.Info.FreeBytes, Damage: []damageJSON{}, SetAside: []asideJSON{}, Unsettled: []string{}}
		for _, ad := range h.Info.Addrs {
			j.Addrs = append(j.Addrs, ad.String())
		}
		state, criu := "up", h.Info.CRIU
		if h.Err != nil {
			state, j.Error = "unreachable", h.Err.Error()
		} else if h.Info.CRIUError != "" {
			criu, j.Error = "unusable", h.Info.CRIUError
		}
		j.Memory, j.MemoryWhy = memoryMode(h), h.Info.Memory
		if j.MemoryWhy != "" {
			problems = append(problems, h.Name+": memory is "+j.Memory+": "+j.MemoryWhy)
		}
		if j.Error != "" {
			problems = append(problems, h.Name+": "+j.Error)
		}
		for _, d := range h.Info.Damage {
			j.Damage = append(j.Damage, damageJSON{d.Job, d.Digest, d.Detail, d.Found, d.Healed})
			problems = append(problems, h.Name+": "+j.Damage[len(j.Damage)-1].String())
			if !d.Healed {
				state = "damaged"
			}
		}
		for _, sa := range h.Info.SetAside {
			j.SetAside = append(j.SetAside, asideJSON{sa.Job, sa.File, sa.Detail, sa.Next})
			problems = append(problems, fmt.Sprintf("%s: job %s is set aside: %s; %s", h.Name, sa.Job, sa.Detail, sa.Next))
			state = "damaged"
		}
		for _, u := range unsettled {
			if u.Host == h.Name {
				j.Unsettled = append(j.Unsettled, u.Job)
				problems = append(problems, h.Name+": "+u.String())
			}
		}
		out = append(out, j)
		rows = append(rows, []string{h.Name, h.Addr, state, j.Version, j.Kernel, criu, j.Gate, j.Memory, size(j.FreeBytes)})
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/host-list/1", "hosts": out})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(a.stdout, fault.Printable(strings.TrimSpace(p)))
	}
	return nil
}

// memoryMode says how a host copies the memory of members; nothing where nobody knows.
func memoryMode(h orchestrator.HostStatus) string {
	switch {
	case h.Err != nil:
		return ""
	case h.Info.Memory != "":
		return "copied while frozen"
	}
	return "tracked"
}
