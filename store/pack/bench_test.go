package pack

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

const benchSize = 128 << 20

// benchFiles are as members' images may be: what cannot be compressed, and what can.
func benchFiles(b *testing.B, how string) string {
	b.Helper()
	data := random(1, benchSize)
	if how == "compressible" {
		for i := range data { // 64 kinds of bytes, and a third of each page the same
			data[i] &= 63
			if i%ChunkSize > 2700 {
				data[i] = byte(i >> 3)
			}
		}
	}
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

// nowhere is a Sink.
type nowhere struct{ io.Writer }

func (n nowhere) Create(context.Context) (Incoming, error) { return n, nil }
func (nowhere) Commit(string) error                        { return nil }
func (nowhere) Discard() error                             { return nil }

// folder is a Sink and a Source, as an agent's disk is.
type folder string

type folderIncoming struct {
	*os.File
	dir folder
}

func (f folder) Create(context.Context) (Incoming, error) {
	file, err := os.CreateTemp(string(f), "new")
	return folderIncoming{file, f}, err
}

func (in folderIncoming) Commit(name string) error {
	defer in.Close()
	return os.Rename(in.Name(), filepath.Join(string(in.dir), name))
}

func (in folderIncoming) Discard() error { return in.Close() }

func (f folder) Open(digest string) (interface {
	io.ReaderAt
	io.Closer
}, error,
) {
	return os.Open(filepath.Join(string(f), digest))
}

func BenchmarkNamer(b *testing.B) {
	n, chunk := NewNamer(testKey), random(1, ChunkSize)
	b.SetBytes(ChunkSize)
	b.ReportAllocs()
	for b.Loop() {
		n.Name(chunk)
	}
}

// MB/s are of all processors that the benchmark is given; -cpu 1 is one.
func BenchmarkIngest(b *testing.B) {
	for _, how := range []string{"random", "compressible"} {
		b.Run(how, func(b *testing.B) {
			dir := benchFiles(b, how)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Ingest(b.Context(), dir, testKey, nil, nowhere{io.Discard}, IngestOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	for _, how := range []string{"random", "compressible"} {
		b.Run(how, func(b *testing.B) {
			dir := benchFiles(b, how)
			packs := folder(b.TempDir())
			x, _, err := Ingest(b.Context(), dir, testKey, nil, packs, IngestOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				to := b.TempDir()
				runtime.GC()
				b.StartTimer()
				if err := Unpack(b.Context(), x, testKey, packs, to, nil); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(to); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkCopy is what a plain copy takes, to compare with.
func BenchmarkCopy(b *testing.B) {
	dir := benchFiles(b, "random")
	data, err := os.ReadFile(filepath.Join(dir, "pages-1.img"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		b.StopTimer()
		to := b.TempDir()
		b.StartTimer()
		f, err := os.OpenFile(filepath.Join(to, "f"), os.O_CREATE|os.O_WRONLY, fs.FileMode(0o600))
		if err != nil {
			b.Fatal(err)
		}
		for off := 0; off < benchSize; off += segmentSize {
			if _, err := f.Write(data[off : off+segmentSize]); err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
		b.StopTimer()
		_ = os.RemoveAll(to)
		b.StartTimer()
	}
}
