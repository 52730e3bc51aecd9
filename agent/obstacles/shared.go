package obstacles

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/sockets"
)

// together is what to do about a thing that a member shares.
const together = "start both as one member (sh -c 'one & two & wait'), or attach the process that has started both"

// sharing looks for what the member has in common with processes that are not part of it. CRIU dumps it with each of them, so that a restore makes two of it: open
// files, of which there is one position, and memory without a name. Pipes and TCP and UDP sockets are looked at elsewhere; files without a name that two members have
// opened come back as one (package files).
type sharing struct {
	s      *survey
	open   map[string][]openFile // the member's, by what they have in common with every other descriptor of the same open file
	sorted map[string]bool       // the keys of open whose lists are in the order of kcmp
	memory map[string]openFile   // memory without a name, by device and inode; fd is -1 where it is mapped only
	said   map[openFile]bool
	found  []common
}

// common is something that another process has as well.
type common struct {
	ours, theirs openFile
	memory       bool
}

func (s *survey) shared(opened []openFile) error {
	x := &sharing{s: s, open: map[string][]openFile{}, sorted: map[string]bool{}, memory: map[string]openFile{}, said: map[openFile]bool{}}
	for _, f := range opened {
		if key, ok := shareKey(f.link); ok {
			x.open[key] = append(x.open[key], f)
		}
		if isMemfd(f.link) {
			if key, ok := x.memfdKey(f); ok {
				x.memory[key] = f
			}
		}
	}
	for _, pid := range s.pids {
		eachUnnamed(pid, func(key, link string) {
			if _, known := x.memory[key]; !known {
				x.memory[key] = openFile{pid, -1, link}
			}
		})
	}
	if len(x.open) == 0 && len(x.memory) == 0 {
		return nil
	}
	others, err := s.outsiders()
	if err != nil {
		return err
	}
	err = proc.EachFd(others, func(pid, fd int, link string) { x.compare(openFile{pid, fd, link}) })
	if len(x.memory) > 0 {
		for _, pid := range others {
			eachUnnamed(pid, func(key, link string) {
				if ours, ok := x.memory[key]; ok {
					x.found = append(x.found, common{ours, openFile{pid, -1, link}, true})
				}
			})
		}
	}
	if err != nil || len(x.found) == 0 {
		return err
	}
	return x.tell()
}

// shareKey is the same for all descriptors of one open file, and false where two of it do no harm: a device has no position, a pidfd no state, and pipes are seen
// to by pipes. The last part of a path is the same from every root folder and mount namespace.
func shareKey(link string) (key string, ok bool) {
	switch {
	case strings.HasPrefix(link, "anon_inode:"):
		return link, link != "anon_inode:[pidfd]"
	case strings.HasPrefix(link, "socket:["):
		return link, true
	case strings.HasPrefix(link, "/dev/") && !strings.HasPrefix(link, "/dev/shm/"), strings.HasPrefix(link, "/proc/"), strings.HasPrefix(link, "/sys/"):
		return "", false
	case strings.HasPrefix(link, "/"):
		return path.Base(link), true
	}
	return "", false
}

func isMemfd(link string) bool { return strings.HasPrefix(link, "/memfd:") }

// memfdKey names the memory of a memfd as maps(5) does.
func (x *sharing) memfdKey(f openFile) (key string, ok bool) {
	id, _, ok := idOf(f.pid, f.fd)
	return fmt.Sprintf("%02x:%02x %d", unix.Major(id.dev), unix.Minor(id.dev), id.ino), ok
}

// eachUnnamed calls f with the shared memory without a name that a process has mapped. System V's has its own check.
func eachUnnamed(pid int, f func(key, link string)) {
	for m, err := range proc.Mappings(pid) {
		if err != nil {
			return // it ended
		}
		if m.Shared && (isMemfd(m.Path) || m.Path == "/dev/zero (deleted)") {
			f(m.Device+" "+m.Inode, m.Path)
		}
	}
}

// compare looks whether a descriptor of another process is of something that the member has.
func (x *sharing) compare(theirs openFile) {
	if isMemfd(theirs.link) && len(x.memory) > 0 {
		if key, ok := x.memfdKey(theirs); ok {
			if ours, has := x.memory[key]; has {
				x.found = append(x.found, common{ours, theirs, true})
				return
			}
		}
	}
	key, ok := shareKey(theirs.link)
	if !ok || len(x.open[key]) == 0 {
		return
	}
	if ours, same := x.same(key, theirs); same && harmful(ours) {
		x.found = append(x.found, common{ours, theirs, false})
	}
}

// same finds the member's descriptor of the same open file. The order of kcmp(2) is there so that this takes few questions.
func (x *sharing) same(key string, theirs openFile) (ours openFile, ok bool) {
	list := x.open[key]
	if strings.HasPrefix(key, "socket:[") { // one inode, one open file
		return list[0], true
	}
	if !x.sorted[key] {
		slices.SortStableFunc(list, orderOfFiles)
		x.sorted[key] = true
	}
	i, ok := slices.BinarySearchFunc(list, theirs, orderOfFiles)
	if !ok {
		return openFile{}, false
	}
	// What was closed meanwhile has no order.
	order, known := kcmp(list[i].pid, theirs.pid, kcmpFile, uintptr(list[i].fd), uintptr(theirs.fd))
	return list[i], known && order == 0
}

func orderOfFiles(a, b openFile) int {
	switch order, ok := kcmp(a.pid, b.pid, kcmpFile, uintptr(a.fd), uintptr(b.fd)); {
	case !ok || order == 0:
		return 0
	case order == 1:
		return -1
	}
	return 1
}

// harmful says whether two of an open file in the place of one would be noticed: by the position, or by a lock that is held by both.
func harmful(f openFile) bool {
	if strings.HasPrefix(f.link, "socket:[") {
		protocol := sockets.ProtocolOf(sockets.Holder{Pid: f.pid, Fd: f.fd})
		return !strings.HasPrefix(protocol, "TCP") && !strings.HasPrefix(protocol, "UDP") && !strings.HasPrefix(protocol, "MPTCP")
	}
	info, err := proc.ReadFdInfo(f.pid, f.fd)
	if err != nil || info.Flags&unix.O_PATH != 0 {
		return false
	}
	if !strings.HasPrefix(f.link, "/") || locked(info) {
		return true
	}
	_, mode, ok := idOf(f.pid, f.fd)
	return ok && mode&unix.S_IFMT == unix.S_IFREG && info.Flags&unix.O_APPEND == 0
}

// locked says whether an open file has an exclusive lock that all who share it hold. Shared ones do not conflict after a restore.
func locked(info proc.FdInfo) bool {
	return slices.ContainsFunc(info.Locks, func(l proc.Lock) bool { return l.Write && !l.Process })
}

// tell says what was found and is so still: the member runs, and forks, and what is its own by now is not outside.
func (x *sharing) tell() error {
	members, err1 := x.s.member.Procs()
	others, err2 := x.s.member.Others()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for _, c := range x.found {
		if slices.Contains(members, c.theirs.pid) || x.said[c.ours] {
			continue
		}
		if !c.memory {
			if _, still := x.same(mustKey(c.ours.link), c.theirs); !still {
				continue // closed meanwhile: by a child between its fork and its exec, say
			}
		}
		x.said[c.ours] = true
		where := "which is not part of the member"
		if slices.Contains(others, c.theirs.pid) {
			where = "which is part of another member"
		}
		x.add(c, where)
	}
	return nil
}

func mustKey(link string) string { key, _ := shareKey(link); return key }

// add says what is shared, with whom, and what to do about it.
func (x *sharing) add(c common, where string) {
	pid, whose := c.ours.pid, proc.Whose(c.theirs.pid)
	switch link := c.ours.link; {
	case c.memory:
		what := "shared memory (" + link + ")"
		if link == "/dev/zero (deleted)" {
			what = "shared memory without a name (mmap with MAP_SHARED and MAP_ANONYMOUS)"
		}
		x.s.add(pid, "has %s in common with %s, %s, and a restore would make two of it: %s, or have them use a file in /dev/shm that each opens", what+descriptorText(c.ours.fd), whose, where, together)
	case strings.HasPrefix(link, "anon_inode:"):
		x.s.add(pid, "has the same %s open (descriptor %d) as %s (descriptor %d), %s, and a restore would make two of it: %s, or have one of them close it",
			strings.Trim(strings.TrimPrefix(link, "anon_inode:"), "[]"), c.ours.fd, whose, c.theirs.fd, where, together)
	case strings.HasPrefix(link, "socket:["):
		x.s.add(pid, "has the same socket open (descriptor %d) as %s (descriptor %d), %s, and a restore would make two of it: %s, or have one of them close it", c.ours.fd, whose, c.theirs.fd, where, together)
	case x.locked(c.ours):
		x.s.add(pid, "has %s open (descriptor %d) with a lock that %s holds as well, by the same open file (its descriptor %d), %s, and a restore would wait for that lock: end that, have it close its descriptor, or %s",
			link, c.ours.fd, whose, c.theirs.fd, where, together)
	default:
		x.s.add(pid, "has %s open (descriptor %d) together with %s (descriptor %d), %s: they share one position in it, and a restore would make two, so that they overwrite each other: "+
			"have it opened to append (>> in a shell), have each open the file itself, or %s", link, c.ours.fd, whose, c.theirs.fd, where, together)
	}
}

func (x *sharing) locked(f openFile) bool {
	info, err := proc.ReadFdInfo(f.pid, f.fd)
	return err == nil && locked(info)
}

func descriptorText(fd int) string {
	if fd < 0 {
		return ""
	}
	return fmt.Sprintf(" (descriptor %d)", fd)
}
