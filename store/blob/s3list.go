package blob

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// List is Reader's. It asks for a thousand names at a time.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if !possiblePrefix(prefix) {
			return
		}
		l := listing{s: s, prefix: prefix, yield: yield}
		err := s.retry(ctx, func() error { return l.page(ctx) })
		if err == nil && !l.ended {
			err = ctx.Err()
		}
		if err != nil && !l.ended {
			yield(Info{}, s.fault("list", "objects", err))
		}
	}
}

// listing is one List under way.
type listing struct {
	s      *S3
	prefix string
	yield  func(Info, error) bool
	last   string // key seen; a failed listing goes on behind it
	ended  bool   // by whom the objects are for
}

// page yields what comes behind the last key. The library does not always stop when it is told to, so its loop is not
// ranged over, and its context ended.
func (l *listing) page(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	stopped := false
	objects := l.s.core.ListObjectsIter(ctx, l.s.bucket, minio.ListObjectsOptions{
		Prefix: l.s.prefix + l.prefix, Recursive: true, StartAfter: l.last, FetchOwner: new(bool),
	})
	objects(func(o minio.ObjectInfo) bool {
		if !stopped {
			failed = l.object(o)
			stopped = failed != nil || l.ended
		}
		if stopped {
			cancel()
		}
		return !stopped
	})
	return failed
}

func (l *listing) object(o minio.ObjectInfo) error {
	if o.Err != nil {
		return o.Err
	}
	if l.last != "" && o.Key <= l.last {
		return minio.ErrorResponse{StatusCode: http.StatusOK, Code: "OutOfOrder",
			Message: fmt.Sprintf("the server lists %q after %q, which is not in order: it is not a server for vaults", o.Key, l.last)}
	}
	l.last = o.Key
	name, ok := strings.CutPrefix(o.Key, l.s.prefix)
	if ok && strings.HasPrefix(name, l.prefix) && CheckName(name) == nil && !l.yield(Info{Name: name, Size: o.Size, Time: o.LastModified}, nil) {
		l.ended = true
	}
	return nil
}

// RemovePartials removes the parts of uploads that were begun more than olderThan ago (by the server's clock, against this host's) and
// never ended: their process was killed. It must be longer than any Put takes.
func (s *S3) RemovePartials(ctx context.Context, olderThan time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.Now().Add(-olderThan)
	var err error
	for up := range s.core.ListIncompleteUploads(ctx, s.bucket, s.prefix, true) {
		if up.Err != nil {
			err = errors.Join(err, up.Err)
		} else if !up.Initiated.After(limit) {
			err = errors.Join(err, s.abort(ctx, up.Key, up.UploadID))
		}
	}
	if err != nil {
		return s.fault("remove", "partial objects", err)
	}
	return nil
}
