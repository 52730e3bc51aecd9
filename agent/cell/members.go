package cell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"ss/agent"
	"ss/agent/proc"
	"ss/store/sealed"
)

// Members lists what lives on this host, ended members too until Forget, by job and name. It reads
// everything again, so it does not matter which agent started them. A member whose cell waits for a
// restore is running and has the Pid 0.
func (g *Manager) Members(ctx context.Context) ([]agent.Member, error) {
	recs, err := g.records()
	if err != nil {
		return nil, err
	}
	out := make([]agent.Member, 0, len(recs))
	for _, r := range recs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := g.inspect(r)
		if errors.Is(err, sealed.ErrDamaged) || errors.Is(err, sealed.ErrUnknownVersion) {
			// Whether it lives is not known. It must not keep the others from being found.
			m.State, m.Exit, m.Pid, err = agent.Aside, err.Error(), 0, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look at member %s/%s: %w", r.Job, r.Name, err)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b agent.Member) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (g *Manager) record(m agent.Member) (record, error) {
	var r record
	err := readState(g.dir(m.Job, m.Name), memberFile, &r)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrUnknown
	}
	return r, err
}

// AwaitEnd returns m as it is when its whole tree has ended, or when ctx ends, which is not an error. Of an attached tree, which has no cell,
// it returns at once.
func (g *Manager) AwaitEnd(ctx context.Context, m agent.Member) (agent.Member, error) {
	r, err := g.record(m)
	if err != nil {
		return m, err
	}
	var init proc.Identity
	if err := ifThere(readState(g.dir(m.Job, m.Name), initFile, &init)); err != nil {
		return m, err
	}
	if init.Pid > 0 {
		if err := init.AwaitEnd(ctx); err != nil && ctx.Err() == nil {
			return m, err
		}
	}
	return g.inspect(r)
}

// inspect is what can be said of a member now.
func (g *Manager) inspect(r record) (agent.Member, error) {
	gr := g.cg.group(r.Job, r.Name)
	m := agent.Member{
		Job: r.Job, Name: r.Name, Command: r.Command, Env: r.Env, Dir: r.Dir, Log: r.Log, Folders: r.Folders, Aliases: r.Aliases, Names: r.Names, MemoryFrozen: r.MemoryFrozen,
		Attached: r.Kind == attached, Cell: agent.Cell{Cgroup: gr.dir(), CgroupID: gr.id(), JobGroup: gr.jobID()}, State: agent.Running, Epoch: r.Epoch,
	}
	if r.damage != nil {
		return m, r.damage
	}
	var err error
	if m.Frozen, err = gr.frozen(); err != nil {
		return m, err
	}
	live, err := gr.live()
	if err != nil {
		return m, err
	}
	if r.Kind == attached {
		g.inspectAttached(&m, r, live)
		return m, nil
	}
	return m, g.inspectCell(&m, live)
}

func (g *Manager) inspectAttached(m *agent.Member, r record, live []int) {
	switch {
	case r.Root.Alive():
		m.Pid = r.Root.Pid
	case len(live) > 0:
		m.Pid = topOf(live)
	default:
		m.State, m.Exit = agent.Exited, "ended"
	}
	m.InnerPid = m.Pid
}

func (g *Manager) inspectCell(m *agent.Member, live []int) error {
	dir := g.dir(m.Job, m.Name)
	var init proc.Identity
	var root rootRecord
	var exit exitRecord
	err := errors.Join(ifThere(readState(dir, initFile, &init)), ifThere(readState(dir, rootFile, &root)), ifThere(readState(dir, exitFile, &exit)))
	if err != nil {
		return err
	}
	m.InnerPid = root.InnerPid
	alive := init.Alive()
	if alive {
		m.InitPid = init.Pid
	}
	if len(live) == 0 && (!alive || exit.Status != "") {
		m.State, m.Exit, m.InitPid = agent.Exited, exit.Status, 0
		if m.Exit == "" {
			m.Exit = "unknown: its cell ended with it (killed, or the host was restarted)"
		}
		return nil
	}
	if exit.Status != "" {
		// The root has ended and what it left runs on, as a daemon's does: that is the tree now.
		m.Pid = topOf(live)
		if p, err := proc.NSPids(m.Pid); err == nil && len(p) > 1 {
			m.InnerPid = p[1]
		}
		return nil
	}
	for _, pid := range live {
		if p, err := proc.NSPids(pid); err == nil && len(p) > 1 && p[1] == root.InnerPid {
			m.Pid = pid
		}
	}
	return nil
}

func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func topOf(live []int) int {
	if t := proc.Tops(live); len(t) > 0 {
		return t[0]
	}
	return 0
}

// Processes lists the processes of m by PID. One that ends meanwhile is left out.
func (g *Manager) Processes(ctx context.Context, m agent.Member) ([]agent.Process, error) {
	gr, err := g.existing(m)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	live, err := gr.live()
	if err != nil {
		return nil, err
	}
	slices.Sort(live)
	out := make([]agent.Process, 0, len(live))
	for _, pid := range live {
		rss, err := proc.RSS(pid)
		if err != nil {
			continue // it ended
		}
		out = append(out, agent.Process{Pid: pid, Command: proc.Command(pid), RSS: rss})
	}
	return out, ctx.Err()
}
