package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"regexp"
	"strings"
	"time"

	"ss/names"
)

const (
	// schema is the version of the manifest's form.
	schema = 2
	// maxManifest bounds a manifest, in bytes; one of a set of 1 TiB that shares nothing has 5 MiB.
	maxManifest = 16 << 20
	// maxObject bounds an object, in bytes: that is the longest pack there can be (docs/format.md).
	maxObject = 1 << 30
)

// Folders of a job, and what is between the names of objects.
const (
	objectsFolder = "objects"
	setsFolder    = "sets"
	cutsFolder    = "cuts"
	marksFolder   = "committed" // of this host's store only
)

// Key names an image set: what a host contributed to a snapshot of a job.
type Key struct {
	Job      string
	Snapshot string
	Host     string
}

// String returns the key as a path.
func (k Key) String() string { return k.Job + "/" + k.Snapshot + "/" + k.Host }

func (k Key) validate() error {
	for _, name := range []string{k.Job, k.Snapshot, k.Host} {
		if !names.Valid(name) {
			return fmt.Errorf("image set %q: %q is not a name: %w", k, name, ErrInvalid)
		}
	}
	return nil
}

func compareKeys(a, b Key) int {
	if c := strings.Compare(a.Job, b.Job); c != 0 {
		return c
	}
	if c := strings.Compare(a.Snapshot, b.Snapshot); c != 0 {
		return c
	}
	return strings.Compare(a.Host, b.Host)
}

// Names of objects as a blob.Store has them.

// ObjectName is the name of a pack or an index.
func ObjectName(job, digest string) string { return job + "/" + objectsFolder + "/" + digest }

// SetName is the name of a set's manifest.
func SetName(k Key) string { return k.Job + "/" + setsFolder + "/" + k.Snapshot + "/" + k.Host }

// CutName is the name of a cut's signed manifest.
func CutName(job, snapshot string) string { return job + "/" + cutsFolder + "/" + snapshot }

// markName is the name of the empty object that says that the set's cut exists. Only a host's own store has it.
func markName(k Key) string { return k.Job + "/" + marksFolder + "/" + k.Snapshot + "/" + k.Host }

// parseSetName undoes SetName, and parseMarkName markName.
func parseSetName(name string) (Key, bool)  { return parseKey(name, setsFolder) }
func parseMarkName(name string) (Key, bool) { return parseKey(name, marksFolder) }

func parseKey(name, folder string) (Key, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[1] != folder {
		return Key{}, false
	}
	k := Key{parts[0], parts[2], parts[3]}
	return k, k.validate() == nil
}

// parseObjectName undoes ObjectName.
func parseObjectName(name string) (job, digest string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[1] != objectsFolder || !names.Valid(parts[0]) || !digestPattern.MatchString(parts[2]) {
		return "", "", false
	}
	return parts[0], parts[2], true
}

// parseCutName undoes CutName.
func parseCutName(name string) (job, snapshot string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[1] != cutsFolder || !names.Valid(parts[0]) || !names.Valid(parts[2]) {
		return "", "", false
	}
	return parts[0], parts[2], true
}

var (
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	crcPattern    = regexp.MustCompile(`^[0-9a-f]{8}$`)
	keyIDPattern  = regexp.MustCompile(`^[0-9a-f]{16}$`)
)

// Manifest says what an image set consists of. Its form is canonical: one value has one form, so its digest names it. It is not
// secret: what is in the files is in the objects only. Its form ends with a checksum of itself.
type Manifest struct {
	Schema   int         `json:"schema"` // 2
	Job      string      `json:"job"`
	Snapshot string      `json:"snapshot"`
	Epoch    uint64      `json:"epoch"`
	Host     string      `json:"host"`
	Created  time.Time   `json:"created"`
	KeyID    string      `json:"key"`   // keys.Job.ID of the job's key
	Files    int         `json:"files"` // how many
	Bytes    int64       `json:"bytes"` // of the files
	Index    ObjectRef   `json:"index"`
	Packs    []ObjectRef `json:"packs"` // every pack that the index refers to, in its order

	// Digest is the SHA-256 of the manifest's form, in hex.
	Digest string `json:"-"`
}

// ObjectRef names an object.
type ObjectRef struct {
	Digest string `json:"sha256"`
	Size   int64  `json:"size"`
	CRC32C string `json:"crc32c"` // 8 hex digits
}

// Key is the set's.
func (m Manifest) Key() Key { return Key{m.Job, m.Snapshot, m.Host} }

// Objects lists the index and the packs.
func (m Manifest) Objects() []ObjectRef { return append([]ObjectRef{m.Index}, m.Packs...) }

// names lists what the objects are called in a blob.Store.
func (m Manifest) names() []string {
	var ns []string
	for _, ref := range m.Objects() {
		ns = append(ns, ObjectName(m.Job, ref.Digest))
	}
	return ns
}

// encode returns the manifest's canonical form: compact JSON, fields in the order above, then the CRC-32C of what is before it, and a
// line feed. The checksum finds damage where nobody is at hand who knows the digest: a Collect must not take a wrong digit in
// a manifest for a pack that is not used.
func (m Manifest) encode() ([]byte, error) {
	if m.Packs == nil {
		m.Packs = []ObjectRef{} // not null
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	data = data[:len(data)-1] // the closing brace
	return fmt.Appendf(data, "%s%s\"}\n", sumField, crcText(crc32.Checksum(data, castagnoli))), nil
}

const (
	sumField  = `,"crc32c":"`
	sumLength = len(sumField) + len("12345678\"}\n")
)

// DecodeManifest reads and validates a manifest. It accepts only the canonical form.
func DecodeManifest(data []byte) (Manifest, error) {
	bad := func(format string, args ...any) (Manifest, error) {
		return Manifest{}, &IntegrityError{Object: "manifest", Detail: "not a canonical manifest: " + fmt.Sprintf(format, args...)}
	}
	if len(data) > maxManifest {
		return bad("%d bytes long", len(data))
	}
	// Its checksum is looked at first, so that a flipped bit in the version is not taken for a newer program's work.
	if len(data) < sumLength || !bytes.HasPrefix(data[len(data)-sumLength:], []byte(sumField)) {
		if got := schemaOf(data); got != 0 && got != schema {
			return Manifest{}, unknownSchema(got)
		}
		return bad("it does not end with its checksum")
	}
	body := data[:len(data)-sumLength]
	if want := crcText(crc32.Checksum(body, castagnoli)); string(data[len(data)-11:]) != want+"\"}\n" {
		return bad("its checksum is not %s", want)
	}
	whole := append(bytes.Clone(body), '}')
	switch got := schemaOf(whole); got {
	case schema:
	case 0:
		return bad("no schema")
	default:
		return Manifest{}, unknownSchema(got)
	}
	var m Manifest
	if err := json.Unmarshal(whole, &m); err != nil {
		return bad("%v", err)
	}
	if again, err := m.encode(); err != nil || !bytes.Equal(again, data) {
		return bad("another form of it")
	}
	if err := m.validate(); err != nil {
		return bad("%v", err)
	}
	m.Digest = digest(data)
	return m, nil
}

// schemaOf reads a manifest's version; 0 where it has none.
func schemaOf(data []byte) int {
	var version struct {
		Schema int `json:"schema"`
	}
	if json.Unmarshal(data, &version) != nil || version.Schema < 0 {
		return 0
	}
	return version.Schema
}

func unknownSchema(got int) error {
	return fmt.Errorf("manifest has schema %d, this program knows %d: use the program that wrote it, or a newer one: %w", got, schema, ErrUnknownVersion)
}

func (m Manifest) validate() error {
	if err := m.Key().validate(); err != nil {
		return err
	}
	if !keyIDPattern.MatchString(m.KeyID) {
		return fmt.Errorf("key %q", m.KeyID)
	}
	if m.Files < 0 || m.Bytes < 0 {
		return fmt.Errorf("%d files of %d bytes", m.Files, m.Bytes)
	}
	seen, total := map[string]bool{}, int64(0)
	for _, ref := range m.Objects() {
		if !digestPattern.MatchString(ref.Digest) || !crcPattern.MatchString(ref.CRC32C) {
			return fmt.Errorf("object %q with checksum %q", ref.Digest, ref.CRC32C)
		}
		if ref.Size <= 0 || ref.Size > maxObject || ref.Size > math.MaxInt64-total {
			return fmt.Errorf("object %s has size %d", ref.Digest, ref.Size)
		}
		if seen[ref.Digest] {
			return fmt.Errorf("object %s comes twice", ref.Digest)
		}
		seen[ref.Digest] = true
		total += ref.Size
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcText(crc uint32) string { return fmt.Sprintf("%08x", crc) }

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func crcOf(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }
