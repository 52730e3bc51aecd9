package rpc

import (
	"context"
	"errors"
	"io"

	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
)

// objectFailures is how errors about objects travel, beside their kind: the first that fits.
var objectFailures = []struct {
	err  error
	what ssv1.ObjectFailure
	kind fault.Kind
}{
	{images.ErrNoSpace, ssv1.ObjectFailure_OBJECT_FAILURE_FULL, fault.Failed},
	{images.ErrNotFound, ssv1.ObjectFailure_OBJECT_FAILURE_NOT_FOUND, fault.NotFound},
	{images.ErrInvalid, ssv1.ObjectFailure_OBJECT_FAILURE_INVALID, fault.Usage},
	{images.ErrMissing, ssv1.ObjectFailure_OBJECT_FAILURE_MISSING, fault.Refused},
	{blob.ErrNotFound, ssv1.ObjectFailure_OBJECT_FAILURE_NOT_FOUND, fault.NotFound},
	{blob.ErrExists, ssv1.ObjectFailure_OBJECT_FAILURE_EXISTS, fault.Conflict},
	{blob.ErrDenied, ssv1.ObjectFailure_OBJECT_FAILURE_DENIED, fault.Denied},
	{blob.ErrFull, ssv1.ObjectFailure_OBJECT_FAILURE_FULL, fault.Failed},
	{blob.ErrDamaged, ssv1.ObjectFailure_OBJECT_FAILURE_DAMAGED, fault.Integrity},
	{blob.ErrInvalid, ssv1.ObjectFailure_OBJECT_FAILURE_INVALID, fault.Usage},
	{io.ErrUnexpectedEOF, ssv1.ObjectFailure_OBJECT_FAILURE_SHORT, fault.Unsettled},
	{context.Canceled, ssv1.ObjectFailure_OBJECT_FAILURE_CANCELED, fault.Interrupted},
	{context.DeadlineExceeded, ssv1.ObjectFailure_OBJECT_FAILURE_TIMEOUT, fault.Unreachable},
}

// fromObjectFailure is the error that stands for a failure on this side.
var fromObjectFailure = map[ssv1.ObjectFailure]error{
	ssv1.ObjectFailure_OBJECT_FAILURE_MISSING:   images.ErrMissing,
	ssv1.ObjectFailure_OBJECT_FAILURE_NOT_FOUND: blob.ErrNotFound,
	ssv1.ObjectFailure_OBJECT_FAILURE_EXISTS:    blob.ErrExists,
	ssv1.ObjectFailure_OBJECT_FAILURE_DENIED:    blob.ErrDenied,
	ssv1.ObjectFailure_OBJECT_FAILURE_FULL:      blob.ErrFull,
	ssv1.ObjectFailure_OBJECT_FAILURE_DAMAGED:   blob.ErrDamaged,
	ssv1.ObjectFailure_OBJECT_FAILURE_INVALID:   blob.ErrInvalid,
	ssv1.ObjectFailure_OBJECT_FAILURE_SHORT:     io.ErrUnexpectedEOF,
	ssv1.ObjectFailure_OBJECT_FAILURE_CANCELED:  context.Canceled,
	ssv1.ObjectFailure_OBJECT_FAILURE_TIMEOUT:   context.DeadlineExceeded,
}

// ofKind is what an answer about an object means that says no more than its kind.
var ofKind = map[fault.Kind]error{
	fault.Denied: blob.ErrDenied, fault.NotFound: blob.ErrNotFound, fault.Conflict: blob.ErrExists, fault.Integrity: blob.ErrDamaged, fault.Usage: blob.ErrInvalid,
}

// objectStatus is an error about an object as it goes over gRPC. Nil stays nil.
func objectStatus(err error) error {
	if err == nil {
		return nil
	}
	what, kind := objectFailure(err)
	if fault.KindOf(err) == fault.Failed && kind != fault.Failed {
		err = &fault.Error{Kind: kind, Err: err}
	}
	return wire.StatusOfObject(err, what)
}

func objectFailure(err error) (ssv1.ObjectFailure, fault.Kind) {
	if _, ok := errors.AsType[*images.IntegrityError](err); ok {
		return ssv1.ObjectFailure_OBJECT_FAILURE_DAMAGED, fault.Integrity
	}
	for _, o := range objectFailures {
		if errors.Is(err, o.err) {
			return o.what, o.kind
		}
	}
	return ssv1.ObjectFailure_OBJECT_FAILURE_UNSPECIFIED, fault.Failed
}

// objectError is what came back from host about an object: a fault that is, for errors.Is, what the store there said. An answer that gRPC cut short
// is its context's end. Nil stays nil.
func objectError(host string, err error) error {
	if err == nil {
		return nil
	}
	is := fromObjectFailure[wire.ObjectFailure(err)]
	if is == nil {
		is = wire.ContextError(err)
	}
	out := wire.Error(host, err)
	if is == nil {
		is = ofKind[fault.KindOf(out)]
	}
	if is == nil {
		return out
	}
	return &fault.Error{Kind: fault.KindOf(out), Err: &remoteError{error: out, is: is}}
}

// remoteError is an error of another host's store.
type remoteError struct {
	error
	is error
}

func (e *remoteError) Unwrap() []error { return []error{e.error, e.is} }
