package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"ss/store/keys"
)

var testKey = keys.Job{1, 2, 3, 4, 5, 6, 7, 8}

// memory is a Sink and a Source.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	pending int // creates without an end
	open    int // readers that are not closed
	creates int

	createErr, commitErr, openErr, readErr error
	failWrite                              int // the how manieth write of all fails; 0: none
	writes                                 int
	onWrite, onRead                        func()
}

var errSink = errors.New("the sink fails")

func newMemory() *memory { return &memory{objects: map[string][]byte{}} }

type memoryIncoming struct {
	m    *memory
	data bytes.Buffer
	done bool
}

func (m *memory) Create(context.Context) (Incoming, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.creates++
	if m.createErr != nil {
		return nil, m.createErr
	}
	m.pending++
	return &memoryIncoming{m: m}, nil
}

func (in *memoryIncoming) Write(b []byte) (int, error) {
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	in.m.writes++
	if in.m.onWrite != nil {
		in.m.onWrite()
	}
	if in.m.writes == in.m.failWrite {
		return 0, errSink
	}
	return in.data.Write(b)
}

func (in *memoryIncoming) Commit(name string) error {
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	if in.m.commitErr != nil {
		return in.m.commitErr
	}
	in.m.objects[name] = in.data.Bytes()
	in.end()
	return nil
}

func (in *memoryIncoming) Discard() error {
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	in.end()
	return nil
}

func (in *memoryIncoming) end() {
	if !in.done {
		in.done = true
		in.m.pending--
	}
}

type memoryReader struct {
	*bytes.Reader
	m    *memory
	once sync.Once
}

func (r *memoryReader) ReadAt(b []byte, off int64) (int, error) {
	if r.m.onRead != nil {
		r.m.onRead()
	}
	if r.m.readErr != nil && off > headSize {
		return 0, r.m.readErr
	}
	return r.Reader.ReadAt(b, off)
}

func (r *memoryReader) Close() error {
	r.once.Do(func() {
		r.m.mu.Lock()
		defer r.m.mu.Unlock()
		r.m.open--
	})
	return nil
}

func (m *memory) Open(digest string) (interface {
	io.ReaderAt
	io.Closer
}, error,
) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.openErr != nil {
		return nil, m.openErr
	}
	data, ok := m.objects[digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", digest, fs.ErrNotExist)
	}
	m.open++
	return &memoryReader{Reader: bytes.NewReader(data), m: m}, nil
}

// idle fails the test if something of the store is still in use.
func (m *memory) idle(t testing.TB) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pending != 0 || m.open != 0 {
		t.Errorf("%d objects in the making, %d readers left over", m.pending, m.open)
	}
}

// known makes a Known of packs.
func (m *memory) known(t testing.TB, packs ...PackRef) *Known {
	t.Helper()
	kn := &Known{}
	for _, p := range packs {
		table, err := ReadTable(bytes.NewReader(m.objects[p.Digest]), p.Size, testKey)
		if err != nil {
			t.Fatal(err)
		}
		if len(table) != p.Chunks {
			t.Fatalf("pack of %d chunks has %d names", p.Chunks, len(table))
		}
		kn.Add(p, table)
	}
	return kn
}

// random makes bytes that are the same for the same seed.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// writeFiles makes a folder with files.
func writeFiles(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for path, data := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readFiles reads all files of a folder.
func readFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func sameFiles(t testing.TB, got, want map[string][]byte) {
	t.Helper()
	for path, data := range want {
		if b, ok := got[path]; !ok || !bytes.Equal(b, data) {
			t.Errorf("%s: %d bytes, want %d, there: %t", path, len(b), len(data), ok)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// store ingests a folder, checks what is told of it, and returns the index as it is decoded.
func (m *memory) store(t testing.TB, dir string, kn *Known) (Index, Ingested) {
	t.Helper()
	x, done, err := Ingest(t.Context(), dir, testKey, kn, m, IngestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if done.Bytes != done.Zero+done.Known+done.New || done.Bytes != x.Bytes() {
		t.Errorf("of %d bytes %d zero, %d known, %d new; the index has %d", done.Bytes, done.Zero, done.Known, done.New, x.Bytes())
	}
	for _, p := range done.Packs {
		data := m.objects[p.Digest]
		sum := sha256.Sum256(data)
		if hex.EncodeToString(sum[:]) != p.Digest || int64(len(data)) != p.Size || crc32.Checksum(data, castagnoli) != p.CRC32C {
			t.Errorf("pack %s is not what it is said to be", p.Digest)
		}
	}
	m.idle(t)
	sealed, err := x.Encode(testKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeIndex(sealed, testKey)
	if err != nil {
		t.Fatal(err)
	}
	sameIndex(t, again, x)
	return again, done
}

// unpack writes everything into a new folder, and checks it as well.
func (m *memory) unpack(t testing.TB, x Index) string {
	t.Helper()
	dir := t.TempDir()
	if err := Unpack(t.Context(), x, testKey, m, dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), x, testKey, m); err != nil {
		t.Fatal(err)
	}
	m.idle(t)
	return dir
}
