package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// backdate is how far a certificate's start lies in the past, for hosts whose clock is behind.
	backdate = time.Hour

	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
	caName     = "ss cluster "
)

// Authority issues a cluster's certificates. Its key is the cluster: whoever has it can be anyone.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	certPEM []byte
	key     *ecdsa.PrivateKey
}

// CreateAuthority draws a cluster id, makes its authority and writes ca.crt and ca.key into dir, which
// is made 0700 if it is missing. Where either file exists already the error wraps fs.ErrExist and
// nothing is changed.
func CreateAuthority(dir string) (*Authority, error) {
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	for _, name := range []string{caKeyFile, caCertFile} {
		path := filepath.Join(dir, name)
		if there, err := exists(path); err != nil {
			return nil, fmt.Errorf("create authority: %w", err)
		} else if there {
			return nil, fmt.Errorf("create authority: %s is there already, and replacing it would lock every agent out: use it, or choose another folder: %w", path, fs.ErrExist)
		}
	}
	a, keyPEM, err := newAuthority(time.Now())
	if err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	// The key first: a certificate whose key was lost is worse than a key nobody knows of.
	if err := writeFile(filepath.Join(dir, caKeyFile), keyPEM, 0o600, false); err != nil {
		return nil, fmt.Errorf("create authority: write key: %w", err)
	}
	if err := writeFile(filepath.Join(dir, caCertFile), a.certPEM, 0o644, false); err != nil {
		return nil, fmt.Errorf("create authority: write certificate: %w", err)
	}
	return a, nil
}

// newAuthority makes an authority that begins to be valid shortly before now.
func newAuthority(now time.Time) (*Authority, []byte, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, nil, fmt.Errorf("draw cluster id: %w", err)
	}
	cluster := hex.EncodeToString(id)
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: caName + cluster},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs holders, no further authorities
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("read back certificate: %w", err)
	}
	return &Authority{cluster: cluster, cert: cert, certPEM: encodeCert(der), key: key}, keyPEM, nil
}

// LoadAuthority reads the authority that CreateAuthority wrote into dir. It refuses a key that others can read.
func LoadAuthority(dir string) (*Authority, error) {
	certPEM, err := readFile(filepath.Join(dir, caCertFile), false)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	keyPEM, err := readFile(filepath.Join(dir, caKeyFile), true)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", caCertFile, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", caKeyFile, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load authority: %s and %s in %s do not belong together", caCertFile, caKeyFile, dir)
	}
	cluster, err := clusterOf(cert)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	return &Authority{cluster: cluster, cert: cert, certPEM: certPEM, key: key}, nil
}

// Cluster is the cluster's id.
func (a *Authority) Cluster() string { return a.cluster }

// Issue makes a key and a certificate, valid for a year, for the holder of a role. The key exists in
// the bundle only; the authority keeps nothing.
func (a *Authority) Issue(role Role, name string) (Bundle, error) {
	now := time.Now()
	return a.issue(Identity{Cluster: a.cluster, Role: role, Name: name}, now.Add(-backdate), now.Add(leafLife))
}

func (a *Authority) issue(id Identity, notBefore, notAfter time.Time) (Bundle, error) {
	if err := id.validate(); err != nil {
		return Bundle{}, fmt.Errorf("issue certificate: %w", err)
	}
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.Name, OrganizationalUnit: []string{string(id.Role)}}, // for people; never read
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usagesOf(id.Role),
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.url()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate: %w", err)
	}
	return Bundle{Identity: id, CertPEM: encodeCert(der), KeyPEM: keyPEM, CAPEM: a.certPEM}, nil
}

// usagesOf lets agents serve and dial, and everyone else only dial.
func usagesOf(role Role) []x509.ExtKeyUsage {
	if role == RoleAgent {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// clusterOf reads the cluster's id from its authority's certificate.
func clusterOf(ca *x509.Certificate) (string, error) {
	cluster, ok := strings.CutPrefix(ca.Subject.CommonName, caName)
	if !ca.IsCA || !ok || !clusterPattern.MatchString(cluster) {
		return "", errors.New("this is not the certificate of a cluster's authority")
	}
	return cluster, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial draws 127 random bits (RFC 5280, 4.1.2.2: positive, at most 20 octets).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// parseCert reads exactly one certificate.
func parseCert(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, errors.New("not one PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, errors.New("not one PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is a %T, not ECDSA", key)
	}
	return ec, nil
}
