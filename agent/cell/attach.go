package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/proc"
)

// Attach takes the running tree whose root is m.Pid in: into a cgroup of its own, where what it
// starts later is born. It is not stopped for that, and keeps its other cgroups and everything else.
// Where the v2 hierarchy is the one a service manager uses, the tree leaves that manager's cgroup.
// Sockets that exist already keep belonging to their old cgroup in the kernel's eyes.
func (g *Manager) Attach(ctx context.Context, m agent.Member) (_ agent.Member, err error) {
	root, err := g.attachable(m.Pid)
	if err != nil {
		return m, fmt.Errorf("attach process %d: %w", m.Pid, err)
	}
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return m, err
	}
	defer unlock()
	dir, err := g.makeDir(m.Job, m.Name)
	if err != nil {
		return m, err
	}
	m.Command, m.Env, m.Log = proc.Arguments(root.Pid), nil, ""
	m.Dir = proc.WorkingDir(root.Pid)
	r := newRecord(m, attached)
	r.Root = root
	gr := g.cg.group(m.Job, m.Name)
	back, err := homes(gr, root.Pid)
	if err == nil {
		err = gr.create() // before the record: what a record has a cgroup of is this member's
	}
	if err != nil {
		return m, errors.Join(fmt.Errorf("attach %s: %w", proc.Whose(root.Pid), err), g.removeDir(m.Job, m.Name))
	}
	if err = writeState(dir, memberFile, r); err == nil {
		err = gr.gather(root.Pid)
	}
	if err != nil {
		err = fmt.Errorf("attach %s: %w", proc.Whose(root.Pid), err)
		return m, errors.Join(err, gr.release(back), g.removeDir(m.Job, m.Name))
	}
	return g.inspect(r)
}

// attachable says whether the tree can be a member, and which process exactly its root is.
func (g *Manager) attachable(pid int) (proc.Identity, error) {
	if pid <= 1 {
		return proc.Identity{}, errors.New("want the PID of a running process other than 1")
	}
	s, err := proc.ReadStat(pid)
	if err != nil {
		if proc.Gone(err) {
			return proc.Identity{}, errors.New("no such process")
		}
		return proc.Identity{}, err
	}
	if s.Dead() {
		return proc.Identity{}, errors.New("the process has ended; only its parent has not noticed yet")
	}
	if s.OfKernel() {
		return proc.Identity{}, fmt.Errorf("it is a thread of the kernel (%s)", s.Name)
	}
	if err := g.checkFree(pid); err != nil { // first: a member lives in a namespace of its own, too
		return proc.Identity{}, err
	}
	for _, kind := range []string{"pid", "net"} {
		theirs, err := proc.Namespace(pid, kind)
		if err != nil {
			return proc.Identity{}, err
		}
		if ours, err := proc.Namespace(os.Getpid(), kind); err != nil || ours != theirs {
			return proc.Identity{}, errors.Join(fmt.Errorf("it runs in another %s namespace than this agent (in a container?): run an agent there", kind), err)
		}
	}
	all, err := proc.Tree(pid)
	if err != nil {
		return proc.Identity{}, err
	}
	for _, p := range all {
		if p.Pid == os.Getpid() {
			return proc.Identity{}, errors.New("this agent itself belongs to that tree")
		}
		if err := g.checkFree(p.Pid); err != nil {
			return proc.Identity{}, err
		}
	}
	return proc.Identify(pid)
}

// checkFree refuses a process that belongs to a member, or is a member's PID 1.
func (g *Manager) checkFree(pid int) error {
	mount, v2 := g.cg.v2, true
	if g.cg.v1 != "" {
		mount, v2 = g.cg.v1, false
	}
	dir, err := folderOf(pid, mount, v2)
	if err != nil {
		if proc.Gone(err) {
			return nil
		}
		return err
	}
	if rest, ok := strings.CutPrefix(dir, filepath.Join(mount, g.cg.parent)+"/"); ok {
		return fmt.Errorf("%s is part of member %s already", proc.Whose(pid), rest)
	}
	recs, err := g.records()
	if err != nil {
		return err
	}
	for _, r := range recs {
		var init proc.Identity
		if readState(g.dir(r.Job, r.Name), initFile, &init) == nil && init.Pid == pid && init.Alive() {
			return fmt.Errorf("%s is the cell of member %s/%s", proc.Whose(pid), r.Job, r.Name)
		}
	}
	return nil
}

// gather moves the tree into the group. Whatever a process forks once it is inside is inside too, so
// the tree is looked at again until nothing of it is outside.
func (g group) gather(root int) error {
	for {
		inside, err := g.members()
		if err != nil {
			return err
		}
		all, err := proc.Tree(root)
		if err != nil {
			return err
		}
		if len(all) == 0 || all[0].Dead() {
			return fmt.Errorf("process %d: %w", root, proc.ErrGone)
		}
		moved := false
		for _, p := range all {
			if p.Dead() || slices.Contains(inside, p.Pid) {
				continue
			}
			moved = true
			if err := g.enter(p.Pid); err != nil && !proc.Gone(err) {
				return err
			}
		}
		if !moved {
			return nil
		}
	}
}

// members lists the processes that are in all of the group's folders.
func (g group) members() ([]int, error) {
	all, err := g.procs()
	if err != nil || g.v1 == "" || g.v2 == "" {
		return all, err
	}
	second, err := cgroup.Dir(g.v2).Procs()
	return slices.DeleteFunc(all, func(pid int) bool { return !slices.Contains(second, pid) }), err
}

// homes are the folders that the process is in now, in the order of dirs.
func homes(g group, pid int) ([]string, error) {
	var out []string
	for _, d := range g.dirs() {
		mount, v2 := g.h.v2, true
		if d == g.v1 {
			mount, v2 = g.h.v1, false
		}
		home, err := folderOf(pid, mount, v2)
		if err != nil {
			return nil, err
		}
		out = append(out, home)
	}
	return out, nil
}

// release moves everything out of the group, back to where its root came from, and removes it.
func (g group) release(back []string) error {
	if len(back) == 0 {
		return nil
	}
	for {
		left, err := g.live()
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return g.remove()
		}
		for _, pid := range left {
			for _, d := range back {
				if err := enterDir(d, pid); err != nil && !proc.Gone(err) {
					return err
				}
			}
		}
	}
}
