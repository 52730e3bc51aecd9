package blob

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// retry tries again what may work later: a server that asks to slow down or is out of order, a connection that ended, bytes
// that changed on the way. It waits longer each time, about half a minute altogether, and no longer than ctx.
func (s *S3) retry(ctx context.Context, try func() error) error {
	const longest = 60 // units
	wait := s.unit
	for n := 1; ; n++ {
		err := try()
		if err == nil || n >= tries(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		timer := time.NewTimer(wait/2 + jitter(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		wait = min(2*wait, longest*s.unit)
	}
}

// tries is how often in all a request is made that meets with err.
func tries(err error) int {
	const slow, broken = 8, 4
	var resp minio.ErrorResponse
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	switch {
	case errors.As(err, &authority), errors.As(err, &hostname):
		return 1
	case !errors.As(err, &resp):
		return broken // the connection
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
		return slow
	case resp.StatusCode == http.StatusInsufficientStorage, resp.StatusCode == http.StatusNotImplemented:
		return 1
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusRequestTimeout:
		return broken
	}
	switch resp.Code {
	case "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled":
		return slow
	case "InternalError", "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "ConditionalRequestConflict",
		"OperationAborted", "AuthorizationHeaderMalformed", "InvalidRegion": // of the last two the library learns the region
		return broken
	}
	return 1
}

// fault says which operation on what failed, which of this package's errors it is, and what to do.
func (s *S3) fault(op, name string, err error) error {
	advice, kind := s3Kind(err)
	what := fmt.Sprintf("%s %s in %s", op, name, s.where)
	var resp minio.ErrorResponse
	if errors.As(err, &resp) && resp.Code != "" {
		what += ": " + resp.Code
	}
	if advice != "" {
		advice = "; " + advice
	}
	if kind == nil {
		return fmt.Errorf("%s: %w%s", what, err, advice)
	}
	return fmt.Errorf("%s: %w: %w%s", what, kind, err, advice)
}

// sourceError is one of the reader that Put was given: the server has no part in it.
type sourceError struct{ err error }

// Error is error's.
func (e *sourceError) Error() string { return "read what is to be put: " + e.err.Error() }

// Unwrap is for errors.Is.
func (e *sourceError) Unwrap() error { return e.err }

// s3Kind maps the codes of an S3 server (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), and of some that are
// like it.
func s3Kind(err error) (advice string, kind error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "", nil
	}
	if _, kind := classify(err); kind != nil || ours(err) {
		return "", kind
	}
	var resp minio.ErrorResponse
	if !errors.As(err, &resp) {
		if source := (*sourceError)(nil); errors.As(err, &source) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		return "is the server up, and the vault's endpoint right?", nil
	}
	switch {
	case strings.Contains(resp.Code, "QuotaExceeded"), resp.Code == "XMinioStorageFull", resp.StatusCode == http.StatusInsufficientStorage:
		return "free space on the server, or raise the bucket's quota", ErrFull
	case resp.Code == "NoSuchBucket":
		return "create the bucket, or correct the vault's URL", nil
	case resp.Code == "RequestTimeTooSkewed":
		return "set this host's clock", ErrDenied
	case resp.Code == "NoSuchKey", resp.StatusCode == http.StatusNotFound && resp.Code != "NoSuchUpload":
		return "", ErrNotFound
	case resp.Code == "AccessDenied", resp.Code == "InvalidAccessKeyId", resp.Code == "SignatureDoesNotMatch",
		resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusUnauthorized:
		return "check the vault's credentials, and what they may do in the bucket", ErrDenied
	case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusTooManyRequests:
		return "the server has asked to slow down for half a minute: try again later", nil
	}
	return "", nil
}
