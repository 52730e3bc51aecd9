package proc

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestAvailable asks the kernel what this host could give, and the cgroups of this process what they leave.
func TestAvailable(t *testing.T) {
	free, err := Available()
	if err != nil || free < 1<<20 {
		t.Errorf("%d bytes are available: %v", free, err)
	}
	left, err := CgroupMemory(os.Getpid())
	if err != nil || left < 1<<20 {
		t.Errorf("cgroups leave %d bytes: %v", left, err)
	}
}

// TestLeftIn reads folders like those of cgroups.
func TestLeftIn(t *testing.T) {
	for _, row := range []struct {
		name, limit, used, stat string
		want                    int64
	}{
		{"none", "", "", "", math.MaxInt64},
		{"unlimited", "max\n", "1000\n", "inactive_file 10\n", math.MaxInt64},
		{"limited", "9000\n", "8000\n", "anon 7000\ninactive_file 500\ntotal_inactive_file 600\n", 1500},
		{"over", "9000\n", "9500\n", "anon 9500\n", -500},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"limit": row.limit, "used": row.used, "memory.stat": row.stat} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := leftIn(dir, "limit", "used"); err != nil || got != row.want {
			t.Errorf("%s: %d, %v, want %d", row.name, got, err, row.want)
		}
	}
}
