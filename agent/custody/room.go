package custody

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/fault"
	"ss/internal/disk"
	"ss/store/blob"
	"ss/store/images"
)

// roomNext is what makes room for images.
const roomNext = "make room with ssctl gc, or remove cuts with ssctl rm, or name a larger disk (staging, state_dir) in agent.yaml"

// demand is what something will take of a disk, in bytes.
type demand struct {
	what        string
	dir         string
	bytes, free int64
	next        string // what makes room, "" if the caller says it
}

// lacking says of each disk that does not have what is wanted of it how much that is, and how much is free. Folders on one
// disk share what it has.
func lacking(demands ...demand) []string {
	var out []string
	byDisk := map[uint64][]demand{}
	for _, d := range demands {
		if d.bytes > d.free {
			out = append(out, fmt.Sprintf("%s needs about %d MiB in %s, and %d MiB are free there", d.what, mib(d.bytes), d.dir, d.free>>20)+remedy(d))
			continue
		}
		if disk, err := diskOf(d.dir); err == nil {
			byDisk[disk] = append(byDisk[disk], d)
		}
	}
	for _, d := range demands {
		disk, err := diskOf(d.dir)
		if err != nil {
			continue
		}
		if text := tooMuchTogether(byDisk[disk]); text != "" {
			out = append(out, text)
		}
		delete(byDisk, disk)
	}
	return out
}

func tooMuchTogether(demands []demand) string {
	var sum, free int64
	var whats, dirs []string
	for _, d := range demands {
		sum += d.bytes
		free = max(free, d.free) // less is free of a limit
		whats, dirs = append(whats, d.what), append(dirs, d.dir)
	}
	if len(demands) < 2 || sum <= free {
		return ""
	}
	return fmt.Sprintf("%s need about %d MiB together, and on the disk of %s %d MiB are free",
		strings.Join(whats, " and "), mib(sum), strings.Join(dirs, " and "), free>>20) + remedy(demands[len(demands)-1])
}

// remedy is what to do where a demand is not met.
func remedy(d demand) string {
	if d.next == "" {
		return ""
	}
	return "; " + d.next
}

// Fits refuses a dump of this host that does not fit: it is staged as plain files first, and then, at worst, all of it is stored again, while the room of
// those is given back or, where that is not possible, before they are removed. need is in bytes.
func (h *Holder) Fits(need int64) error {
	lacks, err := h.lacksForDump(need)
	if err == nil && len(lacks) > 0 {
		h.cfg.Store.DropKept() // nothing depends on them
		lacks, err = h.lacksForDump(need)
	}
	if err != nil || len(lacks) == 0 {
		return err
	}
	return fault.New(fault.Refused, strings.Join(lacks, "; "), roomNext)
}

func (h *Holder) lacksForDump(need int64) ([]string, error) {
	staging, objects, err := h.cfg.Store.Space()
	if err != nil {
		return nil, err
	}
	stored := need
	if h.cfg.Store.Frees() && sameDisk(h.cfg.Staging, h.cfg.Dir) {
		stored = min(need, need/freedShare+freedLag)
	}
	return lacking(
		demand{"the dump", h.cfg.Staging, need, staging, ""},
		demand{"what is stored of it", h.cfg.Dir, stored, objects, ""},
	), nil
}

// How much more room plain files and what is stored of them take together than the plain files alone, where the room of these is given back meanwhile: a part of them,
// since packs hold names too, and three packs, which are being filled, made durable, and durable before anything is given back.
const (
	freedShare = 64
	freedLag   = 160 << 20
)

func sameDisk(a, b string) bool {
	one, err := diskOf(a)
	other, otherErr := diskOf(b)
	return err == nil && otherErr == nil && one == other
}

// mib rounds up.
func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// diskOf names the file system that a folder is on, or will be once it is made.
func diskOf(dir string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(existing(dir), &st)
	return st.Dev, err
}

// existing is the innermost folder of a path that is there. What is missing below it is made.
func existing(dir string) string {
	var st unix.Stat_t
	for errors.Is(unix.Stat(dir, &st), unix.ENOENT) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
	}
	return dir
}

// fullBelow is so little room that whatever failed meanwhile failed for want of it: CRIU's log, which would say so, has no room
// either.
const fullBelow = 256 << 10

// fullError says of what met a full disk no more than that: where in its work that was helps nobody.
type fullError struct {
	disk string
	error
}

func (e *fullError) Error() string { return e.disk + " is full" }
func (e *fullError) Unwrap() error { return e.error }

// DiskFull makes an error that comes of a full disk say which it is and what helps. Others stay what they are.
func DiskFull(dir string, err error) error {
	switch {
	case err == nil, errors.As(err, new(*fullError)):
		return err
	case isFull(err):
		return &fault.Error{Err: &fullError{"the disk of " + dir, err}, Next: roomNext}
	}
	if free, ferr := disk.Free(dir); ferr != nil || free >= fullBelow {
		return err
	}
	return &fault.Error{Err: fmt.Errorf("the disk of %s is full: %w", dir, err), Next: roomNext}
}

// isFull says whether an error comes of a full disk, or of a quota that is used up, here or on another host.
func isFull(err error) bool {
	return errors.Is(err, images.ErrNoSpace) || errors.Is(err, blob.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
