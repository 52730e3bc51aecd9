package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"ss/agent"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/standing"
	"ss/store/images"
)

// oneMember is a host with one member that can be frozen and ended.
type oneMember struct {
	noCells
	mu     sync.Mutex
	member agent.Member
	did    []string
}

func (c *oneMember) do(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did = append(c.did, what)
	switch what {
	case "freeze":
		c.member.Frozen = true
	case "kill":
		c.member.State = agent.Exited
	case "forget":
		c.member = agent.Member{}
	}
	return nil
}

func (c *oneMember) Members(context.Context) ([]agent.Member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.member.Name == "" {
		return nil, nil
	}
	return []agent.Member{c.member}, nil
}

func (c *oneMember) Freeze(context.Context, agent.Member) error                    { return c.do("freeze") }
func (c *oneMember) Kill(context.Context, agent.Member) error                      { return c.do("kill") }
func (c *oneMember) Forget(context.Context, agent.Member) error                    { return c.do("forget") }
func (c *oneMember) Sockets(context.Context, agent.Member) ([]agent.Socket, error) { return nil, nil }

func (c *oneMember) done() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.did)
}

// statement says that hostA-1 stands on hostC since a restore.
func statement(epoch uint64) standing.Statement {
	at := func(n byte) []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, n})} }
	return standing.Statement{Cluster: "c", Job: "job", Epoch: epoch,
		Hosts:      []standing.Host{{Name: "hostC", Addrs: at(3), Members: []string{"hostA-1"}}},
		Superseded: []standing.Host{{Name: "hostA", Addrs: at(1), Members: []string{"hostA-1"}}}}
}

// forge signs a statement as api/identity does, with a key that is not an admin's.
func forge(t *testing.T, a *identity.Authority, role identity.Role, s standing.Statement) []byte {
	t.Helper()
	admin := issue(t, a, identity.RoleAdmin, "me")
	encoded, err := s.Encode(admin)
	if err != nil {
		t.Fatal(err)
	}
	var form struct {
		Kind        string          `json:"kind"`
		Body        json.RawMessage `json:"body"`
		Signature   []byte          `json:"signature"`
		Certificate string          `json:"certificate"`
	}
	if err := json.Unmarshal(encoded, &form); err != nil {
		t.Fatal(err)
	}
	b, err := a.Issue(role, "hostB")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b.KeyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append([]byte("ss signature 1\x00statement\x00"+form.Kind+"\x00"), form.Body...))
	if form.Signature, err = ecdsa.SignASN1(rand.Reader, key.(*ecdsa.PrivateKey), sum[:]); err != nil {
		t.Fatal(err)
	}
	form.Certificate = string(b.CertPEM)
	out, err := json.Marshal(form)
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, '\n')
	if role == identity.RoleAdmin { // so that what is refused is refused for its role and nothing else
		if _, err := standing.Decode(out, admin); err != nil {
			t.Fatalf("the forgery is not even in the right form: %v", err)
		}
	}
	return out
}

// TestStatements shows a host with an old copy all kinds of statements: only an admin's touches the member, and only the word of a host on which
// members stand, or of an admin, ends it.
func TestStatements(t *testing.T) {
	authority, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	admin := issue(t, authority, identity.RoleAdmin, "me")
	forge(t, authority, identity.RoleAdmin, statement(7)) // checks the forgery itself
	encode := func(s standing.Statement, by *identity.Credentials) []byte {
		b, err := s.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	frozen, ended := []string{"freeze"}, []string{"freeze", "kill", "forget"}
	other := statement(7)
	other.Job = "other"
	for name, c := range map[string]struct {
		epoch     uint64 // of the member
		by        string // "": an admin
		statement []byte
		inForce   bool
		code      codes.Code
		want      []string
	}{
		"an agent's key":             {by: "hostC", statement: forge(t, authority, identity.RoleAgent, statement(7)), inForce: true, code: codes.PermissionDenied},
		"an observer's key":          {by: "hostC", statement: forge(t, authority, identity.RoleObserver, statement(7)), inForce: true, code: codes.PermissionDenied},
		"another cluster's admin":    {by: "hostC", statement: encode(statement(7), issue(t, foreign, identity.RoleAdmin, "me")), inForce: true, code: codes.PermissionDenied},
		"noise":                      {by: "hostC", statement: []byte("{}"), inForce: true, code: codes.PermissionDenied},
		"another job's":              {by: "hostC", statement: encode(other, admin), inForce: true, code: codes.PermissionDenied},
		"of the member's own epoch":  {epoch: 7, by: "hostC", statement: encode(statement(7), admin), inForce: true},
		"older than the member":      {epoch: 9, by: "hostC", statement: encode(statement(7), admin), inForce: true},
		"without a confirmation":     {by: "hostC", statement: encode(statement(7), admin), want: frozen},
		"confirmed by a stranger":    {by: "hostD", statement: encode(statement(7), admin), inForce: true, want: frozen},
		"confirmed where it stands":  {by: "hostC", statement: encode(statement(7), admin), inForce: true, want: ended},
		"confirmed by an admin":      {statement: encode(statement(7), admin), inForce: true, want: ended},
		"shown by an admin, no word": {statement: encode(statement(7), admin), want: frozen},
	} {
		t.Run(name, func(t *testing.T) {
			cells := &oneMember{member: agent.Member{Job: "job", Name: "hostA-1", State: agent.Running, Epoch: c.epoch}}
			h := serveCells(t, authority, cells)
			req := &ssv1.StandRequest{Standing: &ssv1.Standing{Job: "job", Epoch: 7, Statement: c.statement, InForce: c.inForce}}
			var err error
			var resp *ssv1.StandResponse
			if c.by == "" {
				conn := h.dial(t, credentials.NewTLS(admin.Client(identity.RoleAgent, "hostA")))
				resp, err = ssv1.NewAgentClient(conn).Stand(t.Context(), req)
			} else {
				conn := h.dial(t, credentials.NewTLS(issue(t, authority, identity.RoleAgent, c.by).Client(identity.RoleAgent, "hostA")))
				resp, err = ssv1.NewPeerClient(conn).Stand(t.Context(), req)
			}
			if status.Code(err) != c.code {
				t.Fatalf("%v, want %v", err, c.code)
			}
			if got := cells.done(); !slices.Equal(got, c.want) {
				t.Errorf("it did %v, want %v", got, c.want)
			}
			if settled := resp.GetStanding().GetSettled(); err == nil && settled == slices.Equal(c.want, frozen) {
				t.Errorf("settled: %v, after %v", settled, c.want)
			}
		})
	}
}

// serveCells is serveAgent for a host with members.
func serveCells(t *testing.T, authority *identity.Authority, cells agent.Cells) *hostAgent {
	t.Helper()
	h := &hostAgent{authority: authority}
	dir := t.TempDir()
	var err error
	if h.images, err = images.Open(dir+"/images", images.Options{Pause: h.quiet.Wait}); err != nil {
		t.Fatal(err)
	}
	creds := issue(t, authority, identity.RoleAgent, "hostA")
	h.serve(t, creds, agent.Config{
		Host: "hostA", StateDir: dir, Cells: cells, Gates: noGates{}, CRIU: noCRIU{}, Verifier: creds,
		Quiet: &h.quiet, Log: slog.New(slog.DiscardHandler),
	})
	return h
}
