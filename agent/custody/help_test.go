package custody

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/marker"
	"ss/store/images"
	"ss/store/tombstone"
)

var aKey = custodytest.Key

// host is a Holder with the parts that tests look at.
type host struct {
	*Holder
	dir    string // of all hosts
	others *custodytest.Hosts
	jobs   *work
}

// newHolder makes hostA, with others.
func newHolder(t testing.TB, others ...string) *host {
	t.Helper()
	dir := t.TempDir()
	hosts := custodytest.NewHosts(t, dir, others...)
	mine := filepath.Join(dir, "hostA")
	h, err := New(Config{
		Host: "hostA", Store: custodytest.Open(t, mine), Dir: filepath.Join(mine, "images"), Staging: filepath.Join(mine, "staging"),
		Scratch: filepath.Join(mine, "scratch"), Peers: peers{hosts}, Ends: ends{}, Verifier: admin{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	jobs := &work{busy: map[string]string{}, told: map[images.Key]bool{}}
	h.Serve(jobs)
	return &host{Holder: h, dir: dir, others: hosts, jobs: jobs}
}

type peers struct{ hosts *custodytest.Hosts }

func (p peers) Objects(to Peer) Objects { return p.hosts.Objects(to.Host) }

func (p peers) SettleImages(_ context.Context, to Peer, key images.Key, committed bool) error {
	return p.hosts.Settle(to.Host, key, committed)
}

type ends struct{}

func (ends) Ends(dir string) ([]marker.End, error) { return custodytest.Ends(dir) }

// work is that of a host which does nothing but what the test says.
type work struct {
	mu   sync.Mutex
	busy map[string]string
	told map[images.Key]bool // outcomes
}

func (w *work) Lock(job, what string) (func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[job] != "" {
		return nil, fault.New(fault.Conflict, "busy with "+w.busy[job], "")
	}
	w.busy[job] = what
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.busy, job)
	}, nil
}

func (w *work) UnderWay(key images.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busy[key.Job] != ""
}

func (w *work) Known(string) bool { return true }

func (w *work) Resolved(_ context.Context, key images.Key, committed bool) { w.told[key] = committed }

func peersOf(hosts ...string) []Peer {
	var out []Peer
	for _, h := range hosts {
		out = append(out, Peer{Host: h, Endpoint: h + ":7070"})
	}
	return out
}

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

// leftovers: what passes through leaves nothing.
func leftovers(t *testing.T, h *host) {
	t.Helper()
	if left, err := os.ReadDir(h.cfg.Scratch); err != nil || len(left) != 0 {
		t.Errorf("left in the folder for passing files: %v, %v", left, err)
	}
}
