package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"ss/names"
)

// Role says what the holder of a certificate is.
type Role string

// The roles. An admin drives the cluster (ssctl), an agent serves one host, an observer reads.
const (
	RoleAdmin    Role = "admin"
	RoleAgent    Role = "agent"
	RoleObserver Role = "observer"
)

// Roles lists every role there is.
func Roles() []Role { return []Role{RoleAdmin, RoleAgent, RoleObserver} }

// Identity is who holds a certificate.
type Identity struct {
	Cluster string // the cluster's id: 32 hex digits, drawn when the authority was made
	Role    Role
	Name    string // of an agent: the name its host is registered by
}

// scheme is that of the URI SAN.
const scheme = "ss"

// ErrIdentity is wrapped by every error that says a certificate does not name the one it should.
var ErrIdentity = errors.New("identity refused")

var (
	clusterPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// String returns the URI that stands in the certificate.
func (id Identity) String() string {
	return scheme + "://" + id.Cluster + "/" + string(id.Role) + "/" + id.Name
}

// validate says what is wrong with id, if anything.
func (id Identity) validate() error {
	switch {
	case !clusterPattern.MatchString(id.Cluster):
		return fmt.Errorf("cluster id %q is not 32 hex digits: %w", id.Cluster, ErrIdentity)
	case id.Role != RoleAdmin && id.Role != RoleAgent && id.Role != RoleObserver:
		return fmt.Errorf("unknown role %q: %w", id.Role, ErrIdentity)
	case !names.Valid(id.Name):
		return fmt.Errorf("name %q: %s: %w", id.Name, names.Rule, ErrIdentity)
	}
	return nil
}

// Parse reads the URI form. What it accepts, String gives back byte for byte.
func Parse(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, scheme+"://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return Identity{}, fmt.Errorf("%q is not of the form ss://CLUSTER/ROLE/NAME: %w", uri, ErrIdentity)
	}
	id := Identity{Cluster: parts[0], Role: Role(parts[1]), Name: parts[2]}
	if err := id.validate(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// OfCertificate reads who a certificate names. It does not verify the certificate.
func OfCertificate(cert *x509.Certificate) (Identity, error) {
	if cert == nil {
		return Identity{}, fmt.Errorf("no certificate: %w", ErrIdentity)
	}
	// Exactly one, so that no two readers can disagree about which counts.
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("certificate carries %d URI names, not one: %w", len(cert.URIs), ErrIdentity)
	}
	return Parse(cert.URIs[0].String())
}

// url is what x509 wants of a URI SAN.
func (id Identity) url() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Cluster, Path: "/" + string(id.Role) + "/" + id.Name}
}
