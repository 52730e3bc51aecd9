package pack

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"ss/store/keys"
)

const (
	// maxBody bounds an index's body, in bytes. A member of 4 GiB that shares pages with earlier cuts in the most scattered way has 8 MiB.
	maxBody = 64 << 20
	// A body that has more than freeBody bytes is at most maxRatio times as long as its frame.
	freeBody = 1 << 20
	maxRatio = 1024
)

// The kinds of runs in an index's body.
const (
	runZero = iota
	runSamePack
	runOtherPack
)

// Encode seals an index under the job's key. One value and key has many forms, as each is encrypted again.
func (x Index) Encode(k keys.Job) ([]byte, error) {
	var salt [32]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("draw an index's salt: %w", err)
	}
	return x.encode(k, salt)
}

func (x Index) encode(k keys.Job, salt [32]byte) ([]byte, error) {
	if err := x.validate(); err != nil {
		return nil, fmt.Errorf("encode image index: %w", err)
	}
	body, err := x.encodeBody(nil)
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("encode image index: it has %d bytes, at most %d can be: ingest fewer files at once", len(body), maxBody)
	}
	h := newHead(indexMagic, k, salt)
	out := make([]byte, headSize, headSize+binary.MaxVarintLen64+len(body)+tagSize)
	copy(out, h[:])
	out = append(out, shrinkBody(body)...)
	sealed := newBox(h, k, indexLabel).seal(out[headSize:], kindIndex, 0, nil)
	return out[:headSize+len(sealed)], nil
}

// shrinkBody is what is encrypted: the body's length, and the body, compressed if that helps and a reader would take it.
func shrinkBody(body []byte) []byte {
	enc := newCompressor(zstd.SpeedDefault, 1<<20)
	defer enc.Close()
	frame := enc.EncodeAll(body, nil)
	if len(frame) >= len(body) || len(body) > maxInflated(len(frame)) {
		return append(binary.AppendUvarint(nil, uint64(len(body))<<1), body...)
	}
	return append(binary.AppendUvarint(nil, uint64(len(body))<<1|1), frame...)
}

// maxInflated bounds what a frame of an index may decompress to.
func maxInflated(frame int) int { return min(maxBody, max(freeBody, maxRatio*frame)) }

// DecodeIndex reads and validates what Encode made. Every reference lies within a pack that the index names. The error wraps
// ErrDamaged, ErrUnknownVersion or ErrKey.
func DecodeIndex(data []byte, k keys.Job) (Index, error) {
	h, err := parseHead(data, indexMagic, "image index", k)
	if err != nil {
		return Index{}, err
	}
	plain, err := newBox(h, k, indexLabel).open(append([]byte(nil), data[headSize:]...), kindIndex, 0, nil)
	if err != nil {
		return Index{}, fmt.Errorf("the image index %w", err)
	}
	x, err := decodeIndex(plain)
	if err != nil {
		return Index{}, fmt.Errorf("image index: %w", err)
	}
	return x, nil
}

// decodeIndex reads what was encrypted.
func decodeIndex(plain []byte) (Index, error) {
	d := decoder{data: plain}
	length := d.number("length", 0, 2*maxBody+1)
	if d.err != nil {
		return Index{}, d.err
	}
	size, frame := length>>1, d.data
	if length&1 == 0 {
		if size != len(frame) {
			return Index{}, fmt.Errorf("its body has %d bytes of %d: %w", len(frame), size, ErrDamaged)
		}
		return decodeBody(frame)
	}
	if size > maxInflated(len(frame)) {
		return Index{}, fmt.Errorf("its body has %d bytes, from %d: %w", size, len(frame), ErrDamaged)
	}
	dec := newDecompressor()
	defer dec.Close()
	body := make([]byte, size)
	if err := inflate(dec, frame, body); err != nil {
		return Index{}, fmt.Errorf("its body %w", err)
	}
	return decodeBody(body)
}

func (x Index) encodeBody(to []byte) ([]byte, error) {
	to = binary.AppendUvarint(to, uint64(len(x.Packs)))
	for _, p := range x.Packs {
		sum, err := hex.DecodeString(p.Digest)
		if err != nil {
			return nil, fmt.Errorf("pack %q: %w", p.Digest, err)
		}
		to = append(to, sum...)
		to = binary.AppendUvarint(to, uint64(p.Size))
		to = binary.BigEndian.AppendUint32(to, p.CRC32C)
		to = binary.AppendUvarint(to, uint64(p.Chunks))
	}
	to = binary.AppendUvarint(to, uint64(len(x.Meta)))
	to = append(to, x.Meta...)
	to = binary.AppendUvarint(to, uint64(len(x.Files)))
	last, places := "", newPlaces(len(x.Packs))
	for _, f := range x.Files {
		same := commonPrefix(last, f.Path)
		last = f.Path
		to = binary.AppendUvarint(to, uint64(same))
		to = binary.AppendUvarint(to, uint64(len(f.Path)-same))
		to = append(to, f.Path[same:]...)
		to = binary.AppendUvarint(to, uint64(f.Size))
		to = append(to, byte(f.Mode>>6))
		to = append(to, f.Root[:]...)
		for _, r := range f.Runs {
			to = places.appendRun(to, r)
		}
	}
	return to, nil
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// places remembers, for each pack, where the last run of it ended, and which pack was last. What follows on there is written in few bytes.
type places struct {
	ends []int
	pack int
}

func newPlaces(packs int) *places { return &places{ends: make([]int, packs)} }

func runHead(r Run, kind uint64) uint64 { return uint64(r.Count)<<2 | kind }

func (p *places) appendRun(to []byte, r Run) []byte {
	if r.Zero {
		return binary.AppendUvarint(to, runHead(r, runZero))
	}
	if r.Pack == p.pack {
		to = binary.AppendUvarint(to, runHead(r, runSamePack))
	} else {
		to = binary.AppendUvarint(to, runHead(r, runOtherPack))
		to = binary.AppendUvarint(to, uint64(r.Pack))
		p.pack = r.Pack
	}
	to = binary.AppendVarint(to, int64(r.at()-p.ends[r.Pack]))
	p.ends[r.Pack] = r.at() + r.Count
	return to
}

// decodeBody reads a body and validates all of it.
func decodeBody(body []byte) (Index, error) {
	d := &decoder{data: body}
	var x Index
	const packLength, fileLength = 32 + 1 + 4 + 1, 1 + 1 + 1 + 1 + 32 // at least; a path has one byte, in one of the fields
	x.Packs = make([]PackRef, d.number("packs", 0, int64(len(d.data)/packLength)))
	for i := range x.Packs {
		p := &x.Packs[i]
		p.Digest = hex.EncodeToString(d.bytes("digest", 32))
		p.Size = int64(d.number("a pack's length", 0, maxPackSize))
		if sum := d.bytes("checksum", 4); sum != nil {
			p.CRC32C = binary.BigEndian.Uint32(sum)
		}
		p.Chunks = d.number("a pack's chunks", 1, maxPackChunks)
	}
	if meta := d.bytes("meta", d.number("length of meta", 0, maxBody)); len(meta) > 0 {
		x.Meta = append([]byte(nil), meta...)
	}
	x.Files = make([]File, 0, d.number("files", 0, int64(len(d.data)/fileLength)))
	path, places := "", newPlaces(len(x.Packs))
	for range cap(x.Files) {
		f := d.file(path, places)
		if d.err != nil {
			break
		}
		x.Files, path = append(x.Files, f), f.Path
	}
	d.end()
	if d.err != nil {
		return Index{}, d.err
	}
	return x, x.validate()
}

// file reads a file that comes after one with the path before.
func (d *decoder) file(before string, places *places) File {
	var f File
	same := d.number("length of a path", 0, int64(len(before)))
	// Bounded before it is put together: each path might be longer than the one before, and all of them together than any memory.
	f.Path = before[:same] + string(d.bytes("path", d.number("length of a path", 0, int64(maxPath-same))))
	f.Size = int64(d.number("size", 0, math.MaxInt64))
	if mode := d.bytes("mode", 1); mode != nil {
		f.Mode = uint32(mode[0]) << 6
	}
	copy(f.Root[:], d.bytes("root", len(f.Root)))
	for left := chunksOf(f.Size); left > 0 && d.err == nil; {
		r, err := d.run(left, places)
		if err != nil {
			d.fail("file %q: %w", f.Path, err)
			break
		}
		f.Runs = append(f.Runs, r)
		left -= int64(r.Count)
	}
	return f
}

var errRun = errors.New("a run leads out of its pack")

// run reads a run of at most so many chunks.
func (d *decoder) run(most int64, places *places) (Run, error) {
	head := d.number("run", 0, math.MaxInt64)
	r := Run{Count: head >> 2}
	if d.err == nil && (r.Count < 1 || int64(r.Count) > most) {
		return Run{}, fmt.Errorf("a run of %d chunks where %d are left", r.Count, most)
	}
	switch head & 3 {
	case runZero:
		r.Zero = true
		return r, d.err
	case runSamePack:
	case runOtherPack:
		places.pack = d.number("pack of a run", 0, int64(len(places.ends)-1))
	default:
		return Run{}, errors.New("a run of an unknown kind")
	}
	if places.pack >= len(places.ends) {
		return Run{}, errRun
	}
	at := int64(places.ends[places.pack]) + d.signed("place of a run")
	if at < 0 || at > maxPackChunks || r.Count > maxPackChunks {
		return Run{}, errRun
	}
	r.Pack, r.Segment, r.First = places.pack, int(at)/SegmentChunks, int(at)%SegmentChunks
	places.ends[r.Pack] = int(at) + r.Count
	return r, d.err
}
