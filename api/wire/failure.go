package wire

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
)

var (
	toKind = map[fault.Kind]ssv1.FailureKind{
		fault.Failed:      ssv1.FailureKind_FAILURE_KIND_FAILED,
		fault.Usage:       ssv1.FailureKind_FAILURE_KIND_USAGE,
		fault.Refused:     ssv1.FailureKind_FAILURE_KIND_REFUSED,
		fault.Unreachable: ssv1.FailureKind_FAILURE_KIND_UNREACHABLE,
		fault.Denied:      ssv1.FailureKind_FAILURE_KIND_DENIED,
		fault.Integrity:   ssv1.FailureKind_FAILURE_KIND_INTEGRITY,
		fault.Conflict:    ssv1.FailureKind_FAILURE_KIND_CONFLICT,
		fault.RolledBack:  ssv1.FailureKind_FAILURE_KIND_ROLLED_BACK,
		fault.NotFound:    ssv1.FailureKind_FAILURE_KIND_NOT_FOUND,
		fault.Interrupted: ssv1.FailureKind_FAILURE_KIND_INTERRUPTED,
		fault.Unsettled:   ssv1.FailureKind_FAILURE_KIND_UNSETTLED,
		fault.InDoubt:     ssv1.FailureKind_FAILURE_KIND_IN_DOUBT,
		fault.Outdated:    ssv1.FailureKind_FAILURE_KIND_OUTDATED,
	}
	fromKind = inverse(toKind)
)

// codeOf is the gRPC code that a kind is sent with, for other programs' logs and metrics, and for programs of before protocol 3. Ours read the
// Failure in the details.
var codeOf = map[fault.Kind]codes.Code{
	fault.Failed:      codes.Unknown,
	fault.Usage:       codes.InvalidArgument,
	fault.Refused:     codes.FailedPrecondition,
	fault.Unreachable: codes.Unavailable,
	fault.Denied:      codes.PermissionDenied,
	fault.Integrity:   codes.DataLoss,
	fault.Conflict:    codes.AlreadyExists,
	fault.RolledBack:  codes.Aborted,
	fault.NotFound:    codes.NotFound,
	fault.Interrupted: codes.Canceled,
	fault.Unsettled:   codes.Aborted,
	fault.InDoubt:     codes.Unknown,
	fault.Outdated:    codes.FailedPrecondition,
}

// kindOfCode is the kind of an error that gRPC made itself, or a program that sends no Failure: a call that did not reach its handler.
func kindOfCode(c codes.Code) fault.Kind {
	switch c {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fault.Unreachable
	case codes.Canceled:
		return fault.Interrupted
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Denied
	case codes.InvalidArgument:
		return fault.Usage
	case codes.FailedPrecondition:
		return fault.Refused
	default:
		return fault.Failed
	}
}

// Status is err as it goes over gRPC: its Failure is in the details. An error that is a gRPC status already stays as it is, and nil stays nil.
func Status(err error) error {
	return StatusOfObject(err, ssv1.ObjectFailure_OBJECT_FAILURE_UNSPECIFIED)
}

// StatusOfObject is Status of an error about an object of an image set.
func StatusOfObject(err error, object ssv1.ObjectFailure) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	f := ToFailure(err)
	f.Object = object
	s := status.New(codeOf[fault.KindOf(err)], err.Error())
	if detailed, err := s.WithDetails(f); err == nil { // a text that is not UTF-8 cannot be sent as a detail
		s = detailed
	}
	return s.Err()
}

// ObjectFailure is what came back about an object; unspecified if the other side did not say.
func ObjectFailure(err error) ssv1.ObjectFailure {
	s, _ := status.FromError(err)
	return failureIn(s).GetObject()
}

// failureIn is the Failure in the details of a status; nil if there is none.
func failureIn(s *status.Status) *ssv1.Failure {
	for _, d := range s.Details() {
		if f, ok := d.(*ssv1.Failure); ok {
			return f
		}
	}
	return nil
}

// Error is what came back from host, as a fault. Nil stays nil.
func Error(host string, err error) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	if f := failureIn(s); f != nil {
		return FromFailure(f)
	}
	kind := kindOfCode(s.Code())
	f := &fault.Error{Kind: kind, Err: fault.Told{Text: s.Message()}}
	if kind == fault.Unreachable {
		f.Err = fault.Told{Text: fmt.Sprintf("host %s cannot be reached: %s", host, plain(s.Message())), Report: fault.Report{Host: host}}
		f.Next = "see that it is up and that its ssagent runs"
	}
	return f
}

// plain takes gRPC's own words from why a host was not reached. What it does not know it leaves.
func plain(text string) string {
	if i := strings.LastIndex(text, `desc = "`); i >= 0 {
		text = strings.TrimSuffix(text[i+len(`desc = "`):], `"`)
	}
	for _, words := range []string{"transport: Error while dialing: ", "transport: ", "error reading from server: "} {
		text = strings.TrimPrefix(text, words)
	}
	return text
}

// FromFailure reads an error that came in a message. Nil is not an error.
func FromFailure(f *ssv1.Failure) error {
	if f == nil {
		return nil
	}
	kind := fromKind[f.GetKind()] // of a kind that is not known here: Failed
	return &fault.Error{Kind: kind, Err: fault.Told{Text: f.GetText(), Report: fault.Report{
		Kind: kind, Op: f.GetOp(), Host: f.GetHost(), Job: f.GetJob(), Snapshot: f.GetSnapshot(), Phase: f.GetPhase(), Next: f.GetNext(),
	}}}
}

// ToFailure writes one.
func ToFailure(err error) *ssv1.Failure {
	if err == nil {
		return nil
	}
	r := fault.Describe(err)
	f := &ssv1.Failure{
		Kind: toKind[r.Kind], Text: err.Error(), Op: r.Op, Host: r.Host, Job: r.Job, Snapshot: r.Snapshot, Phase: r.Phase, Next: r.Next,
	}
	Speakable(f)
	return f
}

// ContextError is context.Canceled or context.DeadlineExceeded if gRPC ended the call for that reason, and nil otherwise.
func ContextError(err error) error {
	s, _ := status.FromError(err)
	switch {
	case failureIn(s) != nil:
		return nil
	case s.Code() == codes.Canceled:
		return context.Canceled
	case s.Code() == codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return nil
}
