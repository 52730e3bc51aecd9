package target

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// comingLock is a lock on its way here.
type comingLock struct {
	Arrival
	NeededLock
	file FileID // that it will be of; the zero value if it is not here yet
}

// locks compares the locks to come with those that others hold here, and with one another: CRIU takes each again, and waits for whoever holds one that
// conflicts with it, if need be for ever.
func (t *plan) locks(ctx context.Context) error {
	coming := t.comingLocks()
	var ids []FileID
	for i, l := range coming {
		if l.file != (FileID{}) {
			ids = append(ids, l.file)
		}
		for _, o := range coming[:i] {
			t.lockedTogether(l, o)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	lives, err := t.Lives.Locks(ctx, t.Job, ids)
	if err != nil {
		return err
	}
	for _, l := range coming {
		for _, h := range lives {
			if l.file == h.File && l.conflicts(h.NeededLock) {
				t.add(l.Arrival, "%s conflicts with one that %s holds here: end that, have it close the file, or restore to another host", l.NeededLock, h.Owner)
			}
		}
	}
	return nil
}

func (t *plan) comingLocks() []comingLock {
	var out []comingLock
	for _, c := range t.Coming {
		for _, l := range c.Needs.Objects.Locks {
			n := comingLock{Arrival: c, NeededLock: l}
			var st unix.Stat_t
			if unix.Stat(l.Path, &st) == nil {
				n.file = FileID{st.Dev, st.Ino}
			}
			out = append(out, n)
		}
	}
	return out
}

// lockedTogether looks for two members that would wait for each other. On one host both can have an exclusive lock only if they share one open file, which the two
// would not after a restore.
func (t *plan) lockedTogether(l, o comingLock) {
	same := l.Path == o.Path || l.file == o.file && l.file != (FileID{})
	switch {
	case !same || !l.conflicts(o.NeededLock) || l.Member == o.Member && l.Source == o.Source:
	case l.Source == o.Source:
		t.add(l.Arrival, "%s is one with %s's, by a file that both got from the program that has started them: start both as one member (sh -c 'one & two & wait')", l.NeededLock, o.Member)
	default:
		t.add(l.Arrival, "%s conflicts with one of %s of %s: restore them to different hosts", l.NeededLock, o.Member, o.Source)
	}
}

// LockOn is the need for a lock that a process of this host has on the file of a path.
func LockOn(path string, l proc.Lock) NeededLock {
	return NeededLock{Path: path, Flock: l.Flock, Write: l.Write, Start: l.Start, End: l.End}
}

// conflicts says whether two locks cannot be on one file at a time, if different programs hold them. The kernel keeps those of flock(2) and of fcntl(2) apart.
func (n NeededLock) conflicts(o NeededLock) bool {
	if n.Flock != o.Flock || !n.Write && !o.Write {
		return false
	}
	return n.Flock || n.Start <= o.End && o.Start <= n.End
}

// String says what lock it is, for a message about a member.
func (n NeededLock) String() string {
	kind, how := "shared", "fcntl"
	if n.Write {
		kind = "exclusive"
	}
	if n.Flock {
		how = "flock"
	}
	return fmt.Sprintf("its %s lock on %s (%s)", kind, n.Path, how)
}
