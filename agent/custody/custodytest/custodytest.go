// Package custodytest has what tests need that keep image sets: stores of several hosts, and a set to put into them. It may import package
// images and what is below it, and not package custody, whose own tests use it.
package custodytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"ss/marker"
	"ss/store/blob"
	"ss/store/images"
	"ss/store/keys"
)

// Key is that of the set which Seal makes, as a rule.
var Key = images.Key{Job: "job", Snapshot: "cut", Host: "hostA"}

// Meta is what a set of Files says of itself.
const Meta = `{"criu":"4.0","members":{"hostA-1":{"needs":{},"files":null}}}`

// Files are the plain files of a set, by path.
func Files() map[string][]byte {
	memory := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(memory) // never fails
	return map[string][]byte{
		"hostA-1/images/inetsk.img":  []byte("10.0.0.1:80"),
		"hostA-1/images/core-1.img":  bytes.Repeat([]byte("core"), 700),
		"hostA-1/images/pages-1.img": memory,
		"hostA-1/files/0":            []byte("a line\n"),
		"hostA-1/files.json":         []byte(`null`),
	}
}

// Ends reads what Files have in the place of CRIU's images, and must not miss a file that CRIU would need.
func Ends(dir string) ([]marker.End, error) {
	b, err := os.ReadFile(filepath.Join(dir, "inetsk.img"))
	if err != nil {
		return nil, err
	}
	return []marker.End{{Local: string(b)}}, nil
}

// Open opens a store below dir, with its objects in dir/images.
func Open(t testing.TB, dir string) *images.Store {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := images.Open(filepath.Join(dir, "images"), images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Stage begins a set that holds Files.
func Stage(t testing.TB, s *images.Store, key images.Key) *images.Partial {
	t.Helper()
	p, err := s.Begin(key)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := p.Dir("hostA-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range Files() {
		path := filepath.Join(filepath.Dir(dir), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// Seal makes an image set of hostA's with Files.
func Seal(t testing.TB, s *images.Store, key images.Key, k keys.Job) images.Manifest {
	t.Helper()
	sealed, err := Stage(t, s, key).Seal(t.Context(), images.Info{Epoch: 1, Meta: []byte(Meta), JobKey: k})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Manifest
}

// NewKey draws a job's key.
func NewKey(t testing.TB) keys.Job {
	t.Helper()
	k, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Corrupt flips a bit of an object that a store in dir holds.
func Corrupt(t testing.TB, dir, job, digest string) {
	t.Helper()
	var path string
	err := filepath.WalkDir(filepath.Join(dir, job), func(p string, _ os.DirEntry, err error) error {
		if filepath.Base(p) == digest {
			path = p
		}
		return err
	})
	if err != nil || path == "" {
		t.Fatalf("object %s is nowhere: %v", digest, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(fmt.Errorf("corrupt %s: %w", path, err))
	}
}

// Hosts are other hosts: each one's images, and what it was told of them.
type Hosts struct {
	Stores map[string]*images.Store
	Fails  map[string]error // what a host answers when it is to put an object, by its name

	mu      sync.Mutex
	settled map[string][]bool
}

// NewHosts makes hosts with folders of their names below dir. When the test ends, every set of theirs must be whole.
func NewHosts(t testing.TB, dir string, names ...string) *Hosts {
	t.Helper()
	h := &Hosts{Stores: map[string]*images.Store{}, Fails: map[string]error{}, settled: map[string][]bool{}}
	for _, n := range names {
		h.Stores[n] = Open(t, filepath.Join(dir, n))
	}
	t.Cleanup(func() {
		for n, s := range h.Stores {
			sets, err := s.Sets()
			if err != nil {
				t.Error(err)
			}
			for _, set := range sets {
				if _, err := s.Verify(context.Background(), set.Key, ""); err != nil {
					t.Errorf("%s: %v", n, err)
				}
			}
		}
	})
	return h
}

// Objects are objects as one host may use another's.
type Objects interface {
	blob.Reader
	blob.Writer
}

// Objects are those of a host.
func (h *Hosts) Objects(host string) Objects {
	if err := h.Fails[host]; err != nil {
		return failing{Objects: h.Stores[host].ForPeers(), err: err}
	}
	return h.Stores[host].ForPeers()
}

// failing takes no object.
type failing struct {
	Objects
	err error
}

func (f failing) Put(context.Context, string, io.Reader, int64) error { return f.err }

// Settle tells a host what became of a set.
func (h *Hosts) Settle(host string, key images.Key, committed bool) error {
	h.mu.Lock()
	h.settled[host] = append(h.settled[host], committed)
	h.mu.Unlock()
	if committed {
		return h.Stores[host].Commit(key)
	}
	return h.Stores[host].Remove(key)
}

// Settled is what each host was told.
func (h *Hosts) Settled() map[string][]bool { return h.settled }

// Holding names the hosts that have the set.
func (h *Hosts) Holding(key images.Key) []string {
	var out []string
	for n, s := range h.Stores {
		if _, err := s.Manifest(key); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}
