package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ss/agent/custody"
	"ss/agent/custody/custodytest"
	"ss/marker"
	"ss/store/images"
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
func (noGates) OpenAll(context.Context, string) error         { return nil }
func (noGates) Block(context.Context, []Block) error          { return nil }
func (noCRIU) Unsend(string, []Transit) error                 { return nil }
func (noCRIU) ShareFIFOs([]string) error                      { return nil }
func (noCRIU) Rewrite(src, dst string, _ map[netip.Addr]netip.Addr, _ []EndChange) error {
	return os.CopyFS(dst, os.DirFS(src))
}

func (noCRIU) Ends(dir string) ([]marker.End, error) { return custodytest.Ends(dir) }

// testAgent is the agent of hostA, with what tests look at.
type testAgent struct {
	*Agent
	images   *images.Store
	imageDir string
	others   *custodytest.Hosts
}

// peers are other hosts, which hold images and are reached, and answer nothing else.
type peers struct {
	Peers
	hosts *custodytest.Hosts
}

func (p peers) Objects(to custody.Peer) custody.Objects { return p.hosts.Objects(to.Host) }

func (p peers) SettleImages(_ context.Context, to custody.Peer, key images.Key, committed bool) error {
	return p.hosts.Settle(to.Host, key, committed)
}

// newAgent makes an agent of hostA in a cluster with others.
func newAgent(t testing.TB, others ...string) *testAgent {
	t.Helper()
	dir := t.TempDir()
	hosts := custodytest.NewHosts(t, dir, others...)
	mine := filepath.Join(dir, "hostA")
	held, store := newHolder(t, mine, hosts)
	a, err := New(t.Context(), Config{
		Host: "hostA", StateDir: mine, Cells: noCells{}, Gates: noGates{}, CRIU: noCRIU{}, Peers: peers{hosts: hosts}, Images: held, Log: discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &testAgent{Agent: a, images: store, imageDir: filepath.Join(mine, "images"), others: hosts}
}

// newHolder makes the holder of hostA's images, in its state folder.
func newHolder(t testing.TB, stateDir string, hosts *custodytest.Hosts) (*custody.Holder, *images.Store) {
	t.Helper()
	store := custodytest.Open(t, stateDir)
	h, err := custody.New(custody.Config{
		Host: "hostA", Store: store, Dir: filepath.Join(stateDir, "images"), Staging: filepath.Join(stateDir, "staging"),
		Scratch: filepath.Join(stateDir, "scratch"), Peers: peers{hosts: hosts}, Ends: noCRIU{}, Log: discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, store
}

func participants(hosts ...string) []Participant {
	var out []Participant
	for _, p := range peersOf(hosts...) {
		out = append(out, Participant{Peer: p})
	}
	return out
}

func peersOf(hosts ...string) []custody.Peer {
	var out []custody.Peer
	for _, h := range hosts {
		out = append(out, custody.Peer{Host: h, Endpoint: h + ":7070"})
	}
	return out
}

var aKey = custodytest.Key

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
