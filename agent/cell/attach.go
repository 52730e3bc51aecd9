package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ss/agent"
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
	m.Command, m.Env, m.Log = arguments(root.Pid), nil, ""
	m.Dir, _ = os.Readlink("/proc/" + strconv.Itoa(root.Pid) + "/cwd")
	r := newRecord(m, attached)
	r.Root = root
	gr := g.cg.group(m.Job, m.Name)
	back, err := homes(gr, root.Pid)
	if err == nil {
		err = gr.create() // before the record: what a record has a cgroup of is this member's
	}
	if err != nil {
		return m, errors.Join(fmt.Errorf("attach %s: %w", whose(root.Pid), err), g.removeDir(m.Job, m.Name))
	}
	if err = writeState(dir, memberFile, r); err == nil {
		err = gr.gather(root.Pid)
	}
	if err != nil {
		err = fmt.Errorf("attach %s: %w", whose(root.Pid), err)
		return m, errors.Join(err, gr.release(back), g.removeDir(m.Job, m.Name))
	}
	return g.inspect(r)
}

// attachable says whether the tree can be a member, and which process exactly its root is.
func (g *Manager) attachable(pid int) (identity, error) {
	if pid <= 1 {
		return identity{}, errors.New("want the PID of a running process other than 1")
	}
	s, err := readStat(pid)
	if err != nil {
		if gone(err) {
			return identity{}, errors.New("no such process")
		}
		return identity{}, err
	}
	if s.dead() {
		return identity{}, errors.New("the process has ended; only its parent has not noticed yet")
	}
	if s.flags&pfKthread != 0 {
		return identity{}, fmt.Errorf("it is a thread of the kernel (%s)", s.comm)
	}
	if err := g.checkFree(pid); err != nil { // first: a member lives in a namespace of its own, too
		return identity{}, err
	}
	for _, kind := range []string{"pid", "net"} {
		theirs, err := namespace(pid, kind)
		if err != nil {
			return identity{}, err
		}
		if ours, err := namespace(os.Getpid(), kind); err != nil || ours != theirs {
			return identity{}, errors.Join(fmt.Errorf("it runs in another %s namespace than this agent (in a container?): run an agent there", kind), err)
		}
	}
	all, err := tree(pid)
	if err != nil {
		return identity{}, err
	}
	for _, p := range all {
		if p.pid == os.Getpid() {
			return identity{}, errors.New("this agent itself belongs to that tree")
		}
		if err := g.checkFree(p.pid); err != nil {
			return identity{}, err
		}
	}
	return identify(pid)
}

// checkFree refuses a process that belongs to a member, or is a member's PID 1.
func (g *Manager) checkFree(pid int) error {
	mount, v2 := g.cg.v2, true
	if g.cg.v1 != "" {
		mount, v2 = g.cg.v1, false
	}
	dir, err := ownFolder(strconv.Itoa(pid), mount, v2)
	if err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	if rest, ok := strings.CutPrefix(dir, filepath.Join(mount, g.cg.parent)+"/"); ok {
		return fmt.Errorf("%s is part of member %s already", whose(pid), rest)
	}
	recs, err := g.records()
	if err != nil {
		return err
	}
	for _, r := range recs {
		var init identity
		if readState(g.dir(r.Job, r.Name), initFile, &init) == nil && init.Pid == pid && init.alive() {
			return fmt.Errorf("%s is the cell of member %s/%s", whose(pid), r.Job, r.Name)
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
		all, err := tree(root)
		if err != nil {
			return err
		}
		if len(all) == 0 || all[0].dead() {
			return fmt.Errorf("process %d: %w", root, errGone)
		}
		moved := false
		for _, p := range all {
			if p.dead() || slices.Contains(inside, p.pid) {
				continue
			}
			moved = true
			if err := g.enter(p.pid); err != nil && !gone(err) {
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
	second, err := procsOf(g.v2)
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
		home, err := ownFolder(strconv.Itoa(pid), mount, v2)
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
				if err := enterDir(d, pid); err != nil && !gone(err) {
					return err
				}
			}
		}
	}
}
