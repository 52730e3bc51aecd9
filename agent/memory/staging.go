package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent"
)

const (
	chunkSize  = 2 << 20
	chunkPages = chunkSize / pageSize
	batchSize  = 1 << 20 // copied at once
	batchPages = batchSize / pageSize
)

// slots says where the copy of each page of one process is in its staging file, as the number of the slot plus one; 0: there is none.
type slots map[uint64]*[chunkPages]uint32

func (s slots) at(page uint64) uint32 {
	c := s[page/chunkSize]
	if c == nil {
		return 0
	}
	return c[page%chunkSize/pageSize]
}

func (s slots) set(page uint64, slot uint32) {
	c := s[page/chunkSize]
	if c == nil {
		if slot == 0 {
			return
		}
		c = new([chunkPages]uint32)
		s[page/chunkSize] = c
	}
	c[page%chunkSize/pageSize] = slot
}

// count says how many pages from one on have a copy, up to end.
func (s slots) count(page, end uint64) int {
	n := 0
	for page < end {
		c := s[page/chunkSize]
		if c == nil {
			return n
		}
		stop := min(end, page/chunkSize*chunkSize+chunkSize)
		for ; page < stop; page += pageSize {
			if c[page%chunkSize/pageSize] == 0 {
				return n
			}
			n++
		}
	}
	return n
}

// staging is the file that holds the copies of one process's pages.
type staging struct {
	file *os.File
	used uint32   // slots that the file has
	free []uint32 // those of them that hold nothing
	gone bool     // the file has no name any more
}

// errTooLarge says that a process has more pages than a slot's number can say.
var errTooLarge = errors.New("it has too many pages to be tracked")

func newStaging(path string) (*staging, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make room for copies of memory: %w", err)
	}
	return &staging{file: f}, nil
}

func (s *staging) close() error {
	return errors.Join(s.unlink(), s.file.Close())
}

// unlink takes the file's name: the kernel removes it when nobody has it open, whatever ends the agent.
func (s *staging) unlink() error {
	if s.gone {
		return nil
	}
	s.gone = true
	return os.Remove(s.file.Name())
}

// release makes every slot free that holds none of the given copies.
func (s *staging) release(held slots) {
	used := make([]bool, s.used+1)
	for _, chunk := range held {
		for _, slot := range chunk {
			used[slot] = true
		}
	}
	s.free = s.free[:0]
	for slot := uint32(1); slot <= s.used; slot++ {
		if !used[slot] {
			s.free = append(s.free, slot)
		}
	}
}

// forget makes a range have no copies.
func (s *staging) forget(at slots, r agent.PageRange) {
	for page := r.Start; page < r.End; page += pageSize {
		if at[page/chunkSize] == nil {
			page = page/chunkSize*chunkSize + chunkSize - pageSize
			continue
		}
		if slot := at.at(page); slot != 0 {
			s.free = append(s.free, slot)
			at.set(page, 0)
		}
	}
}

// take finds slots for as many pages.
func (s *staging) take(n int) ([]uint32, error) {
	out := make([]uint32, 0, n)
	for len(out) < n && len(s.free) > 0 {
		out = append(out, s.free[len(s.free)-1])
		s.free = s.free[:len(s.free)-1]
	}
	slices.Sort(out)
	for len(out) < n {
		if s.used >= inTwin-1 {
			return nil, errTooLarge
		}
		s.used++
		out = append(out, s.used)
	}
	return out, nil
}

// put writes pages, one after the other in contents, to slots.
func (s *staging) put(to []uint32, contents []byte) error {
	for i := 0; i < len(to); {
		n := 1
		for i+n < len(to) && to[i+n] == to[i]+uint32(n) {
			n++
		}
		if _, err := s.file.WriteAt(contents[i*pageSize:(i+n)*pageSize], int64(to[i]-1)*pageSize); err != nil {
			return fmt.Errorf("write a copy of memory: %w", err)
		}
		i += n
	}
	return nil
}

// lateStore holds the pages that are copied while a member stands still: to write them to a file at once would lengthen that.
type lateStore struct {
	buf  []byte
	used int
}

// newLateStore makes a store whose memory is there: the kernel would otherwise bring it page by page during the freeze.
func newLateStore(size int) (*lateStore, error) {
	if size == 0 {
		return &lateStore{}, nil
	}
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("make room for copies of memory: %w", err)
	}
	_ = unix.Madvise(buf, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(buf, unix.MADV_POPULATE_WRITE) // only faster
	return &lateStore{buf: buf}, nil
}

// close gives the memory back and says how much that was.
func (l *lateStore) close() (size int) {
	size = len(l.buf)
	if l.buf != nil {
		_ = unix.Munmap(l.buf)
		l.buf = nil
	}
	return size
}

// What a run may have in place of a slot.
const (
	staged = ^uint32(0) - iota // each page has the slot that it has
	behind                     // not copied yet
	inTwin                     // the process's twin has the page
)

// run is pages in a row whose copies lie in a row: in the file from a slot on, or among the late ones.
type run struct {
	start uint64
	pages int
	slot  uint32 // 0: late; or staged, behind, inTwin
	late  int    // offset in bytes
}

func (r run) end() uint64 { return r.start + uint64(r.pages)*pageSize }

// join appends a run to those before it, to the last of them where it continues that.
func join(runs []run, r run) []run {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		size := last.pages * pageSize
		if last.end() == r.start && (last.slot >= inTwin && r.slot == last.slot || last.slot < inTwin && last.slot != 0 && r.slot == last.slot+uint32(last.pages) || last.slot == 0 && r.slot == 0 && r.late == last.late+size) {
			last.pages += r.pages
			return runs
		}
	}
	return append(runs, r)
}

// writeTo writes the copies of a run that lies in the file.
func (s *staging) writeTo(w io.Writer, r run) error {
	from, left := int64(r.slot-1)*pageSize, int64(r.pages)*pageSize
	if out, ok := w.(*os.File); ok {
		for left > 0 { // the kernel copies, without a detour through our memory
			n, err := unix.CopyFileRange(int(s.file.Fd()), &from, int(out.Fd()), nil, int(min(left, 1<<30)), 0)
			if err != nil || n == 0 {
				break
			}
			left -= int64(n)
		}
	}
	n, err := io.Copy(w, io.NewSectionReader(s.file, from, left))
	if err == nil && n != left {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read copies of memory: %w", err)
	}
	return nil
}

// sorted says whether runs are in the order of their addresses and do not overlap.
func sorted(runs []run) bool {
	return slices.IsSortedFunc(runs, func(a, b run) int {
		if a.end() <= b.start {
			return -1
		}
		return 1
	})
}
