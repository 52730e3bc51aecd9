package memory

import (
	"errors"
	"fmt"
	"time"

	"ss/agent"
)

// lookAfter is how often a tracker looks whether the processes that it keeps have ended.
const lookAfter = 2 * time.Second

// newTracked makes a unit of which nothing is tracked yet, and nothing goes on.
func newTracked(t *Tracker, m agent.Unit) *tracked {
	k := &tracked{t: t, member: m, procs: map[int]*process{}, buf: make([]byte, batchSize)}
	k.begun()
	return k
}

// begun makes a unit as it is before the first round.
func (k *tracked) begun() {
	k.left, k.later = map[int]string{}, map[int]string{}
	k.cancel, k.done = func() {}, make(chan struct{})
	close(k.done) // nothing goes on yet
}

// Keep goes on to track a unit whose pages are in the images, so that the next Track copies only what is written from now on. The copies stay in files without
// a name. An error ends the tracking, and so does Close before Keep: the next cut copies all memory then.
func (k *tracked) Keep() error {
	k.Halt()
	if err := k.endTwins(); err != nil {
		return errors.Join(err, k.Close())
	}
	next := newTracked(k.t, k.member)
	next.procs, k.procs = k.procs, map[int]*process{}
	var errs []error
	for pid, p := range next.procs {
		if err := p.keep(k.late); err != nil {
			errs = append(errs, err, p.close())
			delete(next.procs, pid)
		}
		p.buf = next.buf
	}
	errs = append(errs, k.Close())
	if len(next.procs) == 0 {
		return errors.Join(errs...)
	}
	t := k.t
	t.mu.Lock()
	before := t.kept[next.member.Cgroup]
	t.kept[next.member.Cgroup] = next
	if !t.looks {
		t.looks = true
		go t.lookAfterKept()
	}
	t.mu.Unlock()
	if before != nil { // nobody took it up
		errs = append(errs, before.Close())
	}
	return errors.Join(errs...)
}

// keep takes down where the copies are that went into the cut, those from the freeze among them. A page that was written before the freeze has not been
// protected since, so the next scan reports it: its copy does not count then. All other pages are as the cut has them until a scan reports them.
func (p *process) keep(late *lateStore) error {
	if p.scan != nil {
		p.scan.close()
		p.scan = nil
		held, pending := slots{}, []agent.PageRange(nil)
		for _, r := range p.runs {
			if r.slot == inTwin {
				pending = append(pending, agent.PageRange{Start: r.start, End: r.end()}) // no copy stays here, and some may be protected
				continue
			}
			to := make([]uint32, 0, r.pages)
			for i := range r.pages {
				if r.slot != 0 {
					to = append(to, r.slot+uint32(i))
				}
			}
			if r.slot == 0 {
				var err error
				if to, err = p.staging.take(r.pages); err == nil {
					err = p.staging.put(to, late.buf[r.late:r.late+r.pages*pageSize])
				}
				if err != nil {
					return err
				}
			}
			for i, slot := range to {
				held.set(r.start+uint64(i)*pageSize, slot)
			}
		}
		p.slots, p.pending = held, pending // what was pending is among them
		p.staging.release(held)
	}
	p.closeMemory()
	p.closeTwin()
	p.runs = nil
	clear(p.refused)
	if err := p.staging.unlink(); err != nil {
		return fmt.Errorf("keep copies of memory: %w", err)
	}
	return nil
}

// resume takes up a unit that was kept. Processes of it that are gone, or other ones of their PIDs, are left out by the first round.
func (t *Tracker) resume(m agent.Unit) *tracked {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[m.Cgroup]
	delete(t.kept, m.Cgroup)
	if k != nil {
		k.member = m
	}
	return k
}

// Release ends the tracking of all units that are kept, and gives back the room of their copies.
func (t *Tracker) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at, k := range t.kept {
		_ = k.Close() // files without a name
		delete(t.kept, at)
	}
}

// lookAfterKept gives back what processes had that have ended. It ends when nothing is kept.
func (t *Tracker) lookAfterKept() {
	tick := time.NewTicker(lookAfter)
	defer tick.Stop()
	for range tick.C {
		if t.dropEnded() == 0 {
			return
		}
	}
}

// dropEnded says how many units are still kept.
func (t *Tracker) dropEnded() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at, k := range t.kept {
		for pid, p := range k.procs {
			if born, err := startOf(pid); err != nil || born != p.born || hasEnded(pid) {
				_ = p.close()
				delete(k.procs, pid)
			}
		}
		if len(k.procs) == 0 {
			delete(t.kept, at)
		}
	}
	t.looks = len(t.kept) > 0
	return len(t.kept)
}
