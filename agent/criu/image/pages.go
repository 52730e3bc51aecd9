package image

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"ss/agent"
)

// Of criu/include/pagemap.h and image.h, and of mmap(2).
const (
	entryPresent   = 1 << 2 // PE_PRESENT: its pages are in the image of pages
	vmaRegular     = 1 << 0
	vmaAnonPrivate = 1 << 9
	mapDroppable   = 0x08
	mapHugetlb     = 0x40000
	// wideField is PagemapEntry.nr_pages of CRIU 4.2 and later, which goes beyond 32 bits. Its older field is written as well.
	wideField = 5
)

// AddPages puts pages into the images in dir that CRIU was not to dump. The images of a process whose pages cannot be added are left as they were, and
// are not to be used.
func (Editor) AddPages(dir string, pages []agent.ProcessPages) error {
	path := filepath.Join(dir, OmittedName)
	omitted, err := ReadRanges(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, p := range pages {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("mm-%d.img", p.InnerPid))); errors.Is(err, os.ErrNotExist) && len(omitted[p.InnerPid]) == 0 {
			continue // it was about to end when it was frozen, and has ended before CRIU came
		}
		if err := addPages(dir, p, omitted[p.InnerPid]); err != nil {
			return fmt.Errorf("add memory to the images of process %d: %w", p.InnerPid, err)
		}
		delete(omitted, p.InnerPid)
	}
	for pid := range omitted {
		return fmt.Errorf("the images lack memory of process %d: criu was kept from it, and nobody has copied it", pid)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove what was omitted: %w", err)
	}
	return nil
}

func addPages(dir string, p agent.ProcessPages, omitted []agent.PageRange) error {
	keep, err := checkPages(dir, p, omitted)
	if err != nil {
		return err
	}
	old, err := readPagemap(filepath.Join(dir, fmt.Sprintf("pagemap-%d.img", p.InnerPid)))
	if err != nil {
		return err
	}
	pieces, err := merge(old.entries, p, keep)
	if err != nil {
		return err
	}
	image := filepath.Join(dir, fmt.Sprintf("pages-%d.img", old.id))
	if err := old.writePages(image, pieces, p); err != nil {
		return err
	}
	return old.write(pieces)
}

// checkPages checks that what we copied is exactly what CRIU was kept from, in mappings that are what we took them for, and says which runs go into
// the images: those of mappings that the kernel may drop any time do not, as with CRIU.
func checkPages(dir string, p agent.ProcessPages, omitted []agent.PageRange) (keep []bool, err error) {
	img, err := ReadOne(filepath.Join(dir, fmt.Sprintf("mm-%d.img", p.InnerPid)), &mm.MmEntry{})
	if err != nil {
		return nil, err
	}
	var plain, droppable []agent.PageRange
	for _, v := range img.GetVmas() {
		r := agent.PageRange{Start: v.GetStart(), End: v.GetEnd()}
		switch {
		case v.GetStatus()&(vmaRegular|vmaAnonPrivate) != vmaRegular|vmaAnonPrivate || v.GetFlags()&mapHugetlb != 0:
		case v.GetFlags()&mapDroppable != 0:
			droppable = append(droppable, r)
		default:
			plain = append(plain, r)
		}
	}
	plain, droppable, omitted = union(plain), union(droppable), union(omitted)
	for _, r := range union(p.Ranges) {
		if !within(r, union(append(slices.Clone(plain), droppable...))) {
			return nil, fmt.Errorf("%#x to %#x is not private anonymous memory in the images", r.Start, r.End)
		}
		for _, part := range Overlapping(plain, r) {
			if !within(part, omitted) {
				return nil, fmt.Errorf("criu did not ask for the pages from %#x to %#x", part.Start, part.End)
			}
		}
	}
	for _, r := range omitted {
		if !within(r, union(p.Ranges)) {
			return nil, fmt.Errorf("nobody has copied %#x to %#x", r.Start, r.End)
		}
	}
	last := uint64(0)
	for _, r := range p.Runs {
		if r.Start < last || r.Start >= r.End || !within(r, union(p.Ranges)) {
			return nil, fmt.Errorf("pages from %#x to %#x are out of place", r.Start, r.End)
		}
		last = r.End
		keep = append(keep, within(r, plain))
		if !keep[len(keep)-1] && !within(r, droppable) {
			return nil, fmt.Errorf("pages from %#x to %#x are of mappings of two kinds", r.Start, r.End)
		}
	}
	return keep, nil
}

// union sorts ranges and joins those that touch.
func union(all []agent.PageRange) []agent.PageRange {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b agent.PageRange) int { return cmp.Compare(a.Start, b.Start) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].End >= r.Start {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// within says whether a range lies in one of all, which are in order and do not touch.
func within(r agent.PageRange, all []agent.PageRange) bool {
	found := Overlapping(all, r)
	return len(found) == 1 && found[0] == r
}

// pagemapImage is a pagemap-PID.img: which pages of a process the image of pages holds, one after the other.
type pagemapImage struct {
	path    string
	magic   [8]byte
	id      uint32 // of the image of pages
	wide    bool   // entries have the wide field
	entries []pagemapEntry
}

type pagemapEntry struct {
	agent.PageRange

	flags uint32
}

// readPagemap reads one. An entry whose pages are elsewhere, or not in order, is an error: restores need them in order.
func readPagemap(path string) (*pagemapImage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	name := filepath.Base(path)
	if err := checkFrames(f, "pagemap"); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	m := &pagemapImage{path: path}
	if _, err := io.ReadFull(f, m.magic[:]); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	for n := 0; ; n++ {
		frame, err := readFrame(f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && n == 0 {
			var head pagemap.PagemapHead
			err = proto.Unmarshal(frame, &head)
			m.id = head.GetPagesId()
		} else if err == nil {
			err = m.add(frame)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
	}
	return m, nil
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.LittleEndian.Uint32(size[:])) // checkFrames has seen that it is there
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func (m *pagemapImage) add(frame []byte) error {
	var e pagemap.PagemapEntry
	if err := proto.Unmarshal(frame, &e); err != nil {
		return err
	}
	pages := uint64(e.GetNrPages())
	for unknown := e.ProtoReflect().GetUnknown(); len(unknown) > 0; {
		num, typ, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return protowire.ParseError(n)
		}
		unknown = unknown[n:]
		if num == wideField && typ == protowire.VarintType {
			if pages, n = protowire.ConsumeVarint(unknown); n < 0 {
				return protowire.ParseError(n)
			}
			m.wide = true
		} else if n = protowire.ConsumeFieldValue(num, typ, unknown); n < 0 {
			return protowire.ParseError(n)
		}
		unknown = unknown[n:]
	}
	out := pagemapEntry{agent.PageRange{Start: e.GetVaddr(), End: e.GetVaddr() + pages*PageSize}, e.GetFlags()}
	if e.GetInParent() || out.flags&entryPresent == 0 || out.End <= out.Start {
		return fmt.Errorf("an entry at %#x whose pages are not in the images", out.Start)
	}
	if n := len(m.entries); n > 0 && m.entries[n-1].End > out.Start {
		return fmt.Errorf("the entry at %#x is out of order", out.Start)
	}
	m.entries = append(m.entries, out)
	return nil
}

// piece is what the new image of pages is made of: an entry of CRIU's, or one of our runs.
type piece struct {
	pagemapEntry

	run int // -1: CRIU's
}

// merge puts CRIU's entries and our runs into one order. They must not overlap.
func merge(entries []pagemapEntry, p agent.ProcessPages, keep []bool) ([]piece, error) {
	all := union(p.Ranges)
	var out []piece
	for _, e := range entries {
		if len(Overlapping(all, e.PageRange)) > 0 {
			return nil, fmt.Errorf("criu has dumped pages at %#x, which it was not to see", e.Start)
		}
		out = append(out, piece{e, -1})
	}
	for i, r := range p.Runs {
		if keep[i] {
			out = append(out, piece{pagemapEntry{r, entryPresent}, i})
		}
	}
	slices.SortFunc(out, func(a, b piece) int { return cmp.Compare(a.Start, b.Start) })
	return out, nil
}

// writePages makes the image of pages again.
func (m *pagemapImage) writePages(path string, pieces []piece, p agent.ProcessPages) (err error) {
	old, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("the image of pages: %w", err)
	}
	defer old.Close()
	var size int64
	for _, e := range m.entries {
		size += int64(e.End - e.Start)
	}
	if fi, err := old.Stat(); err != nil || fi.Size() != size {
		return errors.Join(fmt.Errorf("the image of pages does not have the %d bytes that its pagemap says", size), err)
	}
	return replace(path, func(f *os.File) error {
		for _, part := range pieces {
			var err error
			want := int64(part.End - part.Start)
			before, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if part.run < 0 {
				_, err = io.CopyN(f, old, want)
			} else {
				err = p.Write(f, part.run)
			}
			if err != nil {
				return err
			}
			if after, err := f.Seek(0, io.SeekCurrent); err != nil || after-before != want {
				return errors.Join(fmt.Errorf("%d bytes of memory at %#x became %d", want, part.Start, after-before), err)
			}
		}
		return nil
	})
}

// write makes the pagemap again. Pieces that touch, and are alike, become one entry.
func (m *pagemapImage) write(pieces []piece) error {
	head, err := proto.Marshal(&pagemap.PagemapHead{PagesId: proto.Uint32(m.id)})
	if err != nil {
		return err
	}
	out := appendFrame(m.magic[:], head)
	for i := 0; i < len(pieces); {
		e := pieces[i].pagemapEntry
		for i++; i < len(pieces) && pieces[i].Start == e.End && pieces[i].flags == e.flags && (pieces[i].End-e.Start)/PageSize <= math.MaxInt32; i++ {
			e.End = pieces[i].End
		}
		pages := (e.End - e.Start) / PageSize
		if pages > math.MaxUint32 {
			return fmt.Errorf("%d pages in a row", pages)
		}
		entry := &pagemap.PagemapEntry{Vaddr: proto.Uint64(e.Start), NrPages: proto.Uint32(uint32(pages)), Flags: proto.Uint32(e.flags)}
		frame, err := proto.Marshal(entry)
		if err != nil {
			return err
		}
		if m.wide {
			frame = protowire.AppendTag(frame, wideField, protowire.VarintType)
			frame = protowire.AppendVarint(frame, pages)
		}
		out = appendFrame(out, frame)
	}
	return replace(m.path, func(f *os.File) error {
		_, err := f.Write(out)
		return err
	})
}

func appendFrame(b, frame []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	return append(b, frame...)
}

// replace writes a file that takes the place of the one at path when it is whole. It is not made durable: what reads it next is the storing of the cut, which
// is not over before its packs are.
func replace(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return fmt.Errorf("write image %s: %w", filepath.Base(path), err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// Pages reads the memory of one process from images, a page at a time.
type Pages struct {
	file    *os.File
	entries []pagemapEntry
	page    [PageSize]byte
}

// OpenPages opens the memory of a process in the images of dir.
func OpenPages(dir string, innerPid int) (*Pages, error) {
	m, err := readPagemap(filepath.Join(dir, fmt.Sprintf("pagemap-%d.img", innerPid)))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, fmt.Sprintf("pages-%d.img", m.id)))
	if err != nil {
		return nil, fmt.Errorf("the image of pages: %w", err)
	}
	return &Pages{file: f, entries: m.entries}, nil
}

// Next returns the next page and its address, or io.EOF. The page is good until the next call.
func (p *Pages) Next() (at uint64, page []byte, err error) {
	for len(p.entries) > 0 && p.entries[0].Start == p.entries[0].End {
		p.entries = p.entries[1:]
	}
	if len(p.entries) == 0 {
		return 0, nil, io.EOF
	}
	at = p.entries[0].Start
	p.entries[0].Start += PageSize
	if _, err := io.ReadFull(p.file, p.page[:]); err != nil {
		return at, nil, fmt.Errorf("page %#x: %w", at, err)
	}
	return at, p.page[:], nil
}

// Close closes the images.
func (p *Pages) Close() error { return p.file.Close() }

// RestartableAreas lists where the threads in the images of dir have told the kernel to write which processor they run on (rseq(2)).
func RestartableAreas(dir string) ([]uint64, error) {
	names, err := filepath.Glob(filepath.Join(dir, "core-*.img"))
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, name := range names {
		core, err := ReadOne(name, &criu_core.CoreEntry{})
		if err != nil {
			return nil, err
		}
		if at := core.GetThreadCore().GetRseqEntry().GetRseqAbiPointer(); at != 0 {
			out = append(out, at)
		}
	}
	return out, nil
}
