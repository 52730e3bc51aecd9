package files

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
)

// Bounds of what a build id is looked for in. A linker writes about forty headers, and notes of less than a kilobyte. Programs are read while
// members stand still, so a file in which thousands of headers name one note must cost no more than one that has a note.
const (
	maxELFHeaders = 1 << 10
	maxNoteBytes  = 1 << 20 // of all notes of a file
	maxBuildID    = 64
	noteBuildID   = 3 // NT_GNU_BUILD_ID of elf.h
)

// BuildID returns the GNU build id of an ELF file in hex, and "" if the file has none or cannot be read. It reads notes where they
// lie, in segments and in sections (the Go linker puts the id into a section only), and decompresses nothing: a file of a megabyte may
// claim gigabytes. It does not wait for a FIFO.
func BuildID(path string) string {
	f, err := Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return ReadBuildID(f)
}

// ReadBuildID is BuildID of an open file.
func ReadBuildID(r io.ReaderAt) string {
	h, ok := readELFHeader(r)
	if !ok {
		return ""
	}
	left := int64(maxNoteBytes)
	for _, t := range []elfTable{h.segments, h.sections} {
		for i := range t.count {
			off, size, ok := h.note(r, t, i)
			if !ok || size > left {
				continue
			}
			left -= size
			notes := make([]byte, size)
			if _, err := r.ReadAt(notes, off); err != nil {
				continue
			}
			if id := findBuildID(h.order, notes); id != "" {
				return id
			}
		}
	}
	return ""
}

// elfHeader is what ReadBuildID needs of an ELF header.
type elfHeader struct {
	order              binary.ByteOrder
	wide               bool // 64 bits
	segments, sections elfTable
}

// elfTable says where the headers of segments or sections lie. It is empty where the file's own words make no sense.
type elfTable struct {
	sections    bool
	off         int64
	size, count int // of one header; of headers
}

func readELFHeader(r io.ReaderAt) (h elfHeader, ok bool) {
	var b [64]byte
	n, err := r.ReadAt(b[:], 0)
	if (err != nil && !errors.Is(err, io.EOF)) || n < 52 || string(b[:4]) != elf.ELFMAG {
		return h, false
	}
	switch elf.Data(b[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		h.order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		h.order = binary.BigEndian
	default:
		return h, false
	}
	half := func(at int) int { return int(h.order.Uint16(b[at:])) }
	switch class := elf.Class(b[elf.EI_CLASS]); {
	case class == elf.ELFCLASS64 && n == len(b):
		h.wide = true
		h.segments = newELFTable(false, h.order.Uint64(b[32:]), half(54), half(56), 56)
		h.sections = newELFTable(true, h.order.Uint64(b[40:]), half(58), half(60), 64)
	case class == elf.ELFCLASS32:
		h.segments = newELFTable(false, uint64(h.order.Uint32(b[28:])), half(42), half(44), 32)
		h.sections = newELFTable(true, uint64(h.order.Uint32(b[32:])), half(46), half(48), 40)
	}
	return h, h.order != nil
}

func newELFTable(sections bool, off uint64, size, count, least int) elfTable {
	if off == 0 || off > math.MaxInt64/2 || size < least || count > maxELFHeaders {
		return elfTable{}
	}
	return elfTable{sections: sections, off: int64(off), size: size, count: count}
}

// note returns where the i-th segment or section lies in the file, if it holds notes as they are.
func (h elfHeader) note(r io.ReaderAt, t elfTable, i int) (off, size int64, ok bool) {
	var b [64]byte
	if _, err := r.ReadAt(b[:min(t.size, len(b))], t.off+int64(i)*int64(t.size)); err != nil {
		return 0, 0, false
	}
	word := func(at int) int64 { return int64(h.order.Uint32(b[at:])) }
	long := func(at int) int64 { return int64(h.order.Uint64(b[at:])) }
	var flags int64
	switch {
	case t.sections:
		if ok = elf.SectionType(word(4)) == elf.SHT_NOTE; h.wide {
			flags, off, size = long(8), long(24), long(32)
		} else {
			flags, off, size = word(8), word(16), word(20)
		}
	default:
		if ok = elf.ProgType(word(0)) == elf.PT_NOTE; h.wide {
			off, size = long(8), long(32)
		} else {
			off, size = word(4), word(16)
		}
	}
	return off, size, ok && off >= 0 && size > 0 && elf.SectionFlag(flags)&elf.SHF_COMPRESSED == 0
}

// findBuildID goes through notes: name size, description size, type, name and description, each padded to four bytes.
func findBuildID(order binary.ByteOrder, notes []byte) string {
	padded := func(n uint32) int64 { return (int64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize, descSize, kind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
		desc := 12 + padded(nameSize)
		end := desc + padded(descSize)
		if desc+int64(descSize) > int64(len(notes)) {
			return ""
		}
		if kind == noteBuildID && nameSize == 4 && string(notes[12:16]) == "GNU\x00" && descSize > 0 && descSize <= maxBuildID {
			return hex.EncodeToString(notes[desc : desc+int64(descSize)])
		}
		notes = notes[min(end, int64(len(notes))):]
	}
	return ""
}
