package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"ss/marker"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/tombstone"
)

// Parts of a host on which nothing lives. What they embed is nil: what gets further than it should ends the test.
type (
	noCells struct{ Cells }
	noGates struct{ Gates }
	noCRIU  struct{ Checkpointer }
)

func (noCells) Members(context.Context) ([]Member, error)     { return nil, nil }
func (noCells) Vacant(context.Context, Member) error          { return nil }
func (noCells) Waits(context.Context, Member) ([]Wait, error) { return nil, nil }
func (noCRIU) Interrupt(string, []Wait) error                 { return nil }
func (noGates) Mode() string                                  { return "drop" }
func (noCRIU) Check(context.Context) (string, error)          { return "4.0", nil }
func (noGates) Block(context.Context, []Block) error          { return nil }
func (noCRIU) Rewrite(src, dst string, _ map[netip.Addr]netip.Addr) error {
	return os.CopyFS(dst, os.DirFS(src))
}

// Ends reads what a test has written in the place of CRIU's images, and must not miss a file that CRIU would need.
func (noCRIU) Ends(dir string) ([]marker.End, error) {
	b, err := os.ReadFile(filepath.Join(dir, "inetsk.img"))
	if err != nil {
		return nil, err
	}
	return []marker.End{{Local: string(b)}}, nil
}

// cluster is other hosts: each one's images, and what it was told of them.
type cluster struct {
	Peers
	hosts map[string]*images.Store
	fails map[string]error

	mu      sync.Mutex
	settled map[string][]bool // by host
}

func (c *cluster) Objects(to Participant) Objects {
	if err := c.fails[to.Host]; err != nil {
		return failing{Objects: c.hosts[to.Host].ForPeers(), err: err}
	}
	return c.hosts[to.Host].ForPeers()
}

func (c *cluster) SettleImages(_ context.Context, to Participant, key images.Key, committed bool) error {
	c.mu.Lock()
	c.settled[to.Host] = append(c.settled[to.Host], committed)
	c.mu.Unlock()
	if committed {
		return c.hosts[to.Host].Commit(key)
	}
	return c.hosts[to.Host].Remove(key)
}

// failing takes no object.
type failing struct {
	Objects
	err error
}

func (f failing) Put(context.Context, string, io.Reader, int64) error { return f.err }

// newAgent makes an agent of hostA in a cluster with others.
func newAgent(t testing.TB, others ...string) (*Agent, *cluster) {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{hosts: map[string]*images.Store{}, fails: map[string]error{}, settled: map[string][]bool{}}
	for _, h := range others {
		c.hosts[h] = openStore(t, filepath.Join(dir, h))
	}
	cfg := Config{
		Host: "hostA", StateDir: filepath.Join(dir, "hostA"), Cells: noCells{}, Gates: noGates{}, CRIU: noCRIU{}, Peers: c,
		Log: discard(), Verifier: admin{}, Images: openStore(t, filepath.Join(dir, "hostA")),
		ImageDir: filepath.Join(dir, "hostA", "images"), StagingDir: filepath.Join(dir, "hostA", "staging"),
	}
	a, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
		for h, s := range c.hosts {
			sets, err := s.Sets()
			if err != nil {
				t.Error(err)
			}
			for _, set := range sets {
				if _, err := s.Verify(context.Background(), set.Key, ""); err != nil {
					t.Errorf("%s: %v", h, err)
				}
			}
		}
	})
	return a, c
}

func openStore(t testing.TB, dir string) *images.Store {
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

func participants(hosts ...string) []Participant {
	var out []Participant
	for _, h := range hosts {
		out = append(out, Participant{Host: h, Endpoint: h + ":7070"})
	}
	return out
}

var aKey = images.Key{Job: "job", Snapshot: "cut", Host: "hostA"}

// aMeta is what a set of testFiles says of itself.
const aMeta = `{"criu":"4.0","members":{"hostA-1":{"needs":{},"files":null}}}`

// testFiles are the plain files of a set, by path.
func testFiles() map[string][]byte {
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

// seal makes an image set of hostA's with testFiles.
func seal(t *testing.T, s *images.Store, key images.Key, k keys.Job) images.Manifest {
	t.Helper()
	p, err := s.Begin(key)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := p.Dir("hostA-1")
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, filepath.Dir(dir), testFiles())
	sealed, err := p.Seal(t.Context(), images.Info{Epoch: 1, Meta: []byte(aMeta), JobKey: k})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Manifest
}

func writeFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func newKey(t *testing.T) keys.Job {
	t.Helper()
	k, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// holdersOfSet names the hosts of c that have the set.
func (c *cluster) holdersOfSet(key images.Key) []string {
	var out []string
	for h, s := range c.hosts {
		if _, err := s.Manifest(key); err == nil {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out
}

// corrupt flips a bit of an object that a store in dir holds.
func corrupt(t *testing.T, dir, job, digest string) {
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

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// admin "signs" with a word in front.
type admin struct{}

func (admin) SignStatement(kind string, body []byte) ([]byte, error) {
	return fmt.Appendf(nil, "admin|%s|%s", kind, body), nil
}

func (admin) OpenStatement(kind string, statement []byte) ([]byte, error) {
	if body, ok := bytes.CutPrefix(statement, []byte("admin|"+kind+"|")); ok {
		return body, nil
	}
	return nil, errors.New("no admin signed it")
}

// buried is the removal of a cut that consists of one set, on an admin's word.
func buried(vault string, m images.Manifest) Removal {
	t := tombstone.Tombstone{Job: m.Job, Cut: m.Snapshot, Epoch: m.Epoch, Sets: []tombstone.Set{{Host: m.Host, Manifest: m.Digest}}}
	data, err := t.Encode(admin{})
	if err != nil {
		panic(err) // a mistake in the test
	}
	return Removal{Vault: vault, Job: m.Job, Snapshot: m.Snapshot, Tombstone: data}
}

// digestOf is the SHA-256 of a text, in hex.
func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
