package tombstone

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Kind is the kind of the signed statement that a tombstone is.
const Kind = "cut removed"

// MaxLength bounds an encoded tombstone, in bytes. One of a cut of a thousand hosts has 150 KiB.
const MaxLength = 4 << 20

// ErrInvalid is wrapped by every error about a tombstone that is not one, or that no admin of the cluster signed.
var ErrInvalid = errors.New("not a valid tombstone")

// Signer signs as an admin. *identity.Credentials implements it.
type Signer interface {
	SignStatement(kind string, body []byte) ([]byte, error)
}

// Verifier opens what an admin of the cluster signed. *identity.Credentials implements it.
type Verifier interface {
	OpenStatement(kind string, statement []byte) (body []byte, err error)
}

// Tombstone says that one cut was removed. A cut may be imported again under its old id: that is another cut, of a later epoch and with other
// image sets, and this tombstone does not cover it.
type Tombstone struct {
	Schema  int       `json:"schema"` // 1
	Cluster string    `json:"cluster"`
	Job     string    `json:"job"`
	Cut     string    `json:"cut"`
	Epoch   uint64    `json:"epoch"` // of the cut; 0 where nobody knows it
	Sets    []Set     `json:"sets"`  // by host, then by digest
	Removed time.Time `json:"removed"`
}

// Set is an image set of the cut: whose it is, and the digest of its manifest in hex.
type Set struct {
	Host     string `json:"host"`
	Manifest string `json:"manifest"`
}

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Encode returns the tombstone signed, one line of JSON.
func (t Tombstone) Encode(s Signer) ([]byte, error) {
	body, err := t.body()
	if err == nil {
		err = t.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("tombstone of cut %s: %w", t.Cut, err)
	}
	data, err := s.SignStatement(Kind, body)
	if err == nil && len(data) > MaxLength {
		err = fmt.Errorf("%d bytes, more than %d: %w", len(data), MaxLength, ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("sign the tombstone of cut %s: %w", t.Cut, err)
	}
	return data, nil
}

func (t *Tombstone) body() ([]byte, error) {
	t.Schema = 1
	t.Removed = t.Removed.Round(0).UTC()
	t.Sets = slices.Clone(t.Sets)
	slices.SortFunc(t.Sets, compareSets)
	t.Sets = slices.Compact(t.Sets)
	return json.Marshal(t)
}

func compareSets(a, b Set) int {
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Manifest, b.Manifest))
}

// Decode reads a tombstone that Encode made, if an admin signed it. Every error wraps ErrInvalid.
func Decode(data []byte, v Verifier) (Tombstone, error) {
	bad := func(err error) (Tombstone, error) { return Tombstone{}, fmt.Errorf("%w: %w", err, ErrInvalid) }
	if v == nil {
		return bad(errors.New("nothing to check its signature with"))
	}
	if len(data) > MaxLength {
		return bad(fmt.Errorf("%d bytes, more than %d", len(data), MaxLength))
	}
	body, err := v.OpenStatement(Kind, data)
	if err != nil {
		return bad(err)
	}
	var t Tombstone
	if err := json.Unmarshal(body, &t); err != nil {
		return bad(err)
	}
	if t.Schema != 1 {
		return bad(fmt.Errorf("schema %d, this program knows 1: use a newer one", t.Schema))
	}
	if again, err := t.body(); err != nil || !bytes.Equal(again, body) {
		return bad(errors.New("another form than the canonical one"))
	}
	if err := t.validate(); err != nil {
		return bad(err)
	}
	return t, nil
}

func (t Tombstone) validate() error {
	for _, name := range []string{t.Job, t.Cut} {
		if !namePattern.MatchString(name) {
			return fmt.Errorf("%q is not a name: %w", name, ErrInvalid)
		}
	}
	if len(t.Sets) == 0 {
		return fmt.Errorf("no image set is named: %w", ErrInvalid)
	}
	for _, s := range t.Sets {
		if !namePattern.MatchString(s.Host) || !digestPattern.MatchString(s.Manifest) {
			return fmt.Errorf("image set %q of host %q: %w", s.Manifest, s.Host, ErrInvalid)
		}
	}
	return nil
}

// ID names the cut that the tombstone covers, apart from another one of the same id: 16 hex digits.
func (t Tombstone) ID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d\n", t.Job, t.Cut, t.Epoch)
	for _, s := range t.Sets {
		fmt.Fprintf(h, "%s %s\n", s.Host, s.Manifest)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Covers says whether an image set of the cut was removed with it.
func (t Tombstone) Covers(job, cut, host, manifest string) bool {
	return job == t.Job && cut == t.Cut && slices.Contains(t.Sets, Set{host, manifest})
}
