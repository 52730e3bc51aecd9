package images

import (
	"errors"
	"fmt"
)

// What can be wrong, for errors.Is. Damage is an *IntegrityError, for errors.As.
var (
	// ErrNotFound: there is no such set.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is a set, whole or partial, of that key.
	ErrExists = errors.New("exists already")
	// ErrInvalid: a name, path or value that cannot be stored, or a frame that cannot come here.
	ErrInvalid = errors.New("invalid")
	// ErrUnknownVersion: a newer version of this program wrote it. Nothing was changed.
	ErrUnknownVersion = errors.New("unknown format version")
	// ErrNoSpace: the file system has not enough room.
	ErrNoSpace = errors.New("not enough space")
)

// Kind says what is wrong with a file.
type Kind string

// The kinds of damage.
const (
	KindDigest   Kind = "content differs"
	KindSize     Kind = "size differs"
	KindMode     Kind = "mode differs"
	KindMissing  Kind = "file is missing"
	KindExtra    Kind = "file does not belong here"
	KindType     Kind = "not a regular file"
	KindManifest Kind = "manifest is malformed"
)

// IntegrityError says that a set is not what its manifest, or the catalogue, says it is.
type IntegrityError struct {
	Path string // within the set
	Kind Kind
	Want string // "" where Kind says it all
	Got  string
}

// Error implements error.
func (e *IntegrityError) Error() string {
	if e.Want == "" && e.Got == "" {
		return fmt.Sprintf("%s: %s", e.Path, e.Kind)
	}
	return fmt.Sprintf("%s: %s: want %s, got %s", e.Path, e.Kind, e.Want, e.Got)
}
