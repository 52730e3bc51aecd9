package images

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"ss/store/keys"
	"ss/store/pack"
)

// TestWhatCannotBeMappedIsNotDamaged: a process that is short of memory must not put good objects aside, perhaps the last of their kind.
func TestWhatCannotBeMappedIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "object")
	ok(t, os.WriteFile(path, random(3*4096, 1), 0o600))
	whole, err := os.Open(path)
	ok(t, err)
	defer whole.Close()
	crc, err := sumMapped(whole, 3*4096)
	ok(t, err)
	if want := crcOf(random(3*4096, 1)); crc != want {
		t.Errorf("%08x, want %08x", crc, want)
	}
	writer, err := os.OpenFile(path, os.O_WRONLY, 0) // of which mmap(2) says EACCES
	ok(t, err)
	defer writer.Close()
	if _, err := sumMapped(writer, 3*4096); err == nil || isIntegrity(asFault("x", err)) {
		t.Errorf("a file that cannot be mapped: %v", err)
	}
	// There is nothing behind the mapping: SIGBUS, as of a disk that cannot be read.
	ok(t, os.Truncate(path, 4096))
	if _, err := sumMapped(whole, 3*4096); !isIntegrity(asFault("x", err)) {
		t.Errorf("a file that became shorter: %v", err)
	}
}

// TestAnotherKeyIsNotDamage: what was written under another key, or by a newer program, is not built on, and not reported as damage either.
func TestAnotherKeyIsNotDamage(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	m := sealed(t, s, key1, sample()).Manifest
	_, x, err := s.Index(ctx, key1, "", jobKey)
	ok(t, err)
	held := s.pins.pin()
	defer held.release()
	if s.table(ctx, key1, x.Packs[0], keys.Job{9}, held) != nil {
		t.Fatal("read without the key")
	}
	if found, err := s.Damaged(); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	_, err = readIndex(ctx, s.objects, m, keys.Job{9})
	wantErr(t, err, pack.ErrKey)
}
