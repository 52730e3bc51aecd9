package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
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
// reaches is in the file, of a known kind, reached once only, and holds only elements within itself.
// It reads the whole file, which is a matter of milliseconds for a catalogue.
func checkPages(f *os.File) error {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxFile))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if err := checkData(data); err != nil {
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
	if err := c.tree(meta.root, 0); err != nil {
		return err
	}
	if meta.freelist == noFreelist {
		return nil
	}
	return c.freelist()
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

func (c *pageCheck) tree(id uint64, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies too deep", id)
	}
	p, flags, count, err := c.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case flagLeaf:
		err = c.leaf(p, count, depth)
	case flagBranch:
		err = c.branch(p, count, depth)
	default:
		err = fmt.Errorf("unexpected kind %#x", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// element returns the bytes from pos, which counts from the element's own start, to pos+size.
func element(p []byte, i int, pos, size uint64) ([]byte, error) {
	from := uint64(pageHeader+i*elementSize) + pos
	if pos < elementSize || from > uint64(len(p)) || size > uint64(len(p))-from {
		return nil, fmt.Errorf("element %d leaves its page", i)
	}
	return p[from : from+size], nil
}

func (c *pageCheck) leaf(p []byte, count uint16, depth int) error {
	if pageHeader+int(count)*elementSize > len(p) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	var last []byte
	for i := range int(count) {
		e := p[pageHeader+i*elementSize:]
		keySize, valueSize := uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		kv, err := element(p, i, uint64(order.Uint32(e[4:])), keySize+valueSize)
		if err != nil {
			return err
		}
		if keySize == 0 || i > 0 && bytes.Compare(last, kv[:keySize]) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		last = kv[:keySize]
		if order.Uint32(e)&flagBucket != 0 {
			if err := c.bucket(kv[keySize:], depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *pageCheck) branch(p []byte, count uint16, depth int) error {
	if count == 0 || pageHeader+int(count)*elementSize > len(p) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	var last []byte
	for i := range int(count) {
		e := p[pageHeader+i*elementSize:]
		key, err := element(p, i, uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])))
		if err != nil {
			return err
		}
		if len(key) == 0 || i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		last = key
		if err := c.tree(order.Uint64(e[8:]), depth+1); err != nil {
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
		return c.tree(root, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || order.Uint64(inline) != 0 || order.Uint16(inline[8:]) != flagLeaf || depth > maxDepth {
		return fmt.Errorf("bad inline bucket")
	}
	return c.leaf(inline, order.Uint16(inline[10:]), depth+1)
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
