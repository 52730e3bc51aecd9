package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ss/store/blob"
)

// proxy stands between a vault and the server. It answers itself where fault says that it has.
type proxy struct {
	address string
	pass    http.Handler
	mu      sync.Mutex
	fault   func(w http.ResponseWriter, r *http.Request) bool
}

func newProxy(t *testing.T, s *server) *proxy {
	t.Helper()
	p := &proxy{pass: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.address})
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		fault := p.fault
		p.mu.Unlock()
		if fault == nil || !fault(w, r) {
			p.pass.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	p.address = srv.Listener.Addr().String()
	return p
}

func (p *proxy) set(fault func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// die ends the connection without an answer.
func die() { panic(http.ErrAbortHandler) }

func answer(w http.ResponseWriter, status int, code string) bool {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
	return true
}

// isPart says whether a request carries bytes of an object.
func isPart(r *http.Request) bool { return r.Method == http.MethodPut }

// fixture is a vault behind a proxy, and the same one straight.
func fixture(t *testing.T) (p *proxy, s *server, bucket string, behind, straight *blob.S3) {
	t.Helper()
	s = startServer(t)
	bucket = s.bucket(t)
	p = newProxy(t, s)
	return p, s, bucket, s.vault(t, bucket, p.address), s.vault(t, bucket, s.address)
}

// someBytes makes n of them that differ from everyone else's.
func someBytes(n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0] = byte(n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

func putBytes(ctx context.Context, v *blob.S3, name string, p []byte) error {
	return v.Put(ctx, name, bytes.NewReader(p), int64(len(p)))
}

func getBytes(t *testing.T, v *blob.S3, name string) ([]byte, error) {
	t.Helper()
	r, err := v.Get(t.Context(), name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func wantWhole(t *testing.T, v *blob.S3, name string, want []byte) {
	t.Helper()
	if got, err := getBytes(t, v, name); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
}

func wantAbsent(t *testing.T, v *blob.S3, name string) {
	t.Helper()
	if info, err := v.Stat(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("stat: %+v, %v", info, err)
	}
}

func wantUploads(t *testing.T, s *server, bucket string) {
	t.Helper()
	if left := s.uploads(t, bucket); len(left) != 0 {
		t.Fatalf("parts are left: %q", left)
	}
}

// TestS3Throttled answers the first requests of each kind with "slow down". They are made again.
func TestS3Throttled(t *testing.T) {
	p, s, bucket, behind, straight := fixture(t)
	big := someBytes(2*partSize + 99)
	for status, code := range map[int]string{http.StatusServiceUnavailable: "SlowDown", http.StatusTooManyRequests: "TooManyRequests"} {
		var told atomic.Int32
		var mu sync.Mutex
		seen := map[string]int{}
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			key := r.Method + r.URL.Path + r.URL.Query().Get("partNumber")
			if seen[key]++; seen[key] > 3 {
				return false
			}
			told.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			return answer(w, status, code)
		})
		name := fmt.Sprintf("throttled/%d", status)
		if err := errors.Join(putBytes(t.Context(), behind, name, big), putBytes(t.Context(), behind, name+"-small", big[:10])); err != nil {
			t.Fatal(err)
		}
		wantWhole(t, behind, name, big)
		n := 0
		for _, err := range behind.List(t.Context(), name) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := behind.Remove(t.Context(), name); err != nil || n != 2 {
			t.Fatalf("remove: %v; %d listed", err, n)
		}
		if told.Load() < 20 {
			t.Fatalf("only %d requests were told to slow down", told.Load())
		}
	}
	// A server that never stops saying so is given up, and a caller who has no more time is heard.
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	p.set(func(w http.ResponseWriter, _ *http.Request) bool {
		if asked.Add(1) == 12 {
			cancel()
		}
		return answer(w, http.StatusServiceUnavailable, "SlowDown")
	})
	if err := putBytes(t.Context(), behind, "never", big); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Fatalf("always: %v", err)
	}
	if err := putBytes(ctx, behind, "never", big); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if n := asked.Load(); n != 12 {
		t.Errorf("asked %d times", n)
	}
	wantAbsent(t, straight, "never")
	wantUploads(t, s, bucket)
}

// TestS3UploadDies ends the connection in the midst of an object: once, which is made good, for good, and for everything that
// comes after.
func TestS3UploadDies(t *testing.T) {
	p, s, bucket, behind, straight := fixture(t)
	small, big := someBytes(100_000), someBytes(2*partSize+7)
	halfway := func(r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		die()
	}
	for name, content := range map[string][]byte{"once/small": small, "once/big": big} {
		var once sync.Once
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if isPart(r) && r.URL.Query().Get("partNumber") != "1" {
				once.Do(func() { halfway(r) })
			}
			return false
		})
		if err := putBytes(t.Context(), behind, name, content); err != nil {
			t.Fatal(err)
		}
		wantWhole(t, straight, name, content)
	}
	for name, content := range map[string][]byte{"always/small": small, "always/big": big} {
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if isPart(r) && r.URL.Query().Get("partNumber") != "1" {
				halfway(r)
			}
			return false
		})
		if err := putBytes(t.Context(), behind, name, content); err == nil || !strings.Contains(err.Error(), "is the server up") {
			t.Fatalf("%s: %v", name, err)
		}
		wantAbsent(t, straight, name)
		wantUploads(t, s, bucket)
	}
	dead := false
	p.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if dead || r.URL.Query().Get("partNumber") == "2" {
			dead = true
			halfway(r)
		}
		return false
	})
	if err := putBytes(t.Context(), behind, "dead", big); err == nil || !strings.Contains(err.Error(), "may still take room") {
		t.Fatalf("dead: %v", err)
	}
	wantAbsent(t, straight, "dead")
	if left := s.uploads(t, bucket); len(left) == 0 {
		t.Fatal("a dead server has removed the parts: this tests nothing")
	}
	if err := straight.RemovePartials(t.Context(), time.Hour); err != nil || len(s.uploads(t, bucket)) == 0 {
		t.Fatalf("young parts are gone, or %v", err)
	}
	if err := straight.RemovePartials(t.Context(), -time.Hour); err != nil { // the server's clock may be a little ahead
		t.Fatal(err)
	}
	wantUploads(t, s, bucket)
}

// TestS3AnswerLost lets the server do all of it, and loses the answer. The object is found to be there.
func TestS3AnswerLost(t *testing.T) {
	p, s, bucket, behind, straight := fixture(t)
	for name, content := range map[string][]byte{"small": someBytes(1000), "big": someBytes(partSize + 1)} {
		var lost atomic.Bool
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			last := isPart(r) && name == "small" || r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
			if last && !lost.Swap(true) {
				p.pass.ServeHTTP(httptest.NewRecorder(), r)
				die()
			}
			return false
		})
		if err := putBytes(t.Context(), behind, name, content); err != nil || !lost.Load() {
			t.Fatalf("%s: %v", name, err)
		}
		wantWhole(t, straight, name, content)
		wantUploads(t, s, bucket)
	}
}

// cutWriter passes on the beginning of a body, and then does something.
type cutWriter struct {
	http.ResponseWriter
	left int
	then func()
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		_, _ = c.ResponseWriter.Write(p[:max(0, c.left+len(p))])
		c.ResponseWriter.(http.Flusher).Flush()
		c.then()
	}
	return c.ResponseWriter.Write(p)
}

// TestS3DownloadDies ends the connection in the midst of a download. What has come is never taken for all.
func TestS3DownloadDies(t *testing.T) {
	p, _, _, behind, straight := fixture(t)
	content := someBytes(3 << 20)
	if err := putBytes(t.Context(), straight, "a", content); err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			p.pass.ServeHTTP(&cutWriter{w, len(content) / 2, die}, r)
		}
		return r.Method == http.MethodGet
	})
	got, err := getBytes(t, behind, "a")
	if err == nil || len(got) >= len(content) || !bytes.HasPrefix(content, got) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// A byte that is another one is not found here: who reads compares digests.
	p.set(nil)
	wantWhole(t, behind, "a", content)
}

// TestS3Silent has a server that takes a request, or half of it, or gives half of an answer, and then says nothing more.
func TestS3Silent(t *testing.T) {
	p, s, bucket, _, straight := fixture(t)
	content := someBytes(partSize + 5)
	if err := putBytes(t.Context(), straight, "there", content); err != nil {
		t.Fatal(err)
	}
	u := fmt.Sprintf("s3://%s/some/prefix?endpoint=http://%s&region=us-east-1", bucket, p.address)
	st, err := blob.OpenURLTimed(t.Context(), u, blob.Options{CredentialsFile: s.credFile, PartSize: partSize}, time.Millisecond, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	behind := st.(*blob.S3)
	var silent atomic.Int32
	over := make(chan struct{}) // the proxy does not see that a client goes that it has not heard out
	t.Cleanup(func() { close(over) })
	wait := func() {
		silent.Add(1)
		<-over
		die()
	}
	p.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if isPart(r) {
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			wait()
		}
		return false
	})
	var timeout net.Error
	if err := putBytes(t.Context(), behind, "a", content); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("put: %v", err)
	}
	wantAbsent(t, straight, "a")
	wantUploads(t, s, bucket)
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			p.pass.ServeHTTP(&cutWriter{w, len(content) / 2, func() { wait() }}, r)
		}
		return r.Method == http.MethodGet
	})
	if got, err := getBytes(t, behind, "there"); !errors.As(err, &timeout) || len(got) >= len(content) {
		t.Fatalf("get: %d bytes, %v", len(got), err)
	}
	p.set(func(http.ResponseWriter, *http.Request) bool { wait(); return true })
	if _, err := behind.Stat(t.Context(), "there"); !errors.As(err, &timeout) {
		t.Fatalf("stat: %v", err)
	}
	if silent.Load() < 9 {
		t.Errorf("silent %d times only", silent.Load())
	}
}

// TestS3UploadFlipped changes a byte on the way up. The server finds it, and it is sent again.
func TestS3UploadFlipped(t *testing.T) {
	p, s, bucket, behind, straight := fixture(t)
	for name, content := range map[string][]byte{"small": someBytes(1000), "big": someBytes(partSize + 9)} {
		flips := 0
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if isPart(r) && flips > 0 {
				flips--
				data, err := io.ReadAll(r.Body)
				if err != nil || len(data) == 0 {
					die()
				}
				data[len(data)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(data))
			}
			return false
		})
		flips = 1 << 20
		if err := putBytes(t.Context(), behind, name, content); err == nil {
			t.Fatalf("%s: the server has taken other bytes", name)
		}
		wantAbsent(t, straight, name)
		wantUploads(t, s, bucket)
		flips = 1
		if err := putBytes(t.Context(), behind, name, content); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantWhole(t, straight, name, content)
	}
}

// TestS3Answers maps what servers say.
func TestS3Answers(t *testing.T) {
	p, _, _, behind, _ := fixture(t)
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{403, "AccessDenied", blob.ErrDenied},
		{403, "InvalidAccessKeyId", blob.ErrDenied},
		{403, "SignatureDoesNotMatch", blob.ErrDenied},
		{403, "RequestTimeTooSkewed", blob.ErrDenied},
		{403, "QuotaExceeded", blob.ErrFull},
		{400, "XMinioAdminBucketQuotaExceeded", blob.ErrFull},
		{507, "XMinioStorageFull", blob.ErrFull},
		{507, "", blob.ErrFull},
	} {
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			return isPart(r) && answer(w, c.status, c.code)
		})
		if err := putBytes(t.Context(), behind, "a", []byte("x")); !errors.Is(err, c.want) {
			t.Errorf("%d %s: %v, want %v", c.status, c.code, err, c.want)
		}
	}
	// A server that knows no If-None-Match is asked without.
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		return isPart(r) && r.Header.Get("If-None-Match") != "" && answer(w, http.StatusNotImplemented, "NotImplemented")
	})
	if err := putBytes(t.Context(), behind, "a", []byte("x")); err != nil {
		t.Error(err)
	}
	if err := putBytes(t.Context(), behind, "a", []byte("xx")); !errors.Is(err, blob.ErrExists) {
		t.Errorf("another: %v", err)
	}
	// One that knows no ranges is found out.
	p.set(func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false })
	if r, err := behind.Get(t.Context(), "a", 0, 1); err == nil {
		t.Errorf("a range that is none: %v", r.Close())
	}
}

// TestS3Open meets what is wrong when a vault is opened.
func TestS3Open(t *testing.T) {
	s := startServer(t)
	bucket := s.bucket(t)
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, fmt.Appendf(nil, "access_key: %s\nsecret_key: hunter2\n", s.access), 0o600); err != nil {
		t.Fatal(err)
	}
	none, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	open := func(bucket, address string, opt blob.Options) error {
		_, err := blob.OpenURLTimed(t.Context(), "s3://"+bucket+"?endpoint=http://"+address, opt, time.Millisecond, time.Second)
		return err
	}
	if err := open(bucket, s.address, blob.Options{CredentialsFile: s.credFile}); err != nil {
		t.Errorf("without a region: %v", err)
	}
	if err := open("no-such-bucket", s.address, blob.Options{CredentialsFile: s.credFile}); err == nil || !strings.Contains(err.Error(), "create it") {
		t.Errorf("no bucket: %v", err)
	}
	if err := open(bucket, s.address, blob.Options{CredentialsFile: wrong}); !errors.Is(err, blob.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("wrong secret: %v", err)
	}
	if err := open(bucket, none.Addr().String(), blob.Options{CredentialsFile: s.credFile}); err == nil || !strings.Contains(err.Error(), "is the server up") {
		t.Errorf("nobody there: %v", err)
	}
	if err := open(bucket, s.address, blob.Options{CredentialsFile: s.credFile, PartSize: 1}); err == nil {
		t.Error("parts of one byte")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s.access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.secret)
	if err := open(bucket, s.address, blob.Options{}); err != nil {
		t.Errorf("from the environment: %v", err)
	}
}
