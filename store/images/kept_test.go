package images

import (
	"context"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestKeptDump: a dump that is kept is what Unpack would make, until it is damaged, replaced, or its set removed.
func TestKeptDump(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Options{KeepDumps: true})
	first := sealed(t, s, key1, sample())
	kept := func(key Key, digest string, want func(string) bool) (string, bool) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "unpacked")
		there, err := s.UnpackKept(ctx, key, digest, dir, want)
		ok(t, err)
		if _, err := os.Lstat(dir); !there && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not kept, but %s is there: %v", dir, err)
		}
		return dir, there
	}
	dir, there := kept(key1, first.Manifest.Digest, nil)
	if !there {
		t.Fatal("the dump was not kept")
	}
	unpacked := filepath.Join(t.TempDir(), "unpacked")
	_, err := s.Unpack(ctx, key1, first.Manifest.Digest, jobKey, unpacked, nil)
	ok(t, err)
	for path := range sample() {
		want, err := os.ReadFile(filepath.Join(unpacked, path))
		ok(t, err)
		got, err := os.ReadFile(filepath.Join(dir, path))
		ok(t, err)
		if string(got) != string(want) {
			t.Errorf("%s differs", path)
		}
	}
	if _, there := kept(key1, digest(nil), nil); there {
		t.Error("another set's dump was given")
	}
	if dir, there := kept(key1, "", func(string) bool { return false }); !there || len(tree(t, dir)) != 0 {
		t.Error("what was not wanted was given")
	}

	second := sealed(t, s, key2, changed(2))
	if _, there := kept(key1, "", nil); there {
		t.Error("the dump before the last was kept")
	}
	if _, there := kept(key2, second.Manifest.Digest, nil); !there {
		t.Error("the last dump was not kept")
	}
	staged := filepath.Join(s.staging, key2.Job, key2.Snapshot, key2.Host)
	var largest string
	var size int64
	for _, path := range tree(t, staged) {
		if info, err := os.Stat(filepath.Join(staged, path)); err == nil && info.Mode().IsRegular() && info.Size() > size {
			largest, size = filepath.Join(staged, path), info.Size()
		}
	}
	flip(t, largest, size*4)
	if _, there := kept(key2, "", nil); there {
		t.Error("a damaged dump was given")
	}
	flip(t, largest, size*4)
	if _, there := kept(key2, "", nil); !there {
		t.Error("a dump that is whole again was not given")
	}
	ok(t, s.Remove(key2))
	if _, there := kept(key2, "", nil); there {
		t.Error("the dump of a set that was removed was given")
	}
	if left := tree(t, s.staging); len(left) != 0 {
		t.Errorf("left in the staging folder: %q", left)
	}
}

// TestSumOfHoles: the checksum of a sparse file is that of its content, wherever its data and its end lie.
func TestSumOfHoles(t *testing.T) {
	const page, window = 4096, 40 * 4096
	for _, row := range []struct {
		size int64
		data []int64 // where some bytes are
	}{
		{size: 1}, {size: page}, {size: window}, {size: window - 1}, {size: 3*page + 7}, {size: 3*page + 7, data: []int64{3*page + 6}},
		{size: window, data: []int64{0}}, {size: window, data: []int64{page, 20*page + 100, window - 1}}, {size: 30 * page, data: []int64{17 * page, 18 * page, 25*page + 1}},
	} {
		path := filepath.Join(t.TempDir(), "f")
		f, err := os.Create(path)
		ok(t, err)
		ok(t, f.Truncate(row.size))
		for _, at := range row.data {
			_, err := f.WriteAt([]byte{7}, at)
			ok(t, err)
		}
		content, err := os.ReadFile(path)
		ok(t, err)
		for _, at := range []int64{0, min(2*page, row.size/page*page)} {
			crc, err := sumSparse(f, at, row.size)
			if want := crc32.Checksum(content[at:], castagnoli); err != nil || crc != want {
				t.Errorf("%+v from %d: %08x, want %08x (%v)", row, at, crc, want, err)
			}
		}
		ok(t, f.Close())
	}
}

// TestKeptDumpOfASetRemovedMeanwhile: a set that is removed while its dump's checksums are made leaves no plain files behind.
func TestKeptDumpOfASetRemovedMeanwhile(t *testing.T) {
	var s *Store
	removed := false
	s = newStore(t, Options{KeepDumps: true, Pause: func(context.Context) error {
		if there, err := s.has(key1); err != nil || !there || removed {
			return err
		}
		removed = true
		return s.Remove(key1)
	}})
	sealed(t, s, key1, files{"hostA-1/pages-1.img": random(1<<12, 1)})
	if !removed {
		t.Fatal("the set was not removed")
	}
	if left := tree(t, s.staging); len(left) != 0 {
		t.Errorf("left in the staging folder: %q", left)
	}
}

// TestKeptDumpsGiveWay: what nothing depends on does not keep a snapshot from its room.
func TestKeptDumpsGiveWay(t *testing.T) {
	s := newStore(t, Options{KeepDumps: true, StagingLimit: 512 << 10})
	before, _, err := s.Space()
	ok(t, err)
	sealed(t, s, key1, files{"hostA-1/pages-1.img": random(600<<10, 1)})
	p, err := s.Begin(key2)
	ok(t, err)
	ok(t, p.Discard())
	if now, _, err := s.Space(); err != nil || now != before {
		t.Errorf("%d bytes of %d are free, %v", now, before, err)
	}
}
