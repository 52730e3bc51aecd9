package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
)

// rogueVariable tells the program that calls agents with a host's certificate where that is and whom to call: FOLDER NAME=ADDRESS…
const rogueVariable = "SS_TEST_ROGUE"

// callAgents calls every method of other agents that moves anything, with the certificate of a bundle, and prints what came of each.
func callAgents() error {
	args := strings.Fields(os.Getenv(rogueVariable))
	file := func(name string) string { return filepath.Join(args[0], name) }
	creds, err := identity.LoadBundle(file("agent.crt"), file("agent.key"), file("ca.crt"))
	if err != nil {
		return err
	}
	for _, to := range args[1:] {
		host, addr, _ := strings.Cut(to, "=")
		conn, err := grpc.NewClient("passthrough:///"+addr, append(wire.WithProtocol("a test", host),
			grpc.WithTransportCredentials(credentials.NewTLS(creds.Client(identity.RoleAgent, host))))...)
		if err != nil {
			return err
		}
		for name, call := range rogueCalls(ssv1.NewPeerClient(conn)) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			err := call(ctx)
			cancel()
			fmt.Printf("%s %s: %s: %v\n", host, name, status.Code(err), err)
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

func rogueCalls(c ssv1.PeerClient) map[string]func(context.Context) error {
	data := []byte("of no job")
	sum := sha256.Sum256(data)
	object := "nojob/objects/" + hex.EncodeToString(sum[:])
	return map[string]func(context.Context) error{
		"StatObject": func(ctx context.Context) error {
			_, err := c.StatObject(ctx, &ssv1.StatObjectRequest{Name: object})
			return err
		},
		"ListObjects": func(ctx context.Context) error {
			s, err := c.ListObjects(ctx, &ssv1.ListObjectsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		},
		"PutObject": func(ctx context.Context) error {
			s, err := c.PutObject(ctx)
			if err != nil {
				return err
			}
			for _, f := range []*ssv1.ObjectFrame{{Name: object, Size: int64(len(data))}, {Data: data}} {
				if s.Send(f) != nil {
					break // why comes with the answer
				}
			}
			_, err = s.CloseAndRecv()
			return err
		},
		"Stand": func(ctx context.Context) error {
			_, err := c.Stand(ctx, &ssv1.StandRequest{Standing: &ssv1.Standing{Job: "split"}})
			return err
		},
		"Exchange": func(ctx context.Context) error {
			_, err := c.Exchange(ctx, &ssv1.ExchangeRequest{})
			return err
		},
	}
}

// rogue runs callAgents on a host, with the certificate of that host's agent, and returns the codes of the answers, by host and method.
func (c *cluster) rogue(from string, to ...string) map[string]codes.Code {
	c.t.Helper()
	exe, err := os.Executable()
	must(c.t, err)
	cmd := c.Host(from).Command(c.t.Context(), exe, holdWord, "rogue")
	words := []string{filepath.Join(c.Dir(), "bundles", from)}
	for _, h := range to {
		words = append(words, fmt.Sprintf("%s=%s:7070", h, c.Host(h).Addr()))
	}
	cmd.Env = append(os.Environ(), rogueVariable+"="+strings.Join(words, " "))
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	found := map[string]codes.Code{}
	for line := range strings.Lines(string(out)) {
		what, rest, ok := strings.Cut(line, ": ")
		name, _, _ := strings.Cut(rest, ":")
		for code := range codes.Code(17) {
			if ok && code.String() == name {
				found[what] = code
			}
		}
	}
	if len(found) != 5*len(to) {
		c.t.Fatalf("%d answers:\n%s", len(found), out)
	}
	return found
}

// TestRemovedHost: a host is cut off, its job goes on elsewhere, it is removed as lost, and then it comes back with its agent, its certificate and
// its old member. Nobody answers it, it puts nothing and reads nothing, and the old member reaches nobody. When the host is added again, the old member ends.
func TestRemovedHost(t *testing.T) {
	s := newSplit(t)
	for what, code := range s.rogue("hostA", "hostB", "hostC") {
		if code == codes.Unavailable || code == codes.Unauthenticated {
			t.Fatalf("before it is removed, %s: %s", what, code)
		}
	}
	s.MustCtl("gc") // what the calls have put there
	old, mark := s.apart("hostC")
	oldMark := s.oldLog(old)
	s.MustCtl("host", "rm", old, "--lost")
	s.unique(s.snapshot().Cut)
	objects := func() string { return s.tree("hostB") + s.tree("hostC") }
	before := objects()
	s.Host(old).HealNetwork()

	for what, code := range s.rogue(old, "hostB", "hostC") {
		if code != codes.Unavailable && code != codes.Unauthenticated {
			t.Errorf("after it was removed, %s: %s", what, code)
		}
	}
	first := strings.Count(s.oldText(old), "trying ")
	await(t, "three tries of the old copy to reach the job", func() string {
		if n := strings.Count(s.oldText(old), "trying "); n < first+3 {
			return fmt.Sprintf("%d more", n-first)
		}
		return ""
	})
	if reached := s.reached(old, mark, oldMark); reached != "" {
		t.Fatal(reached)
	}
	// A new agent of the removed host asks the others what became of its member. They tell it nothing.
	s.Agent(old).Kill()
	s.Agent(old).Start()
	s.flows("beside a removed host")
	s.unique(s.snapshot().Cut)
	s.MustCtl("gc")
	if reached := s.reached(old, mark, oldMark); reached != "" {
		t.Fatal(reached)
	}
	if after := objects(); strings.Contains(after, "nojob") {
		t.Errorf("objects were\n%s\nand are\n%s", before, after)
	}

	s.addAgain(old)
	s.MustCtl("host", "list")
	s.gone(old)
	s.settled()
	if reached := s.reached(old, mark, oldMark); reached != "" {
		t.Fatal(reached)
	}
	s.flows("after the host was added again")
	s.unique(s.snapshot().Cut)
	s.end()
	s.checkLeaks()
}

// oldText is the log of the copy on a host.
func (s *split) oldText(host string) string {
	s.t.Helper()
	log, err := s.Host(host).ReadFile(s.logPath(s.mover))
	must(s.t, err)
	return string(log)
}

// tree lists the objects that a host holds.
func (c *cluster) tree(host string) string {
	c.t.Helper()
	found, err := filepath.Glob(c.Host(host).Path(imageRoot) + "/*/objects/*")
	must(c.t, err)
	slices.Sort(found)
	return strings.Join(found, "\n")
}

// addAgain adds a host that was removed, and starts its agent with the new certificate and the configuration that it had.
func (c *cluster) addAgain(host string) {
	c.t.Helper()
	c.Agent(host).Stop()
	bundle := filepath.Join(c.Dir(), "bundles", host)
	config, err := os.ReadFile(filepath.Join(bundle, "agent.yaml"))
	must(c.t, err)
	must(c.t, os.RemoveAll(bundle))
	c.MustCtl("host", "add", host, "--addr", fmt.Sprintf("%s:7070", c.Host(host).Addr()), "--bundle", bundle)
	fresh, err := os.ReadFile(filepath.Join(bundle, "agent.yaml"))
	must(c.t, err)
	if !bytes.Equal(fresh, config) {
		must(c.t, os.WriteFile(filepath.Join(bundle, "agent.yaml"), config, 0o600))
	}
	c.Agent(host).Start()
}
