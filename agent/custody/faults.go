package custody

import (
	"errors"
	"io/fs"

	"ss/fault"
	"ss/names"
	"ss/store/blob"
	"ss/store/images"
	"ss/store/pack"
)

// Kind is the kind of an error of the image store, of a vault, or of another host's objects.
func Kind(err error) fault.Kind {
	var bad *images.IntegrityError
	switch {
	case errors.As(err, &bad), errors.Is(err, pack.ErrDamaged), errors.Is(err, blob.ErrDamaged):
		return fault.Integrity
	case errors.Is(err, images.ErrNotFound), errors.Is(err, blob.ErrNotFound):
		return fault.NotFound
	case errors.Is(err, blob.ErrDenied), errors.Is(err, pack.ErrKey), errors.Is(err, fs.ErrPermission):
		return fault.Denied
	case errors.Is(err, images.ErrExists), errors.Is(err, blob.ErrExists):
		return fault.Conflict
	case errors.Is(err, images.ErrInvalid), errors.Is(err, blob.ErrInvalid):
		return fault.Usage
	case errors.Is(err, images.ErrUnknownVersion), errors.Is(err, pack.ErrUnknownVersion):
		return fault.Refused
	}
	return fault.KindOf(err)
}

// fault is what ssctl hears of an operation on image sets that failed. It says which, on which host and of which job itself. Nil stays nil.
func (h *Holder) fault(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, images.ErrNoSpace) {
		err = DiskFull(h.cfg.Dir, err)
	}
	return &fault.Error{Kind: Kind(err), Err: err}
}

// checkKey refuses what is not an image set's name: its parts become names of files.
func checkKey(key images.Key) error {
	if !names.Valid(key.Job) || !names.Valid(key.Snapshot) || !names.Valid(key.Host) {
		return fault.New(fault.Usage, "invalid name among job \""+key.Job+"\", cut \""+key.Snapshot+"\", host \""+key.Host+"\"", "use an ssctl of the agent's version")
	}
	return nil
}
