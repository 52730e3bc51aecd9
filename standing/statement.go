package standing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ss/names"
)

// Errors of statements.
var (
	// ErrInvalid says that a statement contradicts itself, or lacks something.
	ErrInvalid = errors.New("invalid statement")
	// ErrForged says that no admin of this cluster signed it, or that it was changed since.
	ErrForged = errors.New("statement is not an admin's")
)

const (
	// schema is the version of what is signed.
	schema = 1
	// kind is what is signed together with the statement, so that nothing else that is signed can be taken for one.
	kind = "job standing"
	// MaxSize bounds an encoded statement, in bytes. One of a thousand hosts with four addresses each has 200 KiB.
	MaxSize = 4 << 20
)

// Host is a host of a statement.
type Host struct {
	Name     string       `json:"name"`
	Endpoint string       `json:"endpoint"` // of its agent, IP:PORT; "" if the catalogue did not know it any more
	Addrs    []netip.Addr `json:"addrs"`    // every address of the host, as far as they are known
	Members  []string     `json:"members"`  // that stand there, or of a superseded host, that may still live there; sorted
}

// Statement says where the members of a job stand since a restore.
type Statement struct {
	Schema  int       `json:"schema"`
	Cluster string    `json:"cluster"` // the cluster's id
	Job     string    `json:"job"`
	Epoch   uint64    `json:"epoch"` // of the restore. A member of the job whose epoch is lower is an old copy
	Signed  time.Time `json:"signed"`
	Hosts   []Host    `json:"hosts"` // those that members stand on, by name
	// Superseded are the hosts that may have old copies of members and took no part in the restore, by name.
	Superseded []Host `json:"superseded"`
	// Ended are the members that had done their work before the cut, so that the next cut accounts for them, too. They stand nowhere.
	Ended []string `json:"ended,omitempty"`
}

// Signer signs statements with an admin's key (api/identity implements it).
type Signer interface {
	SignStatement(kind string, body []byte) ([]byte, error)
}

// Verifier opens what a Signer made.
type Verifier interface {
	// OpenStatement returns the body of a statement of that kind, or says why no admin of this cluster signed it.
	OpenStatement(kind string, statement []byte) (body []byte, err error)
}

// Encode returns the statement's canonical form, signed.
func (s Statement) Encode(by Signer) ([]byte, error) {
	s = s.canonical()
	if err := s.validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the statement of job %s: %w", s.Job, err)
	}
	data, err := by.SignStatement(kind, body)
	if err != nil {
		return nil, fmt.Errorf("sign the statement of job %s: %w", s.Job, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the statement of job %s has %d bytes, more than %d: %w", s.Job, len(data), MaxSize, ErrInvalid)
	}
	return data, nil
}

// Decode reads what Encode made. The error wraps ErrForged if no admin signed it.
func Decode(data []byte, v Verifier) (Statement, error) {
	if len(data) > MaxSize {
		return Statement{}, fmt.Errorf("statement of %d bytes, more than %d: %w", len(data), MaxSize, ErrInvalid)
	}
	body, err := v.OpenStatement(kind, data)
	if err != nil {
		return Statement{}, fmt.Errorf("%w: %w", err, ErrForged)
	}
	var s Statement
	if err := json.Unmarshal(body, &s); err != nil {
		return Statement{}, fmt.Errorf("statement: %w: %w", err, ErrInvalid)
	}
	if s.Schema != schema {
		return Statement{}, fmt.Errorf("the statement has schema %d, this program knows %d: use a newer version: %w", s.Schema, schema, ErrInvalid)
	}
	if again, err := json.Marshal(s.canonical()); err != nil || !bytes.Equal(again, body) {
		return Statement{}, fmt.Errorf("the statement of job %s is in another form than the canonical one: %w", s.Job, ErrInvalid)
	}
	return s, s.validate()
}

// canonical sorts what has no order and fills in what is missing.
func (s Statement) canonical() Statement {
	s.Schema = schema
	if s.Signed.IsZero() {
		s.Signed = time.Now()
	}
	s.Signed = s.Signed.Round(0).UTC()
	s.Hosts, s.Superseded = sortedHosts(s.Hosts), sortedHosts(s.Superseded)
	s.Ended = slices.Sorted(slices.Values(s.Ended)) // nil if there is none
	return s
}

func sortedHosts(in []Host) []Host {
	out := append([]Host{}, in...)
	for i := range out {
		h := &out[i]
		h.Addrs = append([]netip.Addr{}, h.Addrs...)
		slices.SortFunc(h.Addrs, netip.Addr.Compare)
		h.Addrs = slices.Compact(h.Addrs)
		h.Members = append([]string{}, h.Members...)
		slices.Sort(h.Members)
	}
	slices.SortFunc(out, func(a, b Host) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

func (s Statement) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("the statement of job %q: %s: %w", s.Job, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case !names.Valid(s.Job):
		return bad("that is not a job's name")
	case s.Cluster == "":
		return bad("it names no cluster")
	case s.Epoch == 0:
		return bad("it has no epoch")
	case len(s.Hosts) == 0:
		return bad("it names no host")
	}
	hosts, members := map[string]bool{}, map[string]string{}
	for _, h := range slices.Concat(s.Hosts, s.Superseded) {
		if !names.Valid(h.Name) {
			return bad("%q is not a host's name", h.Name)
		}
		if hosts[h.Name] {
			return bad("it names host %s twice", h.Name)
		}
		hosts[h.Name] = true
	}
	for _, h := range s.Hosts {
		for _, m := range h.Members {
			if other, ok := members[m]; ok || !names.Valid(m) {
				return bad("member %q on host %s (and %q)", m, h.Name, other)
			}
			members[m] = h.Name
		}
	}
	for _, m := range s.Ended {
		if other, ok := members[m]; ok || !names.Valid(m) {
			return bad("member %q, which had ended before the cut (and %q)", m, other)
		}
		members[m] = "no host"
	}
	return nil
}

// Names says whether the statement names the host, as one that members stand on or as a superseded one.
func (s Statement) Names(host string) bool {
	return s.Stands(host) || slices.ContainsFunc(s.Superseded, func(h Host) bool { return h.Name == host })
}

// Stands says whether members of the job stand on the host.
func (s Statement) Stands(host string) bool {
	return slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.Name == host })
}
