package store

import (
	"errors"
	"fmt"

	"ss/store/kv"
)

// What can be wrong, for errors.Is. The errors that carry them say with what, and what to do.
var (
	// ErrNotFound: there is no such cluster, host, job, attempt or cut.
	ErrNotFound = kv.ErrNotFound
	// ErrAmbiguous: a reference fits more than one cut.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrConflict: it is there already, or is in use, or another ssctl has changed it meanwhile.
	ErrConflict = errors.New("conflict")
	// ErrCollecting is an ErrConflict with what does not last: a collection of a job's garbage in a vault.
	ErrCollecting = fmt.Errorf("%w with a collection", ErrConflict)
	// ErrLocked: another process kept the catalogue locked for too long.
	ErrLocked = kv.ErrLocked
	// ErrCorrupt: the catalogue's file, or a cut's manifest, is not what was written. Nothing was changed.
	ErrCorrupt = kv.ErrCorrupt
	// ErrUnknownVersion: another version of this program wrote it. Nothing was changed.
	ErrUnknownVersion = errors.New("unknown format version")
	// ErrInvalid: a name or value that cannot be stored.
	ErrInvalid = errors.New("invalid")
)
