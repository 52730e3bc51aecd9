package pack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"ss/internal/yield"
)

var errTest = errors.New("as the test wants it")

// blocksOf is how many blocks of 512 bytes a file fills.
func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Blocks
}

// someFiles are enough for several packs of 2 segments.
func someFiles(t *testing.T) string {
	return writeFiles(t, map[string][]byte{"a": random(1, 4*segmentSize+1), "b": make([]byte, segmentSize), "c": random(2, 5), "d": random(3, segmentSize)})
}

func ingestSmall(ctx context.Context, dir string, m *memory, opt IngestOptions) error {
	_, _, err := ingest(ctx, dir, testKey, nil, m, opt, 2*segmentSize, new(counter))
	return err
}

func TestIngestWhoseSinkFails(t *testing.T) {
	dir := someFiles(t)
	check := func(what string, m *memory, err error, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		m.idle(t)
		goleak.VerifyNone(t)
	}
	m := newMemory()
	if err := ingestSmall(t.Context(), dir, m, IngestOptions{}); err != nil {
		t.Fatal(err)
	}
	writes := m.writes
	for n := 1; n <= writes; n++ {
		m := newMemory()
		m.failWrite = n
		check(fmt.Sprintf("write %d of %d", n, writes), m, ingestSmall(t.Context(), dir, m, IngestOptions{}), errSink)
	}
	m = newMemory()
	m.createErr = errTest
	check("create", m, ingestSmall(t.Context(), dir, m, IngestOptions{}), errTest)
	m = newMemory()
	m.commitErr = errTest
	check("commit", m, ingestSmall(t.Context(), dir, m, IngestOptions{}), errTest)
	for n := range 3 {
		m := newMemory()
		_, _, err := ingest(t.Context(), dir, testKey, nil, m, IngestOptions{}, 2*segmentSize, &fewSalts{n})
		check("salts", m, err, errTest)
	}
}

type fewSalts struct{ left int }

func (f *fewSalts) Read(b []byte) (int, error) {
	if f.left == 0 {
		return 0, errTest
	}
	f.left--
	b[0] = byte(f.left)
	return len(b), nil
}

func TestIngestThatIsCancelled(t *testing.T) {
	dir := someFiles(t)
	for _, workers := range []int{1, 3} {
		for n := int32(0); ; n++ {
			ctx, cancel := context.WithCancelCause(t.Context())
			var calls atomic.Int32
			m := newMemory()
			m.onWrite = func() {
				if calls.Add(1) > n {
					cancel(errTest)
				}
			}
			err := ingestSmall(ctx, dir, m, IngestOptions{Workers: workers, Pause: func(context.Context) error {
				if calls.Add(1) > n {
					cancel(errTest)
				}
				return nil
			}})
			m.idle(t)
			goleak.VerifyNone(t)
			hit := calls.Load() > n
			cancel(nil)
			if err != nil && !errors.Is(err, errTest) {
				t.Fatalf("%d workers, call %d: %v", workers, n, err)
			}
			if !hit {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ingestSmall(ctx, dir, newMemory(), IngestOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before it began: %v", err)
	}
}

func TestIngestWaitsForPause(t *testing.T) {
	dir := someFiles(t)
	// A pause that lasts until the ingest is cancelled.
	ctx, cancel := context.WithCancel(t.Context())
	paused := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	m := newMemory()
	go func() {
		done <- ingestSmall(ctx, dir, m, IngestOptions{Pause: func(ctx context.Context) error {
			once.Do(func() { close(paused) })
			<-ctx.Done()
			return ctx.Err()
		}})
	}()
	<-paused
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("paused: %v", err)
	}
	if m.creates != 0 {
		t.Error("wrote while paused")
	}
	var total int64
	err := ingestSmall(t.Context(), dir, newMemory(), IngestOptions{Progress: func(bytes int64) {
		if bytes <= total {
			t.Errorf("progress from %d to %d", total, bytes)
		}
		total = bytes
	}})
	if want := int64(6*segmentSize + 6); err != nil || total != want {
		t.Errorf("%d bytes of %d, %v", total, want, err)
	}
	err = ingestSmall(t.Context(), dir, newMemory(), IngestOptions{Pause: func(context.Context) error { return errTest }})
	if !errors.Is(err, errTest) {
		t.Errorf("a pause that fails: %v", err)
	}
}

func TestIngestYieldsToTheJob(t *testing.T) {
	var low, other atomic.Int32
	err := ingestSmall(t.Context(), someFiles(t), newMemory(), IngestOptions{Pause: func(context.Context) error {
		if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-raw >= yield.Nice {
			low.Add(1)
		} else {
			other.Add(1)
		}
		return nil
	}})
	if err != nil || low.Load() == 0 || other.Load() != 0 {
		t.Errorf("%d segments of work under low priority, %d not; %v", low.Load(), other.Load(), err)
	}
}

func TestIngestRefuses(t *testing.T) {
	cases := map[string]func(dir string) error{
		"a link":         func(dir string) error { return os.Symlink("a", filepath.Join(dir, "link")) },
		"a link out":     func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "link")) },
		"a pipe":         func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600) },
		"a strange name": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o600) },
		"no folder":      os.RemoveAll,
	}
	for name, spoil := range cases {
		dir := writeFiles(t, map[string][]byte{"a": {1}})
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		m := newMemory()
		if err := ingestSmall(t.Context(), dir, m, IngestOptions{}); err == nil || m.creates != 0 {
			t.Errorf("%s: %v, %d packs begun", name, err, m.creates)
		}
	}
}

func TestFilesThatChangeMeanwhile(t *testing.T) {
	for name, size := range map[string]int64{"shorter": 3 * segmentSize, "empty": 0, "longer": 9 * segmentSize, "a byte longer": 4*segmentSize + 2} {
		dir := someFiles(t)
		var once sync.Once
		m := newMemory()
		err := ingestSmall(t.Context(), dir, m, IngestOptions{Workers: 1, Pause: func(context.Context) (err error) {
			once.Do(func() { err = os.Truncate(filepath.Join(dir, "a"), size) })
			return err
		}})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		m.idle(t)
	}
}

func TestUnpackWhoseSourceFails(t *testing.T) {
	m := newMemory()
	x, _, err := ingest(t.Context(), someFiles(t), testKey, nil, m, IngestOptions{}, 2*segmentSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	both := func(what string, want error) {
		t.Helper()
		unpack, check := Unpack(t.Context(), x, testKey, m, t.TempDir(), nil), Check(t.Context(), x, testKey, m)
		if !errors.Is(unpack, want) || !errors.Is(check, want) {
			t.Errorf("%s: Unpack says %v, Check says %v", what, unpack, check)
		}
		if damaged := errors.Is(want, ErrDamaged); errors.Is(unpack, ErrDamaged) != damaged || errors.Is(check, ErrDamaged) != damaged {
			t.Errorf("%s is taken for damage: %v, %v", what, unpack, check)
		}
		m.idle(t)
		goleak.VerifyNone(t)
	}
	m.openErr = errTest
	both("open", errTest)
	m.openErr, m.readErr = nil, errTest
	both("read", errTest)
	m.readErr = nil
	missing := m.objects[x.Packs[1].Digest]
	delete(m.objects, x.Packs[1].Digest)
	both("a pack is missing", os.ErrNotExist)
	m.objects[x.Packs[1].Digest] = m.objects[x.Packs[2].Digest]
	both("another pack", ErrDamaged)
	m.objects[x.Packs[1].Digest] = missing
	x.Files[0].Root[3]++
	if err := Check(t.Context(), x, testKey, m); !errors.Is(err, ErrDamaged) {
		t.Errorf("another root: %v", err)
	}
}

// Check tells of all packs, Unpack of one.
func TestCheckFindsAll(t *testing.T) {
	m := newMemory()
	x, _, err := ingest(t.Context(), someFiles(t), testKey, nil, m, IngestOptions{}, 2*segmentSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range x.Packs {
		m.objects[p.Digest] = flip(m.objects[p.Digest], 8*1000)
	}
	joined, ok := Check(t.Context(), x, testKey, m).(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != len(x.Packs) {
		t.Fatalf("%v, of %d packs", joined, len(x.Packs))
	}
	for _, err := range joined.Unwrap() {
		if _, ok := errors.AsType[*DamageError](err); !ok {
			t.Error(err)
		}
	}
}

func TestUnpackThatIsCancelled(t *testing.T) {
	m := newMemory()
	x, _, err := ingest(t.Context(), someFiles(t), testKey, nil, m, IngestOptions{}, 2*segmentSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	for n := int32(0); ; n++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		var calls atomic.Int32
		m.onRead = func() {
			if calls.Add(1) > n {
				cancel(errTest)
			}
		}
		unpack := Unpack(ctx, x, testKey, m, t.TempDir(), nil)
		hit := calls.Load() > n
		calls.Store(0)
		check := Check(ctx, x, testKey, m)
		m.idle(t)
		goleak.VerifyNone(t)
		cancel(nil)
		if hit != errors.Is(unpack, errTest) || hit != errors.Is(check, errTest) {
			t.Errorf("read %d: %v, %v", n, unpack, check)
		}
		if !hit {
			break
		}
	}
}
