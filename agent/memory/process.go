package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

const (
	// pieceSize is what a scan covers at once: between two of them the copying can be stopped.
	pieceSize = 64 << 20
	// lag is how long a page that was protected is left before it is copied. A system call that writes to memory which it has
	// pinned (process_vm_writev(2), say) shows as a write when it pins, and its data may come later.
	lag = 20 * time.Millisecond
)

// plant is a mistake that a test makes on purpose, to see that the comparison of both ways finds it. It is empty but in tests.
type plant string

const (
	plantUnarmed plant = "a page is taken as unwritten that was not protected again"
	plantZapped  plant = "a range that was given back is taken as unwritten"
	plantOld     plant = "an old copy is used instead of the newest"
	plantSkip    plant = "a mapping is skipped"
	plantNoTwin  plant = "the program's own memory is read instead of its twin's"
	plantLacks   plant = "a page is taken from a twin that does not have it"
	plantFlags   plant = "the flags of mappings are not those of the freeze"
)

// process is one process whose memory is tracked.
type process struct {
	pid, inner int
	born       uint64 // proc.Stat.Start
	guard      uint64

	uffd    uffd
	known   []agent.PageRange // mappings that are registered, as of the last round
	slots   slots
	pending []agent.PageRange // protected, and not copied yet
	staging *staging
	buf     []byte
	refused map[agent.PageRange]string // mappings that could not be registered

	plant plant // see there

	mem  *proc.Memory // while a round is made, and from the freeze on
	scan *scanner     // at the freeze
	runs []run        // what the cut holds of it, in the order of the addresses
	twin *proc.Memory // its memory as it was when it was frozen; nil: it has no twin
}

func (p *process) close() error {
	if p.scan != nil {
		p.scan.close()
	}
	p.closeMemory()
	p.closeTwin()
	for _, r := range p.known {
		_ = p.uffd.unprotect(r) // it may have changed; closing the descriptor does the rest
	}
	p.uffd.close()
	return p.staging.close()
}

// round finds what was written since the last round, and copies that. It returns the number of bytes. When ctx ends it stops, and the next round goes on; what is
// not copied then either is copied at the freeze.
func (p *process) round(ctx context.Context, pause func(context.Context) error) (int64, error) {
	s, err := openScanner(p.pid, p.guard)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if p.mem, err = proc.OpenMemory(p.pid); err != nil {
		return 0, err
	}
	defer p.closeMemory()
	regions, err := p.protect(ctx, s)
	if err != nil {
		return 0, err
	}
	p.pending = append(p.pending, regions...)
	select {
	case <-time.After(lag):
	case <-ctx.Done():
		return 0, nil
	}
	return p.copyPending(ctx, pause)
}

// copyPending copies the pages that are protected and have no copy. It stops when ctx ends.
func (p *process) copyPending(ctx context.Context, pause func(context.Context) error) (sum int64, err error) {
	b := batch{p: p}
	next, nextAt := 0, uint64(0) // where the pages begin that are not copied
	for i, r := range p.pending {
		for at := r.Start; at < r.End; at += pageSize {
			if p.slots.at(at) != 0 || b.add(at) {
				continue
			}
			if !goesOn(ctx, pause) {
				p.pending = p.pending[next:]
				p.pending[0].Start = max(p.pending[0].Start, nextAt)
				return sum, nil
			}
			n, err := b.toFile()
			sum += n
			if err != nil {
				return sum, err
			}
			next, nextAt = i, at
			b.add(at)
		}
	}
	n, err := b.toFile()
	p.pending = nil
	return sum + n, err
}

// goesOn waits until copying may go on, and says whether it may.
func goesOn(ctx context.Context, pause func(context.Context) error) bool {
	return pause(ctx) == nil && ctx.Err() == nil
}

// rest is how much is pending, in bytes.
func (p *process) rest() (sum int64) {
	for _, r := range p.pending {
		sum += int64(r.End - r.Start)
	}
	return sum
}

// protect registers mappings that are new, protects what was written, and lists that. No copy of these pages counts any more.
func (p *process) protect(ctx context.Context, s *scanner) ([]agent.PageRange, error) {
	maps, err := mappings(p.pid)
	if err != nil {
		return nil, err
	}
	p.known = p.known[:0]
	for _, m := range maps {
		if !m.ours() || !s.registered(m.Start) && (!p.unchanged(m) || !p.register(m.PageRange)) {
			continue
		}
		p.known = append(p.known, m.PageRange)
	}
	var regions []agent.PageRange
	for _, m := range p.known {
		for at := m.Start; at < m.End && ctx.Err() == nil; at += pieceSize {
			found, err := p.protectPiece(s, agent.PageRange{Start: at, End: min(at+pieceSize, m.End)})
			if errors.Is(err, errUnregistered) {
				break // it changes at this moment: the next round sees that, or the freeze does
			}
			if err != nil {
				return nil, err
			}
			regions = append(regions, found...)
		}
	}
	return regions, nil
}

// protectPiece protects what was written of a piece of a mapping, and lists that.
func (p *process) protectPiece(s *scanner, piece agent.PageRange) (found []agent.PageRange, err error) {
	err = s.written(piece, func(r region) error {
		written := agent.PageRange{Start: r.start, End: r.end}
		if p.plant != plantOld {
			p.staging.forget(p.slots, written)
		} else if p.slots.count(written.Start, written.End) > 0 {
			return nil
		}
		found = append(found, written)
		return nil
	})
	if err != nil {
		// The kernel has protected what lies before the place where it failed, and does not say which pages those are.
		p.staging.forget(p.slots, piece)
		return nil, err
	}
	return found, nil
}

// unchanged says whether the mapping is still the one that was listed. A list of thousands is old by its end, and to register a part of what is there by then
// would split that mapping until the next round: a program that moves it as a whole (mremap(2)) fails meanwhile. What changes after this question is not noticed.
func (p *process) unchanged(m mapping) bool {
	now, err := proc.RegionAt(p.pid, m.Start)
	if errors.Is(err, proc.ErrNoRegionAt) {
		return true // an older kernel: as listed
	}
	return err == nil && now.Start == m.Start && now.End == m.End && now.Perms == m.perms && now.Inode == m.inode
}

// register makes writes to a mapping be noted. Whatever was copied at these addresses before was of another mapping.
func (p *process) register(r agent.PageRange) bool {
	p.staging.forget(p.slots, r)
	err := p.uffd.register(r)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not there any more
		p.refused[r] = err.Error()
	}
	return err == nil
}

// batch is pages that are copied at once.
type batch struct {
	p     *process
	pages []uint64
	to    []run // where they go, during the freeze
}

// add puts a page in, unless the batch is full.
func (b *batch) add(page uint64) bool {
	if len(b.pages) == batchPages {
		return false
	}
	b.pages = append(b.pages, page)
	return true
}

// toFile copies the pages to the staging file. Those that cannot be read any more have no copy.
func (b *batch) toFile() (int64, error) {
	pages := b.pages
	b.pages = b.pages[:0]
	var sum int64
	for len(pages) > 0 {
		n, err := b.p.read(pages, b.p.buf)
		if err != nil {
			return sum, err
		}
		to, err := b.p.staging.take(n)
		if err == nil {
			err = b.p.staging.put(to, b.p.buf)
		}
		if err != nil {
			return sum, err
		}
		for i, slot := range to {
			b.p.slots.set(pages[i], slot)
		}
		sum += int64(n) * pageSize
		pages = pages[min(n+1, len(pages)):] // the one after those could not be read
	}
	return sum, nil
}

// read copies pages into buf and says how many there are, counted from the first: the next one cannot be read.
func (p *process) read(pages []uint64, buf []byte) (int, error) {
	for done := 0; done < len(pages); {
		n := 1
		for done+n < len(pages) && pages[done+n] == pages[done]+uint64(n)*pageSize {
			n++
		}
		got, err := p.mem.Read(buf[done*pageSize:(done+n)*pageSize], pages[done])
		if err != nil {
			return 0, fmt.Errorf("read the memory of process %d: %w", p.pid, err)
		}
		done += got / pageSize
		if got < n*pageSize {
			return done, nil
		}
	}
	return len(pages), nil
}

func (p *process) closeMemory() {
	if p.mem != nil {
		p.mem.Close()
		p.mem = nil
	}
}

// divide says which mappings of the frozen process are copied by us: those that are tracked.
func (p *process) divide() ([]agent.PageRange, error) {
	var err error
	if p.scan, err = openScanner(p.pid, p.guard); err != nil {
		return nil, err
	}
	if p.mem, err = proc.OpenMemory(p.pid); err != nil {
		return nil, err
	}
	maps, err := mappings(p.pid)
	if err != nil {
		return nil, err
	}
	p.known = p.known[:0]
	for _, m := range maps {
		if m.ours() && p.scan.registered(m.Start) {
			p.known = append(p.known, m.PageRange)
		}
	}
	return p.known, nil
}

// list makes the list of all pages that the cut holds of the frozen process. Those without a good copy are behind; it returns how many.
func (p *process) list(ctx context.Context) (left int, err error) {
	for i, m := range p.known {
		if p.plant == plantSkip && i == len(p.known)/2 {
			continue
		}
		seen := m.Start
		err := p.scan.all(m, func(r region) error {
			p.misjudge(agent.PageRange{Start: seen, End: r.start})
			seen = r.end
			if p.plant == plantUnarmed {
				r.categories = 0
			}
			for page := r.start; page < r.end; {
				n, slot := p.slots.count(page, r.end), staged
				if r.categories&pageWritten != 0 {
					n = 0
				}
				if n == 0 {
					slot = behind
					n = 1
					if r.categories&pageWritten != 0 {
						n = int((r.end - page) / pageSize)
					}
					left += n
				}
				p.runs = join(p.runs, run{start: page, pages: n, slot: slot})
				page += uint64(n) * pageSize
			}
			return ctx.Err()
		})
		if err != nil {
			return left, fmt.Errorf("list the memory of process %d at %#x: %w", p.pid, m.Start, err)
		}
		p.misjudge(agent.PageRange{Start: seen, End: m.End})
	}
	return left, nil
}

// copyBehind copies the pages that are behind. It returns the number of bytes that it copied.
func (p *process) copyBehind(ctx context.Context, late *lateStore) (copied int64, err error) {
	b := batch{p: p}
	listed := p.runs
	p.runs = make([]run, 0, len(listed))
	for _, r := range listed {
		if r.slot != behind {
			p.runs = join(p.runs, r)
			continue
		}
		for page := r.start; page < r.end(); page += pageSize {
			if !b.add(page) {
				n, err := b.keep(late)
				copied += n
				if err = errors.Join(err, ctx.Err()); err != nil {
					return copied, fmt.Errorf("copy the memory of process %d at %#x: %w", p.pid, page, err)
				}
				b.add(page)
			}
			to, err := p.place(page, late)
			if err != nil {
				return copied, err
			}
			b.to = append(b.to, to)
			p.runs = join(p.runs, to)
		}
	}
	n, err := b.keep(late)
	return copied + n, err
}

// misjudge makes one of the mistakes: pages that are absent get the contents that they had when they were copied.
func (p *process) misjudge(absent agent.PageRange) {
	if p.plant != plantZapped {
		return
	}
	for page := absent.Start; page < absent.End; page += pageSize {
		if p.slots.at(page) != 0 {
			p.runs = join(p.runs, run{start: page, pages: 1, slot: staged})
		}
	}
}

// expand finds the slots of the pages that were copied before the freeze. The member runs meanwhile.
func (p *process) expand() error {
	var out []run
	for _, r := range p.runs {
		if r.slot != staged {
			out = join(out, r)
			continue
		}
		for page := r.start; page < r.end(); page += pageSize {
			out = join(out, run{start: page, pages: 1, slot: p.slots.at(page)})
		}
	}
	p.runs = out
	if !sorted(out) {
		return fmt.Errorf("the pages of process %d are not in order", p.pid)
	}
	return nil
}

// place says where a page goes that is copied during the freeze.
func (p *process) place(page uint64, late *lateStore) (run, error) {
	if late.used+pageSize <= len(late.buf) {
		late.used += pageSize
		return run{start: page, pages: 1, late: late.used - pageSize}, nil
	}
	slot, err := p.staging.take(1)
	if err != nil {
		return run{}, err
	}
	return run{start: page, pages: 1, slot: slot[0]}, nil
}

// keep copies the pages of a frozen process to their places. All of them are there to be read.
func (b *batch) keep(late *lateStore) (int64, error) {
	pages, to := b.pages, b.to
	b.pages, b.to = pages[:0], to[:0]
	if len(pages) == 0 {
		return 0, nil
	}
	buf := b.p.buf
	direct := to[len(to)-1].slot == 0 // places in memory are given first, and one after the other
	if direct {
		buf = late.buf[to[0].late:]
	}
	n, err := b.p.read(pages, buf)
	if err != nil {
		return 0, err
	}
	if n != len(pages) {
		return 0, fmt.Errorf("read the memory of process %d: page %#x cannot be read", b.p.pid, pages[n])
	}
	for i, r := range to {
		from := buf[i*pageSize : (i+1)*pageSize]
		switch {
		case direct:
		case r.slot == 0:
			copy(late.buf[r.late:], from)
		default:
			if err := b.p.staging.put([]uint32{r.slot}, from); err != nil {
				return 0, err
			}
		}
	}
	return int64(n) * pageSize, nil
}

// write writes one of the runs.
func (p *process) write(w io.Writer, r run, late *lateStore) error {
	if r.slot == inTwin {
		return p.writeFromTwin(w, r)
	}
	if r.slot != 0 {
		return p.staging.writeTo(w, r)
	}
	_, err := w.Write(late.buf[r.late : r.late+r.pages*pageSize])
	return err
}
