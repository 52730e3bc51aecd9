package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// bbolt's file, as far as one must know it to tell that following its pages is safe (bbolt
// internal/common: page.go, meta.go, bucket.go). All numbers are in the machine's byte order.
const (
	pageHeader   = 16 // id u64, flags u16, count u16, overflow u32
	elementSize  = 16 // leaf: flags, pos, key size, value size, each u32; branch: pos u32, key size u32, page u64
	bucketHeader = 16 // root page u64, sequence u64
	metaSize     = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)

	// maxDepth bounds how deep buckets and branches may nest; ours need 3 or 4.
	maxDepth = 32

	// maxFile bounds what is read as a catalogue.
	maxFile = 1 << 34
)

var order = binary.NativeEndian

// boltMeta is one of the two roots of the file.
type boltMeta struct {
	pageSize, root, freelist, pages, txid uint64
}

// pageCheck walks the pages that one root reaches.
type pageCheck struct {
	data []byte
	meta boltMeta
	seen []bool
}

// checkPages returns an error that wraps ErrCorrupt unless every page that the file's newer valid root
// reaches is in the file, of a known kind, reached once only, and filled as bbolt fills it; unless its keys are where a search looks for
// them; and unless all other pages are on the list of free ones. So no flipped bit hides a record from those who read.
// It reads the whole file, which is a matter of milliseconds for a catalogue.
func checkPages(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s has %d bytes, no catalogue has more than %d: %w", f.Name(), info.Size(), int64(maxFile), ErrCorrupt)
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if err := checkData(data[:n]); err != nil {
		return fmt.Errorf("%s: %w: %w; put a copy of it back, or make the cluster anew", f.Name(), err, ErrCorrupt)
	}
	return nil
}

func checkData(data []byte) error {
	meta, err := newerMeta(data)
	if err != nil {
		return err
	}
	if meta.pages < 4 || meta.pages > uint64(len(data))/meta.pageSize {
		return fmt.Errorf("file of %d bytes should have %d pages of %d", len(data), meta.pages, meta.pageSize)
	}
	c := &pageCheck{data: data, meta: meta, seen: make([]bool, meta.pages)}
	c.seen[0], c.seen[1] = true, true
	if err := c.tree(meta.root, 0, nil, nil); err != nil {
		return err
	}
	if meta.freelist == noFreelist {
		return nil
	}
	if err := c.freelist(); err != nil {
		return err
	}
	if lost := slices.Index(c.seen, false); lost >= 0 {
		return fmt.Errorf("page %d is neither in use nor free", lost)
	}
	return nil
}

// newerMeta picks the root that bbolt would: of those that are valid, the one of the later transaction.
func newerMeta(data []byte) (boltMeta, error) {
	var best boltMeta
	found := false
	// The page size is in the meta itself, and so is where the second one lies: try what bbolt tries.
	for size := uint64(512); size <= 1<<16; size *= 2 {
		for _, at := range []uint64{0, size} {
			m, ok := readMeta(data, at)
			if ok && m.pageSize == size && (!found || m.txid > best.txid) {
				best, found = m, true
			}
		}
	}
	if !found {
		return best, fmt.Errorf("no valid root page")
	}
	return best, nil
}

func countRoots(data []byte, pageSize uint64) int {
	n := 0
	for _, at := range []uint64{0, pageSize} {
		if m, ok := readMeta(data, at); ok && m.pageSize == pageSize {
			n++
		}
	}
	return n
}

func readMeta(data []byte, at uint64) (boltMeta, bool) {
	if uint64(len(data)) < at+pageHeader+metaSize {
		return boltMeta{}, false
	}
	m := data[at+pageHeader:][:metaSize]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaSize-8])
	ok := order.Uint32(m) == boltMagic && order.Uint32(m[4:]) == boltVersion && order.Uint64(m[metaSize-8:]) == sum.Sum64()
	return boltMeta{
		pageSize: uint64(order.Uint32(m[8:])),
		root:     order.Uint64(m[16:]),
		freelist: order.Uint64(m[32:]),
		pages:    order.Uint64(m[40:]),
		txid:     order.Uint64(m[48:]),
	}, ok
}

// page returns the bytes of a page and its overflow, and marks them as reached.
func (c *pageCheck) page(id uint64) (p []byte, flags, count uint16, err error) {
	if id < 2 || id >= c.meta.pages {
		return nil, 0, 0, fmt.Errorf("page %d of %d", id, c.meta.pages)
	}
	p = c.data[id*c.meta.pageSize:]
	if own := order.Uint64(p); own != id {
		return nil, 0, 0, fmt.Errorf("page %d calls itself %d", id, own)
	}
	overflow := uint64(order.Uint32(p[12:]))
	if overflow >= c.meta.pages-id {
		return nil, 0, 0, fmt.Errorf("page %d overflows the file", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, 0, 0, fmt.Errorf("page %d is reached twice", i)
		}
		c.seen[i] = true
	}
	return p[:(overflow+1)*c.meta.pageSize], order.Uint16(p[8:]), order.Uint16(p[10:]), nil
}

// tree checks a page and what lies below it. Its keys are from low on and before high; nil: no bound.
func (c *pageCheck) tree(id uint64, depth int, low, high []byte) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies too deep", id)
	}
	p, flags, count, err := c.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case flagLeaf:
		err = c.leaf(p, int(count), depth, low, high)
	case flagBranch:
		err = c.branch(p, int(count), depth, low, high)
	default:
		err = fmt.Errorf("unexpected kind %#x", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements hands out the bytes of a page's elements, which lie one after the other behind the table of them. A count that
// is too small shows in the first one's place.
type elements struct {
	p         []byte
	next      uint64 // where the next one must begin
	last      []byte // key
	low, high []byte
}

func newElements(p []byte, count int, low, high []byte) (*elements, error) {
	end := pageHeader + count*elementSize
	if end > len(p) {
		return nil, fmt.Errorf("%d elements do not fit", count)
	}
	if count == 0 && slices.ContainsFunc(p[end:], func(b byte) bool { return b != 0 }) {
		return nil, fmt.Errorf("an empty page is not empty")
	}
	return &elements{p: p, next: uint64(end), low: low, high: high}, nil
}

// take returns the key and the value of element i; pos counts from the element's own start.
func (e *elements) take(i int, pos, keySize, valueSize uint64) (key, value []byte, err error) {
	from, size := uint64(pageHeader+i*elementSize)+pos, keySize+valueSize
	if from != e.next || size > uint64(len(e.p))-from {
		return nil, nil, fmt.Errorf("element %d is not in its place", i)
	}
	e.next += size
	key, value = e.p[from:from+keySize], e.p[from+keySize:e.next]
	if keySize == 0 || i > 0 && bytes.Compare(e.last, key) >= 0 {
		return nil, nil, fmt.Errorf("element %d is out of order", i)
	}
	if bytes.Compare(key, e.low) < 0 || e.high != nil && bytes.Compare(key, e.high) >= 0 {
		return nil, nil, fmt.Errorf("element %d is on the wrong page", i)
	}
	e.last = key
	return key, value, nil
}

func (c *pageCheck) leaf(p []byte, count, depth int, low, high []byte) error {
	elems, err := newElements(p, count, low, high)
	if err != nil {
		return err
	}
	for i := range count {
		e := p[pageHeader+i*elementSize:]
		_, value, err := elems.take(i, uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:])))
		if err != nil {
			return err
		}
		switch order.Uint32(e) {
		case 0:
		case flagBucket:
			if err := c.bucket(value, depth); err != nil {
				return err
			}
		default:
			return fmt.Errorf("element %d is of an unknown kind", i)
		}
	}
	return nil
}

func (c *pageCheck) branch(p []byte, count, depth int, low, high []byte) error {
	elems, err := newElements(p, count, low, high)
	if err != nil || count == 0 {
		return cmp.Or(err, fmt.Errorf("a branch without pages"))
	}
	keys, pages := make([][]byte, count+1), make([]uint64, count)
	for i := range count {
		e := p[pageHeader+i*elementSize:]
		pages[i] = order.Uint64(e[8:])
		if keys[i], _, err = elems.take(i, uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), 0); err != nil {
			return err
		}
	}
	keys[count] = high
	for i, id := range pages {
		if err := c.tree(id, depth+1, keys[i], keys[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// bucket checks a bucket by the value that describes it: a small one's only page lies in the value itself.
func (c *pageCheck) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("bucket of %d bytes", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return c.tree(root, depth+1, nil, nil)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || order.Uint64(inline) != 0 || order.Uint16(inline[8:]) != flagLeaf || depth > maxDepth {
		return fmt.Errorf("bad inline bucket")
	}
	return c.leaf(inline, int(order.Uint16(inline[10:])), depth+1, nil, nil)
}

// freelist checks that what is said to be free is not in use: the next write would overwrite it.
func (c *pageCheck) freelist() error {
	p, flags, count16, err := c.page(c.meta.freelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	count, ids := uint64(count16), p[pageHeader:]
	if count == 0xFFFF { // the first entry is the count
		count, ids = order.Uint64(ids), ids[8:]
	}
	if flags != flagFreelist || count > uint64(len(ids))/8 {
		return fmt.Errorf("bad list of free pages")
	}
	for i := range count {
		id := order.Uint64(ids[i*8:])
		if id < 2 || id >= c.meta.pages || c.seen[id] {
			return fmt.Errorf("page %d is in use and on the list of free pages", id)
		}
		c.seen[id] = true
	}
	return nil
}
