package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Bounds of S3's own (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const (
	minPartSize     = 5 << 20
	maxPartSize     = 1 << 30 // ours: a part is held in memory
	maxParts        = 10_000
	defaultPartSize = 16 << 20
)

// S3 keeps objects in a bucket of an S3-compatible server. Memory use is one part for each Put under way. OpenURL makes one.
type S3 struct {
	core   *minio.Core
	bucket string
	prefix string // of keys; "" or ends with a slash
	where  string // for people
	secure bool
	part   int64         // bytes
	unit   time.Duration // the first wait between two tries

	unconditional atomic.Bool // the server does not know If-None-Match
}

// timing is what tests make shorter.
type timing struct {
	unit time.Duration // the first wait between two tries
	idle time.Duration // how long a connection may make no progress
}

// A server that has not moved a byte in a minute is taken for dead.
var usualTiming = timing{unit: 250 * time.Millisecond, idle: time.Minute}

// openS3 connects, and asks for the bucket.
func openS3(ctx context.Context, loc location, cred credential, opt Options, tm timing) (*S3, error) {
	part := opt.PartSize
	if part == 0 {
		part = defaultPartSize
	}
	if part < minPartSize || part > maxPartSize {
		return nil, fmt.Errorf("parts of %d bytes: S3 takes %d MiB to %d MiB", part, minPartSize>>20, maxPartSize>>20)
	}
	lookup := minio.BucketLookupPath
	if loc.endpoint == awsEndpoint {
		lookup = minio.BucketLookupAuto
	}
	core, err := minio.NewCore(loc.endpoint, &minio.Options{
		Creds:        credentials.NewStaticV4(cred.AccessKey, cred.SecretKey, cred.SessionToken),
		Secure:       loc.secure,
		Transport:    newTransport(tm.idle),
		Region:       loc.region,
		BucketLookup: lookup,
		MaxRetries:   1, // see retry
	})
	if err != nil {
		return nil, err
	}
	s := &S3{core: core, bucket: loc.bucket, prefix: loc.prefix, where: loc.String(), secure: loc.secure, part: part, unit: tm.unit}
	var there bool
	err = s.retry(ctx, func() error {
		there, err = core.BucketExists(ctx, s.bucket)
		return err
	})
	if err == nil && !there {
		return nil, fmt.Errorf("there is no bucket %s at %s: create it, or correct the vault's URL", s.bucket, loc.endpoint)
	}
	if err != nil {
		return nil, s.fault("look for", "the bucket", err)
	}
	return s, nil
}

func (s *S3) key(name string) string { return s.prefix + name }

// Put is Writer's. Larger objects than a part go up in parts, and are there, all at once, when the server has put these together.
func (s *S3) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	err := checkPut(ctx, name, size)
	if err == nil {
		err = s.put(ctx, name, r, size)
	}
	if err != nil {
		return s.fault("put", name, err)
	}
	return nil
}

func (s *S3) put(ctx context.Context, name string, r io.Reader, size int64) error {
	kept, err := s.keep(ctx, name, size)
	if kept || err != nil {
		return err
	}
	if size <= s.part {
		err = s.putWhole(ctx, name, r, size)
	} else {
		err = s.putParts(ctx, name, r, size)
	}
	var resp minio.ErrorResponse
	if errors.As(err, &resp) && (resp.StatusCode == http.StatusPreconditionFailed || resp.Code == "PreconditionFailed" ||
		resp.Code == "NoSuchUpload" || resp.Code == "ConditionalRequestConflict") {
		// Somebody else was first; or it was us, and the answer was lost.
		if kept, keepErr := s.keep(ctx, name, size); kept || keepErr != nil {
			return keepErr
		}
	}
	return err
}

// keep says whether an object of that name and size is there.
func (s *S3) keep(ctx context.Context, name string, size int64) (bool, error) {
	info, err := s.stat(ctx, name)
	if _, kind := s3Kind(err); errors.Is(kind, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size != size {
		return false, fmt.Errorf("one of %d bytes is there, this is one of %d: %w", info.Size, size, ErrExists)
	}
	return true, nil
}

// conditional makes a write that replaces nothing, and makes it again without that condition where the server does not
// know it. Then only keep guards what is there.
func (s *S3) conditional(ctx context.Context, write func(minio.PutObjectOptions) error) error {
	opt := minio.PutObjectOptions{DisableContentSha256: true} // one signature over all of it, by sums
	if !s.unconditional.Load() {
		opt.SetMatchETagExcept("*")
		err := s.retry(ctx, func() error { return write(opt) })
		var resp minio.ErrorResponse
		if !errors.As(err, &resp) || resp.StatusCode != http.StatusNotImplemented {
			return err
		}
		s.unconditional.Store(true)
	}
	opt = minio.PutObjectOptions{DisableContentSha256: true}
	return s.retry(ctx, func() error { return write(opt) })
}

// sums are what the server checks the bytes by: MD5 (RFC 1864), and without TLS a SHA-256 that the signature covers.
func (s *S3) sums(p []byte) (md5Base64, sha256Hex string) {
	m := md5.Sum(p)
	if !s.secure {
		h := sha256.Sum256(p)
		sha256Hex = hex.EncodeToString(h[:])
	}
	return base64.StdEncoding.EncodeToString(m[:]), sha256Hex
}

func (s *S3) putWhole(ctx context.Context, name string, r io.Reader, size int64) error {
	p := make([]byte, size)
	if err := readPart(r, p, size); err != nil {
		return err
	}
	if err := atEnd(r, size); err != nil {
		return err
	}
	m, h := s.sums(p)
	return s.conditional(ctx, func(opt minio.PutObjectOptions) error {
		_, err := s.core.PutObject(ctx, s.bucket, s.key(name), bytes.NewReader(p), size, m, h, opt)
		return err
	})
}

func (s *S3) putParts(ctx context.Context, name string, r io.Reader, size int64) error {
	var id string
	err := s.retry(ctx, func() (err error) {
		id, err = s.core.NewMultipartUpload(ctx, s.bucket, s.key(name), minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	parts, err := s.uploadParts(ctx, name, id, r, size)
	if err == nil {
		err = s.conditional(ctx, func(opt minio.PutObjectOptions) error {
			_, err := s.core.CompleteMultipartUpload(ctx, s.bucket, s.key(name), id, parts, opt)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, s.abort(ctx, s.key(name), id))
	}
	return nil
}

func (s *S3) uploadParts(ctx context.Context, name, id string, r io.Reader, size int64) ([]minio.CompletePart, error) {
	length := max(s.part, (size+maxParts-1)/maxParts)
	buf := make([]byte, length)
	var parts []minio.CompletePart
	for off := int64(0); off < size; off += length {
		p := buf[:min(length, size-off)]
		if err := readPart(r, p, size); err != nil {
			return nil, err
		}
		m, h := s.sums(p)
		var part minio.ObjectPart
		err := s.retry(ctx, func() (err error) {
			part, err = s.core.PutObjectPart(ctx, s.bucket, s.key(name), id, len(parts)+1, bytes.NewReader(p), int64(len(p)),
				minio.PutObjectPartOptions{Md5Base64: m, Sha256Hex: h, DisableContentSha256: true})
			return err
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, minio.CompletePart{PartNumber: len(parts) + 1, ETag: part.ETag})
	}
	return parts, atEnd(r, size)
}

// abort removes the parts of an upload that has failed, also if it was ctx that ended it.
func (s *S3) abort(ctx context.Context, key, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err := s.retry(ctx, func() error { return s.core.AbortMultipartUpload(ctx, s.bucket, key, id) })
	if err == nil || minio.ToErrorResponse(err).Code == "NoSuchUpload" {
		return nil
	}
	// Not wrapped: what kind of error this is says nothing about the Put.
	return errors.New("its parts may still take room (give the bucket a lifecycle rule that aborts incomplete uploads): " + err.Error())
}

func readPart(r io.Reader, p []byte, size int64) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ended before the %d bytes that were announced: %w", size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return &sourceError{err}
	}
	return nil
}

// atEnd refuses a reader that has more.
func atEnd(r io.Reader, size int64) error {
	var one [1]byte
	n, err := io.ReadFull(r, one[:])
	if n > 0 {
		return fmt.Errorf("there are more than the %d bytes that were announced", size)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return &sourceError{err}
	}
	return nil
}

// Get is Reader's.
func (s *S3) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	err := checkGet(ctx, name, off)
	var r io.ReadCloser
	if err == nil {
		r, err = s.get(ctx, name, off, n)
	}
	if err != nil {
		return nil, s.fault("get", name, err)
	}
	return r, nil
}

func (s *S3) get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if n == 0 {
		return s.nothing(ctx, name, off)
	}
	var opt minio.GetObjectOptions
	switch {
	case n > 0:
		opt.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1)) // RFC 9110, 14.1.2
	case off > 0:
		opt.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	var body io.ReadCloser
	var info minio.ObjectInfo
	var header http.Header
	err := s.retry(ctx, func() (err error) {
		body, info, header, err = s.core.GetObject(ctx, s.bucket, s.key(name), opt)
		return err
	})
	if resp := minio.ToErrorResponse(err); resp.Code == "InvalidRange" || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		if n > 0 {
			off++ // there is nothing at off; nothing was to be there only if n is not positive
		}
		return s.nothing(ctx, name, off)
	}
	if err != nil {
		return nil, err
	}
	if opt.Header().Get("Range") != "" {
		var first int64
		if _, err := fmt.Sscanf(header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != off {
			return nil, errors.Join(fmt.Errorf("the server does not answer with the bytes from %d on, but %q: it is not a server for vaults",
				off, header.Get("Content-Range")), body.Close())
		}
	}
	if n < 0 {
		n = info.Size
	}
	if n < 0 {
		return nil, errors.Join(errors.New("the server does not say how long it is: it is not a server for vaults"), body.Close())
	}
	return &ranged{ctx: ctx, r: &transfer{s: s, name: name, body: body}, left: n}, nil
}

// nothing is the reader of no bytes at off, or of fewer than none.
func (s *S3) nothing(ctx context.Context, name string, off int64) (io.ReadCloser, error) {
	info, err := s.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	return &ranged{ctx: ctx, r: http.NoBody, short: off > info.Size}, nil
}

// transfer says where a download broke off.
type transfer struct {
	s    *S3
	name string
	body io.ReadCloser
}

// Read is io.Reader's.
func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = t.s.fault("get", t.name, err)
	}
	return n, err
}

// Close is io.Closer's.
func (t *transfer) Close() error { return t.body.Close() }

// Stat is Reader's.
func (s *S3) Stat(ctx context.Context, name string) (Info, error) {
	err := checkGet(ctx, name, 0)
	var info Info
	if err == nil {
		info, err = s.stat(ctx, name)
	}
	if err != nil {
		return Info{}, s.fault("look for", name, err)
	}
	return info, nil
}

func (s *S3) stat(ctx context.Context, name string) (Info, error) {
	var info minio.ObjectInfo
	err := s.retry(ctx, func() (err error) {
		info, err = s.core.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{})
		return err
	})
	if err == nil && info.Size < 0 {
		err = errors.New("the server does not say how long it is: it is not a server for vaults")
	}
	return Info{Name: name, Size: info.Size, Time: info.LastModified}, err
}

// Remove is Remover's.
func (s *S3) Remove(ctx context.Context, name string) error {
	err := checkGet(ctx, name, 0)
	if err == nil {
		err = s.retry(ctx, func() error {
			return s.core.RemoveObject(ctx, s.bucket, s.key(name), minio.RemoveObjectOptions{})
		})
	}
	if _, kind := s3Kind(err); err != nil && !errors.Is(kind, ErrNotFound) {
		return s.fault("remove", name, err)
	}
	return nil
}
