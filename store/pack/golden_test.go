package pack

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"ss/store/keys"
)

var update = flag.Bool("update", false, "write testdata/v1.pack and testdata/v1.index again: only before the form is used anywhere")

const (
	goldenPack  = "testdata/v1.pack"
	goldenIndex = "testdata/v1.index"
)

// goldenKey is not a secret.
var goldenKey = keys.Job{0: 'g', 1: 'o', 2: 'l', 3: 'd', 31: 1}

// goldenFiles are two segments, one that is compressed and one that is not, a short chunk in each, and zeros.
func goldenFiles() map[string][]byte {
	var text []byte
	for i := range 63 {
		text = append(text, bytes.Repeat(fmt.Appendf(nil, "page %08d, ", i), ChunkSize/15+1)[:ChunkSize]...)
	}
	return map[string][]byte{
		"m1/empty":       {},
		"m1/pages-1.img": bytes.Join([][]byte{text, make([]byte, 3*ChunkSize), text[:700]}, nil),
		"m2/pages-1.img": bytes.Join([][]byte{random(1, 2*ChunkSize), text[:2*ChunkSize], random(2, 33)}, nil),
	}
}

// counter gives salts that are not random: for tests alone.
type counter byte

func (c *counter) Read(b []byte) (int, error) {
	*c++
	for i := range b {
		b[i] = byte(*c)
	}
	return len(b), nil
}

func writeGolden(t *testing.T) {
	t.Helper()
	m := newMemory()
	x, done, err := ingest(t.Context(), writeFiles(t, goldenFiles()), goldenKey, nil, m, IngestOptions{}, TargetSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	x.Meta = []byte("whatever the agent adds")
	sealed, err := x.encode(goldenKey, [32]byte{0xff})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{goldenPack: m.objects[done.Packs[0].Digest], goldenIndex: sealed} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readGolden(t testing.TB) (pack, index []byte) {
	t.Helper()
	pack, err := os.ReadFile(goldenPack)
	if err != nil {
		t.Fatal(err)
	}
	index, err = os.ReadFile(goldenIndex)
	if err != nil {
		t.Fatal(err)
	}
	return pack, index
}

// What version 1 wrote is read for ever.
func TestGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	pack, index := readGolden(t)
	x, err := DecodeIndex(index, goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	if string(x.Meta) != "whatever the agent adds" || len(x.Packs) != 1 || x.Packs[0].Chunks != 67 {
		t.Errorf("packs %+v, meta %q", x.Packs, x.Meta)
	}
	m := newMemory()
	m.objects[x.Packs[0].Digest] = pack
	dir := t.TempDir()
	if err := Unpack(t.Context(), x, goldenKey, m, dir, nil); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, readFiles(t, dir), goldenFiles())
	if err := Check(t.Context(), x, goldenKey, m); err != nil {
		t.Error(err)
	}
}

// byHand opens a section as docs/format.md says, with nothing of this package.
func byHand(t *testing.T, object []byte, label string, kind byte, number byte, sealed, trailer []byte) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, goldenKey[:], object[8:40], label, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte{11: number}
	data := append(append(append([]byte(nil), object[:60]...), kind, 0, 0, 0, 0, 0, 0, 0, number), trailer...)
	plain, err := gcm.Open(nil, nonce, sealed, data)
	if err != nil {
		t.Fatalf("section %d of kind %d: %v", number, kind, err)
	}
	return plain
}

func TestFormIsAsDocumented(t *testing.T) {
	pack, index := readGolden(t)
	if string(pack[:8]) != "sspk\x00\x00\x00\x01" || string(index[:8]) != "ssix\x00\x00\x00\x01" {
		t.Errorf("heads %q, %q", pack[:8], index[:8])
	}
	byHand(t, index, "ss index v1", 3, 0, index[60:], nil)

	trailer := pack[len(pack)-12:]
	length, segments := int(binary.BigEndian.Uint32(trailer)), binary.BigEndian.Uint32(trailer[4:])
	if string(trailer[8:]) != "kpss" || segments != 2 {
		t.Fatalf("trailer %q", trailer)
	}
	at := len(pack) - 12 - length
	table := byHand(t, pack, "ss pack v1", 2, 2, pack[at:at+length], trailer)
	var numbers []int
	for range 8 { // chunks; two lengths; short chunks; for both: distance, length
		v, n := binary.Uvarint(table)
		table, numbers = table[n:], append(numbers, int(v))
	}
	if len(table) != 67*32 || numbers[0] != 67 || numbers[1]&1 != 1 || numbers[2] != 2*(2*ChunkSize+33+16) || numbers[3] != 2 {
		t.Fatalf("table %v and %d bytes", numbers, len(table))
	}
	first := numbers[1] >> 1
	byHand(t, pack, "ss pack v1", 1, 0, pack[60:60+first], nil)
	second := byHand(t, pack, "ss pack v1", 1, 1, pack[60+first:at], nil)
	if want := append(random(1, 2*ChunkSize), random(2, 33)...); !bytes.Equal(second, want) {
		t.Error("segment 1 is not its chunks")
	}
	nameKey, err := hkdf.Key(sha256.New, goldenKey[:], nil, "ss chunk name v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, nameKey)
	mac.Write(second[2*ChunkSize:])
	if !bytes.Equal(mac.Sum(nil), table[66*32:]) {
		t.Error("the last name is not the last chunk's")
	}
}

func TestAnotherVersionOrKey(t *testing.T) {
	pack, index := readGolden(t)
	newer := func(data []byte) []byte {
		data = append([]byte(nil), data...)
		data[7] = 2
		binary.BigEndian.PutUint32(data[56:], crc32c(data[:56]))
		return data
	}
	open := map[string]func(k keys.Job, newer bool) error{
		"pack": func(k keys.Job, isNewer bool) error {
			data := pack
			if isNewer {
				data = newer(pack)
			}
			_, err := ReadTable(bytes.NewReader(data), int64(len(data)), k)
			return err
		},
		"index": func(k keys.Job, isNewer bool) error {
			data := index
			if isNewer {
				data = newer(index)
			}
			_, err := DecodeIndex(data, k)
			return err
		},
	}
	for name, read := range open {
		if err := read(goldenKey, false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, k := range []keys.Job{goldenKey, testKey} {
			if err := read(k, true); !errors.Is(err, ErrUnknownVersion) || errors.Is(err, ErrDamaged) {
				t.Errorf("%s of a newer version: %v", name, err)
			}
		}
		if err := read(testKey, false); !errors.Is(err, ErrKey) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s under another key: %v", name, err)
		}
	}
	// A pack is not an index, nor the other way round.
	if _, err := DecodeIndex(pack, goldenKey); !errors.Is(err, ErrDamaged) {
		t.Errorf("a pack as index: %v", err)
	}
	if _, err := ReadTable(bytes.NewReader(index), int64(len(index)), goldenKey); !errors.Is(err, ErrDamaged) {
		t.Errorf("an index as pack: %v", err)
	}
}
