package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"

	"ss/store/internal/disk"
)

const (
	// schema is the version of the manifest's form.
	schema = 1

	manifestName  = "manifest.json"
	committedName = "committed"

	// maxManifest bounds a manifest, in bytes; one of a hundred thousand files has 15 MiB.
	maxManifest = 64 << 20
	// maxPath and maxPathElement bound a file's path within a set, in bytes (Linux: PATH_MAX, NAME_MAX).
	maxPath        = 1024
	maxPathElement = 255
	// modeMask is what is kept of a file's mode: images hold the memory of programs and are their owner's alone.
	modeMask = 0o700
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
		if !disk.ValidName(name) {
			return fmt.Errorf("image set %q: %q is not a name: %w", k, name, ErrInvalid)
		}
	}
	return nil
}

// Manifest lists what is in an image set. Its file is canonical: one value has one form, so its digest
// names it.
type Manifest struct {
	Schema   int             `json:"schema"`
	Job      string          `json:"job"`
	Snapshot string          `json:"snapshot"`
	Epoch    uint64          `json:"epoch"`
	Host     string          `json:"host"`
	Created  time.Time       `json:"created"`
	Files    []File          `json:"files"` // by path
	Meta     json.RawMessage `json:"meta,omitempty"`

	// Digest is the SHA-256 of the manifest's file, in hex.
	Digest string `json:"-"`
}

// File is one file of an image set.
type File struct {
	Path   string `json:"path"` // MEMBER/NAME, with slashes
	Size   int64  `json:"size"`
	Mode   uint32 `json:"mode"` // the owner's permission bits
	SHA256 string `json:"sha256"`
	// CRC32C are the checksums (RFC 3720, B.4) of the file's parts of PartSize bytes, in hex. They are for Scan.
	CRC32C []string `json:"crc32c"`
}

// PartSize is the length of what one checksum of a File covers; the last part may be shorter.
const PartSize = 16 << 20

// parts is how many checksums a file has.
func (f File) parts() int64 { return (f.Size + PartSize - 1) / PartSize }

// Key is the set's.
func (m Manifest) Key() Key { return Key{m.Job, m.Snapshot, m.Host} }

// Bytes is the size of all files, or of those of one member if member is not empty.
func (m Manifest) Bytes(member string) int64 {
	var n int64
	for _, f := range m.Files {
		if member == "" || strings.HasPrefix(f.Path, member+"/") {
			n += f.Size
		}
	}
	return n
}

// encode returns the manifest's canonical form: compact JSON, fields in the order above, a line feed.
func (m Manifest) encode() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeManifest reads and validates a manifest. It accepts only the canonical form.
func decodeManifest(data []byte) (Manifest, error) {
	bad := func(format string, args ...any) (Manifest, error) {
		return Manifest{}, &IntegrityError{Path: manifestName, Kind: KindManifest, Want: "a canonical manifest", Got: fmt.Sprintf(format, args...)}
	}
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return bad("%v", err)
	}
	if version.Schema != schema {
		return Manifest{}, fmt.Errorf("%s has schema %d, this program knows %d: use a newer ssagent: %w", manifestName, version.Schema, schema, ErrUnknownVersion)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
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

func (m Manifest) validate() error {
	if err := m.Key().validate(); err != nil {
		return err
	}
	var total int64
	folders, last := map[string]bool{}, ""
	for _, f := range m.Files {
		if err := validPath(f.Path); err != nil {
			return err
		}
		if f.Path <= last {
			return fmt.Errorf("file %q after %q", f.Path, last)
		}
		last = f.Path
		if f.Size < 0 || f.Size > math.MaxInt64-total {
			return fmt.Errorf("file %q has size %d", f.Path, f.Size)
		}
		total += f.Size
		if f.Mode&^modeMask != 0 {
			return fmt.Errorf("file %q has mode %#o", f.Path, f.Mode)
		}
		if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != sha256.Size || strings.ToLower(f.SHA256) != f.SHA256 {
			return fmt.Errorf("file %q has digest %q", f.Path, f.SHA256)
		}
		if int64(len(f.CRC32C)) != f.parts() {
			return fmt.Errorf("file %q has %d checksums for %d parts", f.Path, len(f.CRC32C), f.parts())
		}
		for _, dir := range parents(f.Path) {
			folders[dir] = true
		}
	}
	for _, f := range m.Files {
		if folders[f.Path] {
			return fmt.Errorf("%q is a file and a folder", f.Path)
		}
	}
	return nil
}

// validPath refuses a file's path unless it is MEMBER/… and stays within its set on any Linux file system.
func validPath(path string) error {
	member, rest, ok := strings.Cut(path, "/")
	if !ok || rest == "" || !validMember(member) || !fs.ValidPath(path) || len(path) > maxPath {
		return fmt.Errorf("path %q: %w", path, ErrInvalid)
	}
	for element := range strings.SplitSeq(path, "/") {
		if len(element) > maxPathElement {
			return fmt.Errorf("path %q: %w", path, ErrInvalid)
		}
	}
	for _, r := range path {
		if r < ' ' || r == 0x7f || r == '\\' || r == '\uFFFD' {
			return fmt.Errorf("path %q: %w", path, ErrInvalid)
		}
	}
	return nil
}

// validMember refuses what is not a name, and the names of the set's own files.
func validMember(name string) bool {
	return disk.ValidName(name) && name != manifestName && name != committedName
}

// parents lists the folders that a path within a set goes through, the outermost first.
func parents(path string) []string {
	var dirs []string
	for i, r := range path {
		if r == '/' {
			dirs = append(dirs, path[:i])
		}
	}
	return dirs
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
