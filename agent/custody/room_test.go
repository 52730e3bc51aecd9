package custody

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
)

// TestKeptDumpsGiveWay: a dump that was kept for a restore does not keep the job's next snapshot from its room.
func TestKeptDumpsGiveWay(t *testing.T) {
	dir := t.TempDir()
	s, err := images.Open(filepath.Join(dir, "images"), images.Options{KeepDumps: true, StagingLimit: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	h := &Holder{cfg: Config{Store: s, Dir: filepath.Join(dir, "images"), Staging: filepath.Join(dir, "staging")}}
	custodytest.Seal(t, s, aKey, custodytest.NewKey(t)) // 3 MiB
	if err := h.Fits(2 << 20); err != nil {
		t.Error(err)
	}
	if err := h.Fits(5 << 20); !fault.Is(err, fault.Refused) {
		t.Errorf("more than the limit: %v", err)
	}
}

// TestFitsOneDisk: on one disk, plain files whose room is given back need hardly more than themselves, and those that are kept twice as much.
func TestFitsOneDisk(t *testing.T) {
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		s, err := images.Open(filepath.Join(dir, "images"), images.Options{KeepDumps: keep})
		if err != nil {
			t.Fatal(err)
		}
		h := &Holder{cfg: Config{Store: s, Dir: filepath.Join(dir, "images"), Staging: filepath.Join(dir, "staging")}}
		_, free, err := s.Space()
		if err != nil {
			t.Fatal(err)
		}
		if free < 1<<30 {
			t.Fatalf("%d MiB are free in %s: this test needs a disk with 1 GiB", free>>20, dir)
		}
		if err := h.Fits(free / 4 * 3); (err != nil) != keep {
			t.Errorf("dumps kept: %v: three quarters of what is free: %v", keep, err)
		}
		if err := h.Fits(free + 1<<20); !fault.Is(err, fault.Refused) {
			t.Errorf("more than is free: %v", err)
		}
	}
}

func TestDiskFullIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT, blob.ErrFull, images.ErrNoSpace} {
		got := DiskFull(dir, err)
		var f *fault.Error
		if !errors.As(got, &f) || !errors.Is(got, err) || f.Next == "" || f.Error() != "the disk of "+dir+" is full; "+roomNext {
			t.Errorf("%v: %v", err, got)
		}
		if again := DiskFull(filepath.Join(dir, "else"), fmt.Errorf("seal: %w", got)); again.Error() != "seal: "+got.Error() {
			t.Errorf("said twice: %v", again)
		}
	}
	other := errors.New("other")
	if got := DiskFull(dir, other); got.Error() != "other" {
		t.Errorf("another error became %v", got)
	}
	if DiskFull(dir, nil) != nil {
		t.Error("no error became one")
	}
}
