package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"

	"ss/names"
)

// Bundle is what the holder of an identity needs: its certificate, its key and the authority's
// certificate, in PEM.
type Bundle struct {
	Identity Identity
	CertPEM  []byte
	KeyPEM   []byte
	CAPEM    []byte
}

// Write puts the bundle into dir as base.crt, base.key (0600) and ca.crt, replacing an older
// certificate of that name. dir is made 0700 if it is missing. A ca.crt of another cluster is refused.
func (b Bundle) Write(dir, base string) error {
	if !names.Valid(base) || base == "ca" {
		return fmt.Errorf("write bundle: %q cannot be a file's name here", base)
	}
	if err := privateDir(dir); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	caPath := filepath.Join(dir, caCertFile)
	there, err := exists(caPath)
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if there {
		old, err := readFile(caPath, false)
		if err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
		if !bytes.Equal(old, b.CAPEM) {
			return fmt.Errorf("write bundle: %s belongs to another cluster: choose another folder, or remove it", caPath)
		}
	} else if err := writeFile(caPath, b.CAPEM, 0o644, false); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if err := writeFile(filepath.Join(dir, base+".key"), b.KeyPEM, 0o600, true); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if err := writeFile(filepath.Join(dir, base+".crt"), b.CertPEM, 0o644, true); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// Credentials are a bundle in use.
type Credentials struct {
	id   Identity
	cert tls.Certificate
	pool *x509.CertPool

	removed *removedHosts // of all copies
}

// LoadBundle reads a bundle's files and checks that they belong together and are valid now. It refuses a key
// that others can read.
func LoadBundle(certFile, keyFile, caFile string) (*Credentials, error) {
	b := Bundle{}
	var err error
	if b.CertPEM, err = readFile(certFile, false); err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	if b.KeyPEM, err = readFile(keyFile, true); err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	if b.CAPEM, err = readFile(caFile, false); err != nil {
		return nil, fmt.Errorf("load authority's certificate: %w", err)
	}
	c, err := b.Credentials()
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", certFile, err)
	}
	return c, nil
}

// Credentials checks that the bundle's parts belong together and are valid now.
func (b Bundle) Credentials() (*Credentials, error) {
	c, err := b.credentials()
	if err != nil {
		return nil, err
	}
	leaf := c.cert.Leaf
	if now := time.Now(); now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("certificate of %s expired on %s: issue a new one", c.id.Name, leaf.NotAfter.UTC().Format(time.DateOnly))
	} else if now.Before(leaf.NotBefore) {
		return nil, fmt.Errorf("certificate of %s begins on %s: is this machine's clock right?", c.id.Name, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if _, err := c.verify(leaf, x509.ExtKeyUsageClientAuth); err != nil {
		return nil, err
	}
	return c, nil
}

// credentials checks only what does not depend on the clock.
func (b Bundle) credentials() (*Credentials, error) {
	cert, err := tls.X509KeyPair(b.CertPEM, b.KeyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	ca, err := parseCert(b.CAPEM)
	if err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	cluster, err := clusterOf(ca)
	if err != nil {
		return nil, err
	}
	id, err := OfCertificate(cert.Leaf)
	if err != nil {
		return nil, err
	}
	if id.Cluster != cluster {
		return nil, fmt.Errorf("certificate is of cluster %s, the authority of %s: %w", id.Cluster, cluster, ErrIdentity)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &Credentials{id: id, cert: cert, pool: pool, removed: &removedHosts{}}, nil
}

// Identity is the holder's own.
func (c *Credentials) Identity() Identity { return c.id }

// NotAfter is when the certificate expires.
func (c *Credentials) NotAfter() time.Time { return c.cert.Leaf.NotAfter }

// Server is how an agent serves: TLS 1.3, and nobody without a certificate of this cluster. What the
// caller may do is Policy's to say.
func (c *Credentials) Server() *tls.Config {
	cfg := c.config()
	cfg.ClientAuth = tls.RequireAndVerifyClientCert // fills VerifiedChains, which FromContext insists on
	cfg.ClientCAs = c.pool
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := c.verifyPeer(cs, x509.ExtKeyUsageClientAuth)
		return err
	}
	return cfg
}

// Client is how to dial the holder of a role and a name, an agent in all but odd cases. Anyone else
// who answers is refused, whatever the cluster says of them.
func (c *Credentials) Client(want Role, name string) *tls.Config {
	cfg := c.config()
	// The standard check wants a DNS name or an address. Ours is in VerifyConnection: the chain, and
	// then the identity. It runs on every handshake, before a byte of the application's is sent.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		peer, err := c.verifyPeer(cs, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if peer.Role != want || peer.Name != name {
			return fmt.Errorf("dialled %s %q, and %s %q answered: %w", want, name, peer.Role, peer.Name, ErrIdentity)
		}
		return nil
	}
	return cfg
}

// config is what both sides share. Without tickets and a session cache every connection is a full
// handshake, so a certificate is looked at each time.
func (c *Credentials) config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.cert},
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2"},
	}
}

func (c *Credentials) verifyPeer(cs tls.ConnectionState, usage x509.ExtKeyUsage) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("no certificate: %w", ErrIdentity)
	}
	return c.verify(cs.PeerCertificates[0], usage)
}

// verify checks a certificate against the cluster's authority and reads whom it names. Intermediates
// are not taken: the authority signs holders itself.
func (c *Credentials) verify(cert *x509.Certificate, usage x509.ExtKeyUsage) (Identity, error) {
	return c.verifyAt(cert, usage, time.Now())
}

// verifyAt does so as if it were at that time.
func (c *Credentials) verifyAt(cert *x509.Certificate, usage x509.ExtKeyUsage, at time.Time) (Identity, error) {
	if _, err := cert.Verify(x509.VerifyOptions{Roots: c.pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at}); err != nil {
		return Identity{}, fmt.Errorf("certificate is not a valid one of this cluster: %w: %w", err, ErrIdentity)
	}
	id, err := OfCertificate(cert)
	if err != nil {
		return Identity{}, err
	}
	if id.Cluster != c.id.Cluster {
		return Identity{}, fmt.Errorf("certificate is of cluster %s, not %s: %w", id.Cluster, c.id.Cluster, ErrIdentity)
	}
	if err := c.checkRemoved(id, cert); err != nil {
		return Identity{}, err
	}
	return id, nil
}
