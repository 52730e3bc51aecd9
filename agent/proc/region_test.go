package proc

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRegionAt compares what the kernel says of one mapping with its list of all.
func TestRegionAt(t *testing.T) {
	mem, err := unix.Mmap(-1, 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	at := uint64(uintptr(unsafe.Pointer(&mem[0])))
	if err := unix.Mprotect(mem[:4096], unix.PROT_READ|unix.PROT_EXEC); err != nil {
		t.Fatal(err)
	}
	got, err := RegionAt(Self, at)
	if errors.Is(err, ErrNoRegionAt) {
		t.Log(err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := Regions(Self)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(r Region) bool { r.Name = ""; return r == got }) || got.Start != at || got.End != at+4096 {
		t.Errorf("%+v at %x, which is not among %s", got, at, fmt.Sprint(all))
	}
	if _, err := RegionAt(Self, 4096); !errors.Is(err, unix.ENOENT) { // below vm.mmap_min_addr
		t.Errorf("a place where nothing is mapped: %v", err)
	}
}
