package target

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"unicode/utf8"

	"ss/agent/files"
	"ss/agent/proc"
)

// Target is a host, and all that is to come to it.
type Target struct {
	Host     string
	Job      string                    // its members end before the others come
	Networks []netip.Prefix            // all addresses of the host, with the lengths of their networks' prefixes
	Moved    map[netip.Addr]netip.Addr // addresses that the restore replaces, old → new
	Lives    Lives
	Coming   []Arrival
}

// Lives tells what lives on the host now.
type Lives interface {
	// Objects lists what lives on this host that a restore of the job could be in the way of.
	Objects(ctx context.Context, job string) (HostObjects, error)
	// Holders names the processes that hold sockets, by inode.
	Holders(ctx context.Context, inodes []uint64) (map[uint64]string, error)
	// Locks lists the locks on these files that other processes than the job's members hold.
	Locks(ctx context.Context, job string, files []FileID) ([]HostLock, error)
	// Opens lists which other processes than the job's members have these files open or mapped.
	Opens(ctx context.Context, job string, files map[FileID]bool) ([]HostOpen, error)
}

// Arrival is one member on its way to a target, with what its images say.
type Arrival struct {
	Source string // the host that it was dumped on
	Member string
	Needs  Needs
	Files  []files.Stored // files that the cut holds
	Seen   []files.Seen   // files that it had open or mapped
	Made   []files.Seen   // folders and FIFOs that the restore makes where they are missing
}

// plan is a target as it is examined. It is planned as a whole: every member that comes is compared with what lives
// here and stays, and with every other that comes.
type plan struct {
	Target
	lives HostObjects
	found []string
}

// Plan lists everything that would keep the members from being restored on the host (R1). It touches nothing. With the members of a fresh dump as
// those that come, it says whether a cut can be put back in place.
func Plan(ctx context.Context, target Target) ([]string, error) {
	t := plan{Target: target}
	var err error
	if t.lives, err = t.Lives.Objects(ctx, t.Job); err != nil {
		return nil, err
	}
	t.names()
	t.spellings()
	t.pids()
	t.paths()
	t.ghosts()
	t.files()
	if err := t.sockets(ctx); err != nil {
		return nil, err
	}
	if err := t.locks(ctx); err != nil {
		return nil, err
	}
	if err := t.leases(ctx); err != nil {
		return nil, err
	}
	t.devices()
	t.midstream()
	t.unixNames()
	t.claims()
	t.dialled()
	return t.found, nil
}

// PlanRunning lists, before the members that come are recorded, what Plan would say of their images: they still run on this host, and are to come back to it. It looks at
// what others here hold, and at folders and file systems; what the members themselves change from one instant to the next, only the images can tell.
func PlanRunning(ctx context.Context, target Target) ([]string, error) {
	t := plan{Target: target}
	var err error
	if t.lives, err = t.Lives.Objects(ctx, t.Job); err != nil {
		return nil, err
	}
	t.spellings()
	for _, c := range t.Coming {
		for path := range c.storedPaths() {
			t.putBackable(c, path)
		}
	}
	t.ghosts()
	t.unixNames()
	t.claims()
	return t.found, errors.Join(t.locks(ctx), t.leases(ctx))
}

// add notes what stands in a member's way, once.
func (t *plan) add(c Arrival, format string, args ...any) {
	text := c.Member + ": " + fmt.Sprintf(format, args...)
	if !slices.Contains(t.found, text) {
		t.found = append(t.found, text)
	}
}

// names looks for two members of one name: a host keeps each below its name.
func (t *plan) names() {
	seen := map[string]string{}
	for _, c := range t.Coming {
		if other, ok := seen[c.Member]; ok {
			t.add(c, "members of this name come from %s and from %s: restore them to different hosts", other, c.Source)
		}
		seen[c.Member] = c.Source
	}
}

// spellings looks for paths that are not UTF-8: no list of a cut can hold them, so elsewhere others would be looked for and made in their place.
func (t *plan) spellings() {
	for _, c := range t.Coming {
		o := c.Needs.Objects
		paths := slices.Concat(o.Watched, o.Dialled, c.Needs.Dirs)
		for _, u := range o.Unix {
			paths = append(paths, u.Path)
		}
		for _, p := range o.Paths {
			paths = append(paths, p.Path)
		}
		for _, path := range paths {
			if !utf8.ValidString(path) {
				t.add(c, "it has %q open, works in it or watches it, and that name is not UTF-8: rename it", path)
			}
		}
	}
}

// pids looks for process numbers that this host's kernel does not give.
func (t *plan) pids() {
	limit, err := strconv.Atoi(proc.Sysctl("kernel/pid_max"))
	if err != nil {
		return // a kernel that does not say numbers as many as it likes
	}
	for _, c := range t.Coming {
		if n := len(c.Needs.Pids); n > 0 {
			if top := slices.Max(c.Needs.Pids); top >= limit {
				t.add(c, "it has a process numbered %d, and this host numbers them below %d: set sysctl kernel.pid_max=%d", top, limit, top+1)
			}
		}
	}
}
