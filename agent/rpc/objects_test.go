package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/store/blob"
	"ss/store/blob/blobtest"
	"ss/store/images"
	"ss/store/keys"
)

// objects returns the objects of h as the agent of another host sees them.
func (h *hostAgent) objects(t *testing.T, host string) custody.Objects {
	t.Helper()
	peers := NewPeers(issue(t, h.authority, identity.RoleAgent, host))
	t.Cleanup(peers.Close)
	return peers.Objects(custody.Peer{Host: "hostA", Endpoint: h.addr})
}

func objectName(content []byte) string {
	sum := sha256.Sum256(content)
	return images.ObjectName("job", hex.EncodeToString(sum[:]))
}

// TestPeerBackend holds the objects of another host against the contract of every backend, over a connection as agents make it.
func TestPeerBackend(t *testing.T) {
	blobtest.Suite(t, func(t *testing.T) blobtest.Backend {
		o := serveAgent(t).objects(t, "hostB")
		return blobtest.Backend{Reader: o, Writer: o, Name: objectName}
	})
}

// set makes an image set of one file.
func set(t *testing.T, s *images.Store, key images.Key) images.Manifest {
	t.Helper()
	p, err := s.Begin(key)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := p.Dir("member-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), bytes.Repeat([]byte(key.String()), 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	sealed, err := p.Seal(t.Context(), images.Info{Epoch: 1, Meta: []byte(`{}`), JobKey: keys.Open})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Manifest
}

func store(t *testing.T) *images.Store {
	t.Helper()
	s, err := images.Open(filepath.Join(t.TempDir(), "images"), images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unremovable is a blob.Store that removes nothing.
type unremovable struct{ custody.Objects }

func (unremovable) Remove(context.Context, string) error { return blob.ErrDenied }

// TestPushAndFetchBetweenHosts moves a set to another host and back, and looks at what each end lets happen.
func TestPushAndFetchBetweenHosts(t *testing.T) {
	h := serveAgent(t)
	own := store(t)
	key := images.Key{Job: "job", Snapshot: "cut", Host: "hostB"}
	man := set(t, own, key)
	ctx := t.Context()

	// Another agent may bring the objects, but not speak for hostB.
	_, err := own.Push(ctx, key, unremovable{h.objects(t, "hostC")})
	if !errors.Is(err, blob.ErrDenied) || fault.KindOf(err) != fault.Denied {
		t.Fatalf("hostC puts hostB's set: %v", err)
	}
	if sets, err := h.images.Sets(); err != nil || len(sets) != 0 {
		t.Fatalf("image sets: %v, %v", sets, err)
	}
	moved, err := own.Push(ctx, key, unremovable{h.objects(t, "hostB")})
	if err != nil || moved.Skipped == 0 {
		t.Fatalf("%+v, %v: the objects are there", moved, err)
	}
	if got, err := h.images.Verify(ctx, key, man.Digest); err != nil || got.Digest != man.Digest {
		t.Fatalf("what arrived: %v", err)
	}
	if doubt, err := h.images.InDoubt(); err != nil || len(doubt) != 1 || doubt[0] != key {
		t.Fatalf("in doubt: %v, %v", doubt, err)
	}

	back := store(t)
	src := []images.Source{{Name: "hostA", Reader: h.objects(t, "hostC")}}
	if _, err := back.Fetch(ctx, key, man.Digest, true, src); err != nil {
		t.Fatal(err)
	}
	if _, err := back.VerifyData(ctx, key, man.Digest, keys.Open); err != nil {
		t.Fatal(err)
	}
}

// TestWhatAPeerMayNotPut: cuts are ssctl's, a manifest comes after its objects, and an object is what its name says.
func TestWhatAPeerMayNotPut(t *testing.T) {
	h := serveAgent(t)
	o := h.objects(t, "hostB")
	own := store(t)
	key := images.Key{Job: "job", Snapshot: "cut", Host: "hostB"}
	set(t, own, key)
	r, err := own.ForPeers().Get(t.Context(), images.SetName(key), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		object  string
		content string
		want    error
	}{
		"a cut":                        {images.CutName("job", "cut"), "{}", blob.ErrDenied},
		"a manifest without objects":   {images.SetName(key), string(manifest), images.ErrMissing},
		"what is not a manifest":       {images.SetName(key), "{}", blob.ErrDamaged},
		"an object of another digest":  {objectName([]byte("x")), "y", blob.ErrDamaged},
		"a mark":                       {"job/marks/cut/hostB", "", blob.ErrInvalid},
		"something beside the objects": {"job/objects/x/y", "x", blob.ErrInvalid},
		"something at the top":         {"job", "x", blob.ErrInvalid},
	} {
		err := o.Put(t.Context(), c.object, strings.NewReader(c.content), int64(len(c.content)))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := h.images.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNothingMovesWhileMembersStandStill: a transfer waits, and goes on.
func TestNothingMovesWhileMembersStandStill(t *testing.T) {
	h := serveAgent(t)
	o := h.objects(t, "hostB")
	content := bytes.Repeat([]byte("x"), 3*frameSize)
	if err := o.Put(t.Context(), objectName(content), bytes.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
	release := h.quiet.Pause()
	defer release()
	got := make(chan error, 1)
	go func() {
		r, err := o.Get(t.Context(), objectName(content), 0, -1)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		got <- err
	}()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	other := []byte("another")
	if err := o.Put(short, objectName(other), bytes.NewReader(other), int64(len(other))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put while it is quiet: %v", err)
	}
	select {
	case err := <-got:
		t.Errorf("got while it is quiet: %v", err)
	default:
	}
	release()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// liar serves objects badly.
type liar struct {
	ssv1.UnimplementedPeerServer
	get func(stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error
}

func (l liar) GetObject(_ *ssv1.GetObjectRequest, stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
	return l.get(stream)
}

// TestABrokenStreamIsNoObject: whatever the other side does, less or more than was asked for is an error.
func TestABrokenStreamIsNoObject(t *testing.T) {
	head := &ssv1.ObjectFrame{Name: "job/objects/x", Size: 10}
	data := func(s string) *ssv1.ObjectFrame { return &ssv1.ObjectFrame{Data: []byte(s)} }
	frames := func(fs ...*ssv1.ObjectFrame) func(grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
		return func(stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
			for _, f := range fs {
				if err := stream.Send(f); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		get  func(grpc.ServerStreamingServer[ssv1.ObjectFrame]) error
		n    int64
		want error
	}{
		"nothing":          {frames(), -1, io.ErrUnexpectedEOF},
		"an end too early": {frames(head, data("12345")), -1, io.ErrUnexpectedEOF},
		"only a head":      {frames(head), 3, io.ErrUnexpectedEOF},
		"too much":         {frames(head, data("12345"), data("678901")), -1, blob.ErrDamaged},
		"more than wanted": {frames(head, data("1234")), 3, blob.ErrDamaged},
		"another object":   {frames(&ssv1.ObjectFrame{Name: "job/objects/y", Size: 10}, data("1234567890")), -1, blob.ErrDamaged},
		"no size":          {frames(&ssv1.ObjectFrame{Name: "job/objects/x", Size: -1}), -1, blob.ErrDamaged},
		"a late failure": {func(stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
			return errors.Join(frames(head, data("1234567890"))(stream), objectStatus(blob.ErrDamaged))
		}, -1, blob.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveLiar(t, c.get)
			r, err := o.Get(t.Context(), "job/objects/x", 0, c.n)
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func serveLiar(t *testing.T, get func(grpc.ServerStreamingServer[ssv1.ObjectFrame]) error) custody.Objects {
	t.Helper()
	authority, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unary, stream := wire.ServerProtocol("the agent of hostA", callerName)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(issue(t, authority, identity.RoleAgent, "hostA").Server())),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	ssv1.RegisterPeerServer(s, liar{get: get})
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	h := &hostAgent{addr: l.Addr().String(), authority: authority}
	return h.objects(t, "hostB")
}

// TestObjectErrorsSurviveTheWire, each with its kind, and wrapped.
func TestObjectErrorsSurviveTheWire(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
		kind fault.Kind
	}{
		{blob.ErrNotFound, blob.ErrNotFound, fault.NotFound},
		{blob.ErrExists, blob.ErrExists, fault.Conflict},
		{blob.ErrDenied, blob.ErrDenied, fault.Denied},
		{blob.ErrFull, blob.ErrFull, fault.Failed},
		{blob.ErrDamaged, blob.ErrDamaged, fault.Integrity},
		{blob.ErrInvalid, blob.ErrInvalid, fault.Usage},
		{images.ErrMissing, images.ErrMissing, fault.Refused},
		{images.ErrNotFound, blob.ErrNotFound, fault.NotFound},
		{images.ErrNoSpace, blob.ErrFull, fault.Failed},
		{&images.IntegrityError{Object: "o", Detail: "d"}, blob.ErrDamaged, fault.Integrity},
		{io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, fault.Unsettled},
		{context.Canceled, context.Canceled, fault.Interrupted},
	} {
		got := objectError("hostA", objectStatus(errors.Join(errors.New("put it"), c.err)))
		if !errors.Is(got, c.want) || fault.KindOf(got) != c.kind || !strings.Contains(got.Error(), "put it") {
			t.Errorf("%v came back as %v, kind %d", c.err, got, fault.KindOf(got))
		}
	}
	if objectStatus(nil) != nil || objectError("hostA", nil) != nil {
		t.Error("nothing came back as something")
	}
}
