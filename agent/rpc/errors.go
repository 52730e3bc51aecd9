package rpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ss/api/wire"
	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
)

// objectCodes is how errors of objects travel, the first that fits. Other calls send the code of an error's kind (api/wire), which
// agrees with this table where both have the code.
var objectCodes = []struct {
	err  error
	code codes.Code
}{
	{images.ErrMissing, codes.FailedPrecondition},
	{blob.ErrNotFound, codes.NotFound},
	{blob.ErrExists, codes.AlreadyExists},
	{blob.ErrDenied, codes.PermissionDenied},
	{blob.ErrFull, codes.ResourceExhausted},
	{blob.ErrDamaged, codes.DataLoss},
	{blob.ErrInvalid, codes.InvalidArgument},
	{io.ErrUnexpectedEOF, codes.OutOfRange},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// objectStatus is an error about an object as it goes over gRPC. Nil stays nil.
func objectStatus(err error) error {
	if err == nil {
		return nil
	}
	var bad *images.IntegrityError
	switch {
	case errors.As(err, &bad):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, images.ErrNoSpace):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, images.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, images.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	for _, o := range objectCodes {
		if errors.Is(err, o.err) {
			return status.Error(o.code, err.Error())
		}
	}
	return wire.Status(err)
}

// objectError is what came back from host about an object: a fault that says what the store there said, for errors.Is, too.
// Nil stays nil.
func objectError(host string, err error) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	for _, o := range objectCodes {
		if s.Code() == o.code {
			return &fault.Error{Kind: fault.KindOf(wire.Error(host, err)), Err: &remoteError{text: s.Message(), is: o.err}}
		}
	}
	return wire.Error(host, err)
}

// remoteError is an error of another host's store.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
