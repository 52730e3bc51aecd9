package pack

import (
	"encoding/binary"
	"math"
	"sort"
)

// Known says where the chunks of earlier packs are. It is for one job's key, and for use by one Ingest at a time. It takes
// about 50 bytes a chunk. The zero value knows nothing.
type Known struct {
	packs  []PackRef
	starts []uint32 // of each pack: its first chunk in names
	names  nameSet
}

// Add makes the chunks of a pack known. Where two packs have a chunk the first added counts.
func (kn *Known) Add(p PackRef, table []Name) {
	p.Chunks = len(table)
	kn.packs = append(kn.packs, p)
	kn.starts = append(kn.starts, kn.names.len())
	for i := range table {
		kn.names.add(&table[i])
	}
}

// find says in which pack, by its place in packs, and where in it a chunk is.
func (kn *Known) find(name *Name) (pack, chunk int, ok bool) {
	if kn == nil {
		return 0, 0, false
	}
	id, ok := kn.names.find(name)
	if !ok {
		return 0, 0, false
	}
	pack = sort.Search(len(kn.starts), func(i int) bool { return kn.starts[i] > id }) - 1
	return pack, int(id - kn.starts[pack]), true
}

// blockNames is how many names are allocated at a time.
const blockNames = 4096

// nameSet numbers names in the order in which they are added, and finds their numbers. A name is 32 bytes in a block, which never moves, and
// 8 bytes in a hash table that is between 3/8 and 3/4 full: no pointers, and little to copy as it grows.
type nameSet struct {
	blocks [][]Name
	n      uint32
	// slots is the hash table, probed in line. A slot is 32 bits of the name, and in the lower half the name's number plus 1; 0 is empty.
	// A name is a MAC, so its own bits are as good as a hash.
	slots []uint64
	used  int
}

func (s *nameSet) len() uint32 { return s.n }

// add numbers a name. The second of two equal ones gets a number too, but find finds the first.
func (s *nameSet) add(name *Name) {
	if s.n == math.MaxUint32 {
		panic("pack: more than 16 TiB of chunks are known")
	}
	if s.n%blockNames == 0 {
		s.blocks = append(s.blocks, make([]Name, blockNames))
	}
	s.blocks[s.n/blockNames][s.n%blockNames] = *name
	s.n++
	if _, ok := s.find(name); ok {
		return
	}
	if 4*s.used >= 3*len(s.slots) {
		s.grow()
	}
	s.insert(uint64(hashOf(name))<<32 | uint64(s.n))
	s.used++
}

func (s *nameSet) find(name *Name) (number uint32, ok bool) {
	if len(s.slots) == 0 {
		return 0, false
	}
	hash, mask := hashOf(name), uint32(len(s.slots)-1)
	for i := hash & mask; ; i = (i + 1) & mask {
		slot := s.slots[i]
		if slot == 0 {
			return 0, false
		}
		if uint32(slot>>32) == hash {
			number := uint32(slot) - 1
			if s.blocks[number/blockNames][number%blockNames] == *name {
				return number, true
			}
		}
	}
}

func (s *nameSet) insert(slot uint64) {
	mask := uint32(len(s.slots) - 1)
	i := uint32(slot>>32) & mask
	for s.slots[i] != 0 {
		i = (i + 1) & mask
	}
	s.slots[i] = slot
}

func (s *nameSet) grow() {
	old := s.slots
	s.slots = make([]uint64, max(1024, 2*len(old)))
	for _, slot := range old {
		if slot != 0 {
			s.insert(slot)
		}
	}
}

func hashOf(name *Name) uint32 { return binary.LittleEndian.Uint32(name[:]) }
