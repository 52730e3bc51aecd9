package images

import (
	"errors"
	"fmt"
)

// Errors; test with errors.Is.
var (
	ErrNotFound       = errors.New("no such image set")
	ErrExists         = errors.New("there already")
	ErrInvalid        = errors.New("invalid")
	ErrNoSpace        = errors.New("no room")
	ErrUnknownVersion = errors.New("unknown version")
	ErrMissing        = errors.New("an object of the set is missing") // a manifest is refused whose objects are not all there
)

// IntegrityError says what is not what it was.
type IntegrityError struct {
	Object string // JOB/objects/DIGEST, JOB/sets/SNAPSHOT/HOST, …
	Detail string // what was wanted, and what was found
}

func (e *IntegrityError) Error() string { return fmt.Sprintf("%s: %s", e.Object, e.Detail) }
