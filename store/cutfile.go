package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

const (
	// cutFileSchema is the version of what is signed. The layer around it, which signedCut describes, stays as it is. What has
	// schema 1 says less, and in the same form: nothing of members but their names, and not where an imported cut comes from.
	cutFileSchema = 2
	// cutFileDomain stands before what is signed, so that no signature of anything else can be taken for one of a cut.
	cutFileDomain = "cut manifest\x00"
	// maxCutFile bounds a cut's manifest, in bytes: those who keep it take no longer one. A cut of ten thousand channels has 4 MiB.
	maxCutFile = 16 << 20
)

// CutFile is what is known of a cut outside the catalogue: signed, and kept beside its images, so that the catalogue can be made
// again. It is not encrypted, so the members' environments, which often hold secrets, are not in it: Encode leaves CutMember.Env out, and cuts of a
// catalogue that was made again have none. A restore does not miss it, as processes have their environment in memory. Nothing in it is secret
// but for what the members' own commands say.
type CutFile struct {
	Schema  int       `json:"schema"` // Encode takes the newest
	Signed  time.Time `json:"signed"` // when; of two files of a cut the later counts. Zero: Encode takes the present
	Cluster Cluster   `json:"cluster"`
	Job     Job       `json:"job"`
	Epoch   uint64    `json:"epoch"` // the job's last when it was signed
	Hosts   []Host    `json:"hosts"` // every host registered, by name
	Cut     Cut       `json:"cut"`
}

// Signer signs with an admin's key (api/identity implements it).
type Signer interface {
	// Sign returns a signature of data and the signer's certificate, PEM.
	Sign(data []byte) (signature, certificate []byte, err error)
}

// Verifier checks what a Signer made.
type Verifier interface {
	// VerifySigned says why the signature is not one of an admin of this cluster; nil if it is. An expired certificate is not a reason.
	VerifySigned(data, signature, certificate []byte) error
}

// signedCut is the file's outer layer. The signature covers cutFileDomain and then the bytes of Cut as they stand in the file.
type signedCut struct {
	Cut         json.RawMessage `json:"cut"`
	Signature   []byte          `json:"signature"`
	Certificate string          `json:"certificate"`
}

// Encode returns the file's canonical form, signed: one line of JSON. What could not be decoded again makes the error wrap ErrInvalid.
func (f CutFile) Encode(s Signer) ([]byte, error) {
	f.Schema = cutFileSchema
	payload, err := f.payload()
	if err != nil {
		return nil, fmt.Errorf("manifest of cut %s: %w", f.Cut.ID, err)
	}
	signature, certificate, err := s.Sign(append([]byte(cutFileDomain), payload...))
	if err != nil {
		return nil, fmt.Errorf("sign the manifest of cut %s: %w", f.Cut.ID, err)
	}
	data, err := signedCut{payload, signature, string(certificate)}.encode()
	if err != nil {
		return nil, fmt.Errorf("manifest of cut %s: %w", f.Cut.ID, err)
	}
	if len(data) > maxCutFile {
		return nil, fmt.Errorf("manifest of cut %s has %d bytes, more than %d: %w", f.Cut.ID, len(data), maxCutFile, ErrInvalid)
	}
	return data, nil
}

// encode returns the outer layer. The payload goes in as it is: json.Marshal would write a RawMessage again.
func (s signedCut) encode() ([]byte, error) {
	signature, err := json.Marshal(s.Signature)
	if err != nil {
		return nil, err
	}
	certificate, err := json.Marshal(s.Certificate)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"cut":%s,"signature":%s,"certificate":%s}`+"\n", []byte(s.Cut), signature, certificate), nil
}

// payload returns the form of what is signed.
func (f CutFile) payload() ([]byte, error) {
	if f.Signed.IsZero() {
		f.Signed = now()
	}
	f.Hosts = slices.Clone(f.Hosts)
	slices.SortFunc(f.Hosts, func(a, b Host) int { return cmp.Compare(a.Name, b.Name) })
	for i := range f.Hosts {
		f.Hosts[i].Added, f.Hosts[i].Silent = f.Hosts[i].Added.Round(0).UTC(), time.Time{}
	}
	f.Cut.Hosts = withoutEnv(f.Cut.Hosts)
	if f.Cut.Imported != nil {
		f.Cut.Imported = &Imported{From: f.Cut.Imported.From, Time: f.Cut.Imported.Time.Round(0).UTC()}
	}
	for _, t := range []*time.Time{&f.Signed, &f.Cluster.Created, &f.Job.Created, &f.Cut.Time} {
		*t = t.Round(0).UTC()
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	once, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	// A command may be no UTF-8. JSON replaces such bytes, and writes the replacement another way when it
	// meets it again; only what has been read once has a form that stays.
	var again CutFile
	if err := json.Unmarshal(once, &again); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	return json.Marshal(again)
}

// withoutEnv copies the parts of a cut, without the members' environments.
func withoutEnv(hosts []CutHost) []CutHost {
	hosts = slices.Clone(hosts)
	for i := range hosts {
		hosts[i].Members = slices.Clone(hosts[i].Members)
		for j := range hosts[i].Members {
			hosts[i].Members[j].Env = nil
		}
	}
	return hosts
}

// DecodeCutFile reads what Encode made. A bad signature, or any other form, makes the error wrap ErrCorrupt; another schema, if an admin signed
// it, ErrUnknownVersion.
func DecodeCutFile(data []byte, v Verifier) (CutFile, error) {
	bad := func(err error) (CutFile, error) {
		return CutFile{}, fmt.Errorf("manifest of a cut: %w: %w", err, ErrCorrupt)
	}
	if len(data) > maxCutFile {
		return bad(fmt.Errorf("%d bytes, more than %d", len(data), maxCutFile))
	}
	var layer signedCut
	if err := json.Unmarshal(data, &layer); err != nil {
		return bad(err)
	}
	if again, err := layer.encode(); err != nil || !bytes.Equal(again, data) {
		return bad(fmt.Errorf("another form than it was signed in"))
	}
	// The signature comes first: what nobody signed has no version.
	signed := append([]byte(cutFileDomain), layer.Cut...)
	if err := v.VerifySigned(signed, layer.Signature, []byte(layer.Certificate)); err != nil {
		return bad(err)
	}
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(layer.Cut, &version); err != nil {
		return bad(err)
	}
	if version.Schema < 1 {
		return bad(fmt.Errorf("no schema"))
	}
	if version.Schema > cutFileSchema {
		return CutFile{}, fmt.Errorf("manifest of a cut has schema %d, this program knows %d: use a newer ssctl: %w", version.Schema, cutFileSchema, ErrUnknownVersion)
	}
	var f CutFile
	if err := json.Unmarshal(layer.Cut, &f); err != nil {
		return bad(err)
	}
	f.Job.Epoch = f.Epoch
	if err := f.validate(); err != nil {
		return bad(err)
	}
	if again, err := f.payload(); err != nil || !bytes.Equal(again, layer.Cut) {
		return bad(fmt.Errorf("another form than the canonical one"))
	}
	return f, nil
}

// validate says why a catalogue could not be made of f.
func (f CutFile) validate() error {
	if f.Signed.IsZero() {
		return fmt.Errorf("it does not say when it was signed: %w", ErrInvalid)
	}
	for i, h := range f.Hosts {
		if i > 0 && h.Name <= f.Hosts[i-1].Name {
			return fmt.Errorf("host %q after %q: %w", h.Name, f.Hosts[i-1].Name, ErrInvalid)
		}
	}
	if f.Cut.Imported != nil && f.Schema < 2 {
		return fmt.Errorf("schema %d knows no imported cuts: %w", f.Schema, ErrInvalid)
	}
	if f.Cut.Job != f.Job.Name || f.Cut.Epoch > f.Epoch {
		return fmt.Errorf("cut of job %q, epoch %d, with job %q at %d: %w", f.Cut.Job, f.Cut.Epoch, f.Job.Name, f.Epoch, ErrInvalid)
	}
	f.Job.Epoch = f.Epoch
	return Rebuilt{Cluster: f.Cluster, Hosts: f.Hosts, Jobs: []Job{f.Job}, Cuts: []Cut{f.Cut}}.validate()
}
