package custody

import (
	"strings"
	"testing"

	"ss/internal/disk"
)

func TestRoomOfARestore(t *testing.T) {
	h := newHolder(t)
	lacks, err := h.Lacking(h.dir, Room{unpacked: 1 << 60})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "unpacked images") || !strings.Contains(lacks[0], "ssctl gc") {
		t.Errorf("%q, %v", lacks, err)
	}
	// Both lie on one disk, which has room for the one or the other.
	free, err := disk.Free(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	lacks, err = h.Lacking(h.dir, Room{unpacked: free / 4 * 3, objects: free / 4 * 3})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "together") {
		t.Errorf("%q, %v", lacks, err)
	}
	grown := Room{unpacked: free / 4 * 3}
	grown.Keep(free / 4 * 3)
	if lacks, err := h.Lacking(h.dir, grown); err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "hold now") {
		t.Errorf("%q, %v", lacks, err)
	}
	if lacks, err := h.Lacking(h.dir, Room{unpacked: 1, objects: 1}); err != nil || len(lacks) != 0 {
		t.Errorf("%q, %v", lacks, err)
	}
}
