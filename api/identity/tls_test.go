package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func testAuthority(t *testing.T) *Authority {
	t.Helper()
	a, _, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes credentials that may be anything but well-formed: bad ones are what these tests are about.
func issue(t *testing.T, a *Authority, id Identity, notBefore, notAfter time.Time) *Credentials {
	t.Helper()
	b, err := a.issue(id, notBefore, notAfter)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(b.CertPEM, b.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &Credentials{id: id, cert: cert, pool: pool}
}

func valid(t *testing.T, a *Authority, role Role, name string) *Credentials {
	t.Helper()
	b, err := a.Issue(role, name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange serves one connection on loopback, dials it and passes a word through. It returns what
// the server read and both sides' errors. A nil client means plain TCP.
func exchange(t *testing.T, server, client *tls.Config) (got string, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		s := tls.Server(conn, server)
		buf := make([]byte, 4)
		if _, serverErr = io.ReadFull(s, buf); serverErr == nil {
			got = string(buf)
			_, serverErr = s.Write([]byte("pong"))
		}
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	word := "ping"
	if client != nil {
		conn = tls.Client(conn, client)
	} else {
		word = "ping, in plain text" // more than a record's header, so the server need not wait for the rest of it
	}
	if _, clientErr = conn.Write([]byte(word)); clientErr == nil {
		_, clientErr = io.ReadFull(conn, make([]byte, 4))
	}
	_ = conn.Close()
	<-done
	return got, serverErr, clientErr
}

// connection is one attempt at one, and whether it may come about.
type connection struct {
	name           string
	server, client *tls.Config
	ok             bool
}

func connections(t *testing.T) []connection {
	a, other := testAuthority(t), testAuthority(t)
	now := time.Now()
	id := func(role Role, name string) Identity { return Identity{Cluster: a.cluster, Role: role, Name: name} }
	alien := Identity{Cluster: other.cluster, Role: RoleAgent, Name: "hostA"}
	agent := valid(t, a, RoleAgent, "hostA")
	admin := valid(t, a, RoleAdmin, "me")
	server := agent.Server()
	dialA := admin.Client(RoleAgent, "hostA")
	change := func(cfg *tls.Config, f func(*tls.Config)) *tls.Config {
		cfg = cfg.Clone()
		f(cfg)
		return cfg
	}
	// present sends a certificate that the server did not ask for; left to itself, the client would send none.
	present := func(as *Credentials) *tls.Config {
		return change(dialA, func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &as.cert, nil }
		})
	}
	selfSigned := testAuthority(t) // an authority of its own that claims this cluster
	selfSigned.cluster = a.cluster

	return []connection{
		{"admin to agent", server, dialA, true},
		{"observer to agent", server, valid(t, a, RoleObserver, "eye").Client(RoleAgent, "hostA"), true},
		{"agent to agent", server, valid(t, a, RoleAgent, "hostB").Client(RoleAgent, "hostA"), true},

		{"client of another cluster", server, present(valid(t, other, RoleAdmin, "me")), false},
		{"server of another cluster", valid(t, other, RoleAgent, "hostA").Server(), dialA, false},
		{"client with our signature and another cluster's id", server, present(issue(t, a, alien, now.Add(-time.Hour), now.Add(time.Hour))), false},
		{"server with our signature and another cluster's id", issue(t, a, alien, now.Add(-time.Hour), now.Add(time.Hour)).Server(), dialA, false},
		{"self-signed client", server, present(issue(t, selfSigned, id(RoleAdmin, "me"), now.Add(-time.Hour), now.Add(time.Hour))), false},
		{"self-signed server", issue(t, selfSigned, id(RoleAgent, "hostA"), now.Add(-time.Hour), now.Add(time.Hour)).Server(), dialA, false},

		{"another host answers", valid(t, a, RoleAgent, "hostB").Server(), dialA, false},
		{"no name wanted", server, admin.Client(RoleAgent, ""), false},
		{"an admin serves", admin.Server(), dialA, false},
		{"an admin serves under the host's name", valid(t, a, RoleAdmin, "hostA").Server(), dialA, false},
		{"wrong role wanted", server, admin.Client(RoleAdmin, "hostA"), false},

		{"expired client", server, issue(t, a, id(RoleAdmin, "me"), now.Add(-2*time.Hour), now.Add(-time.Minute)).Client(RoleAgent, "hostA"), false},
		{"expired server", issue(t, a, id(RoleAgent, "hostA"), now.Add(-2*time.Hour), now.Add(-time.Minute)).Server(), dialA, false},
		{"client not valid yet", server, issue(t, a, id(RoleAdmin, "me"), now.Add(time.Hour), now.Add(2*time.Hour)).Client(RoleAgent, "hostA"), false},

		{"client without a certificate", server, change(dialA, func(c *tls.Config) { c.Certificates = nil }), false},
		{"TLS 1.2 client", server, change(dialA, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), false},
		{"TLS 1.2 server", change(server, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), dialA, false},
		{"plain text client", server, nil, false},
	}
}

func TestConnections(t *testing.T) {
	for _, tt := range connections(t) {
		t.Run(tt.name, func(t *testing.T) {
			got, serverErr, clientErr := exchange(t, tt.server, tt.client)
			if tt.ok {
				if serverErr != nil || clientErr != nil || got != "ping" {
					t.Fatalf("got %q, server: %v, client: %v", got, serverErr, clientErr)
				}
				return
			}
			if got != "" || serverErr == nil || clientErr == nil {
				t.Fatalf("not refused: server read %q (%v), client: %v", got, serverErr, clientErr)
			}
			t.Logf("server: %v; client: %v", serverErr, clientErr)
		})
	}
}

// TestNoResumption: a second connection with a session cache is a full handshake all the same.
func TestNoResumption(t *testing.T) {
	a := testAuthority(t)
	server := valid(t, a, RoleAgent, "hostA").Server()
	client := valid(t, a, RoleAdmin, "me").Client(RoleAgent, "hostA")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	client.ServerName = "hostA" // the cache's key
	resumed := false
	verify := client.VerifyConnection
	client.VerifyConnection = func(cs tls.ConnectionState) error {
		resumed = resumed || cs.DidResume
		return verify(cs)
	}
	for range 3 {
		if _, s, c := exchange(t, server, client); s != nil || c != nil {
			t.Fatal(s, c)
		}
	}
	if resumed {
		t.Fatal("a session was resumed")
	}
}

// TestLeafSignsNothing: the holder of a certificate cannot issue one.
func TestLeafSignsNothing(t *testing.T) {
	a := testAuthority(t)
	b, err := a.Issue(RoleAgent, "hostA")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := parseCert(b.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	key, err := parseKey(b.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	rogue := &Authority{cluster: a.cluster, cert: leaf, key: key, certPEM: b.CertPEM}
	forged, err := rogue.issue(Identity{Cluster: a.cluster, Role: RoleAdmin, Name: "me"}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	forged.CAPEM = a.certPEM
	forged.CertPEM = append(forged.CertPEM, b.CertPEM...) // sends the leaf along as an intermediate
	c, err := forged.credentials()
	if err != nil {
		t.Fatal(err)
	}
	got, serverErr, _ := exchange(t, valid(t, a, RoleAgent, "hostB").Server(), c.Client(RoleAgent, "hostB"))
	if got != "" || serverErr == nil {
		t.Fatalf("a forged admin was let in: %q, %v", got, serverErr)
	}
	if _, err := c.verify(c.cert.Leaf, x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrIdentity) {
		t.Fatalf("verify: %v", err)
	}
}
