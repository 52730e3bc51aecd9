package memory

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/proc"
)

// spare is how much memory a host keeps beside its twins, in bytes: below that, the kernel would soon look for a process to kill.
const spare = 256 << 20

// errShort says that memory is short.
var errShort = errors.New("memory is short on this host")

// wantsTwin says whether the pages of a process that are behind are to come from a twin.
func (k *tracked) wantsTwin(p *process, left int64) bool {
	if left < k.t.cfg.TwinsFrom || left == 0 {
		return false
	}
	var why error
	switch {
	case k.t.cfg.NoTwins:
		return false
	case cgroup.Dir(k.member.Cgroup).V1():
		why = errors.New("the v1 freezer lets nobody trace what it holds")
	default:
		why = k.room(p.pid, k.twinSize+p.size())
	}
	if why != nil {
		k.withoutTwin(p, why)
		return false
	}
	k.twinSize += p.size()
	k.twinsOf = append(k.twinsOf, p)
	return true
}

// size is how much memory the cut holds of a process, in bytes. A twin never has more.
func (p *process) size() (sum int64) {
	for _, r := range p.runs {
		sum += int64(r.pages) * pageSize
	}
	return sum
}

func (k *tracked) withoutTwin(p *process, why error) {
	k.noTwin = append(k.noTwin, fmt.Sprintf("process %d: what was left was copied while it stood still, as it could have no twin: %v", p.pid, why))
}

// MakeTwins makes a twin of each process of which much is behind, while the member stands still and when CRIU has seen it. What a twin does not have is copied
// at once: memory that the program keeps from its children (MADV_DONTFORK, MADV_WIPEONFORK), and all of it if there can be no twin.
func (k *tracked) MakeTwins(ctx context.Context, lockFile string) error {
	if len(k.twinsOf) == 0 {
		return nil
	}
	o := &twinOrder{Cgroup: k.member.Cgroup, Lock: lockFile}
	for _, p := range k.twinsOf {
		o.Of = append(o.Of, p.pid)
	}
	made, err := k.helper.makeTwins(o)
	if errors.Is(err, errNoAnswer) {
		return fmt.Errorf("make twins: %w", err) // it is unknown what it is at
	}
	for _, p := range k.twinsOf {
		if err != nil {
			k.withoutTwin(p, err)
		} else if err := p.takeTwin(made[p.pid], k.t.plant); err != nil {
			k.withoutTwin(p, err)
		}
		n, err := p.copyBehind(ctx, k.late)
		k.rep.CopiedFrozen += n
		if err != nil {
			return err
		}
	}
	return nil
}

// takeTwin marks the pages that the twin has.
func (p *process) takeTwin(pid int, mistake plant) error {
	if pid == 0 {
		return errors.New("the helper for memory has made none")
	}
	s, err := openScanner(pid, p.guard)
	if err != nil {
		return err
	}
	defer s.close()
	if mistake == plantNoTwin {
		pid = p.pid
	}
	if p.twin, err = proc.OpenMemory(pid); err != nil {
		return err
	}
	marked := make([]run, 0, len(p.runs))
	for _, r := range p.runs {
		if r.slot != behind {
			marked = join(marked, r)
			continue
		}
		at := r.start
		mark := func(end uint64, slot uint32) {
			if at < end {
				marked = join(marked, run{start: at, pages: int((end - at) / pageSize), slot: slot})
				at = end
			}
		}
		err := s.held(agent.PageRange{Start: r.start, End: r.end()}, func(found region) error {
			mark(found.start, behind)
			mark(found.end, inTwin)
			return nil
		})
		if err != nil {
			p.closeTwin()
			return fmt.Errorf("look at its twin: %w", err)
		}
		if mistake == plantLacks {
			if n, err := p.twin.Read(make([]byte, 1), at); err == nil && n == 1 {
				mark(r.end(), inTwin)
			}
		}
		mark(r.end(), behind)
	}
	p.runs = marked
	return nil
}

// writeFromTwin writes pages that the twin has.
func (p *process) writeFromTwin(w io.Writer, r run) error {
	if p.twin == nil {
		return fmt.Errorf("process %d has no twin", p.pid)
	}
	buf := p.buf
	for at := r.start; at < r.end(); {
		if err := enough(); err != nil {
			return fmt.Errorf("copy from the twin of process %d: %w", p.pid, err)
		}
		part := buf[:min(uint64(len(buf)), r.end()-at)]
		n, err := p.twin.Read(part, at)
		if err == nil && n != len(part) {
			err = unix.EFAULT
		}
		if err != nil {
			return fmt.Errorf("read the twin of process %d at %#x (was it killed because memory ran short?): %w", p.pid, at, err)
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		at += uint64(n)
	}
	return nil
}

func (p *process) closeTwin() {
	if p.twin != nil {
		p.twin.Close()
		p.twin = nil
	}
}

// endTwins ends the twins.
func (k *tracked) endTwins() error {
	if k.helper == nil || len(k.twinsOf) == 0 {
		return nil
	}
	return k.helper.endTwins()
}

// room says whether twins have room, that of a process and of others, that might have as much memory as size: where the program writes to memory that a twin has,
// both have a page each from then on. The kernel charges the program's cgroups for it.
func (k *tracked) room(pid int, size int64) error {
	free, err := proc.Available()
	if err != nil {
		return err
	}
	if free-k.t.spare < size {
		return fmt.Errorf("%w: twins might need %d MiB, and of %d MiB that are available %d MiB are kept free", errShort, size>>20, free>>20, k.t.spare>>20)
	}
	left, err := proc.CgroupMemory(pid)
	if err != nil {
		return err
	}
	if left < size {
		return fmt.Errorf("its cgroup has a limit: twins might need %d MiB, and %d MiB are left", size>>20, left>>20)
	}
	return nil
}

// enough says whether the host has memory left while twins are there.
func enough() error {
	free, err := proc.Available()
	if err == nil && free < spare/2 {
		err = fmt.Errorf("%w: %d MiB are available", errShort, free>>20)
	}
	return err
}

// sweep has processes take in the ends of twins whose helper was killed: the kernel ended these with it, and their parents do not know that they had them. Each is
// a child that has no signal at its end, and a session of its own.
func (k *tracked) sweep() {
	all, err := proc.Tree(k.member.Pid)
	if err != nil {
		return // what is wrong shows in the first round
	}
	for _, st := range all {
		if !st.Dead() || st.Farewell != 0 || st.Session != st.Pid {
			continue
		}
		if inner, err := proc.NSPids(st.Pid); err == nil {
			_, _ = k.helper.ask(request{Pid: st.Parent, Reap: inner[len(inner)-1]}) // CRIU would take it for the program's
		}
	}
}
