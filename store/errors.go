package store

import "errors"

// What can be wrong, for errors.Is. The errors that carry them say with what, and what to do.
var (
	// ErrNotFound: there is no such cluster, host, job, attempt or cut.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous: a reference fits more than one cut.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrConflict: it is there already, or is in use, or another ssctl has changed it meanwhile.
	ErrConflict = errors.New("conflict")
	// ErrLocked: another process kept the catalogue locked for too long.
	ErrLocked = errors.New("catalogue is locked")
	// ErrCorrupt: the catalogue's file is damaged. Nothing was changed.
	ErrCorrupt = errors.New("catalogue is damaged")
	// ErrUnknownVersion: a newer version of this program wrote it. Nothing was changed.
	ErrUnknownVersion = errors.New("unknown format version")
	// ErrInvalid: a name or value that cannot be stored.
	ErrInvalid = errors.New("invalid")
)
