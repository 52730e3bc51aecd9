package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ss/store/blob"
)

// TestManifestIsNotDurableBeforeItsObjects: another peer has put an object and not come to making its name durable.
func TestManifestIsNotDurableBeforeItsObjects(t *testing.T) {
	ctx := context.Background()
	s, other := newStore(t), newStore(t)
	m := sealed(t, other, key1, sample()).Manifest
	put := func(name string) error {
		r, err := other.objects.Get(ctx, name, 0, -1)
		ok(t, err)
		defer r.Close()
		data, err := io.ReadAll(r)
		ok(t, err)
		return s.ForPeers().Put(ctx, name, bytes.NewReader(data), int64(len(data)))
	}
	// The first peer is stopped between an object's name and the fsync of its folder.
	objects := filepath.Join(s.dir, "ring", objectsFolder)
	stopped := errors.New("stopped")
	s.objects.Step = func(op, path string, _ int) error {
		if op == "syncdir" && path == objects {
			return stopped
		}
		return nil
	}
	for _, name := range m.names() {
		if err := put(name); !errors.Is(err, stopped) {
			t.Fatal(err)
		}
	}
	// The second finds them, and sends the manifest.
	var mu sync.Mutex
	var order []string
	note := func(op, path string, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, op+" "+path)
		return nil
	}
	s.objects.Step, s.step = note, note
	ok(t, put(SetName(key1)))
	synced, named := slices.Index(order, "syncdir "+objects), slices.Index(order, "rename "+s.objects.Path(SetName(key1)))
	if synced < 0 || named < synced {
		t.Errorf("the objects' names are not durable when the manifest gets its own: %s", strings.Join(order, "\n"))
	}
}

// TestKeptCutIsDurable: PutCut of what is there already makes it durable: whoever put it may have been stopped right before.
func TestKeptCutIsDurable(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	ok(t, s.PutCut(ctx, "ring", "s1", []byte("a cut")))
	synced := false
	s.objects.Step = func(op, path string, _ int) error {
		synced = synced || op == "syncdir" && path == filepath.Join(s.dir, "ring", cutsFolder)
		return nil
	}
	ok(t, s.PutCut(ctx, "ring", "s1", []byte("a cut")))
	if !synced {
		t.Error("not made durable")
	}
}

// TestFullDiskAtTheManifest: a set whose manifest has no room leaves no objects behind either: they are what takes the room.
func TestFullDiskAtTheManifest(t *testing.T) {
	s := newStore(t)
	sealed(t, s, key1, sample())
	before := objectsOf(t, s, "ring")
	full := true
	s.objects.Step = func(op, path string, _ int) error {
		if full && op == "mkdir" && strings.Contains(path, key2.Snapshot) {
			return syscall.ENOSPC
		}
		return nil
	}
	_, err := store(s, key2, changed(3))
	wantErr(t, err, ErrNoSpace)
	if !errors.Is(err, blob.ErrFull) {
		t.Error(err)
	}
	if after := objectsOf(t, s, "ring"); !slices.Equal(before, after) {
		t.Errorf("objects %q, before %q", after, before)
	}
	full = false
	m := sealed(t, s, key2, changed(3)).Manifest
	same(t, s, key2, m.Digest, changed(3))
}
