package files

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhatAFileTakes: a file that is overwritten takes what it grows by, and one that is made takes all of it. A hole takes nothing.
func TestWhatAFileTakes(t *testing.T) {
	const mib = 1 << 20
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, make([]byte, mib), 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 64*mib)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	there := st.Blocks * 512
	for name, tt := range map[string]struct {
		source Source
		want   int64
	}{
		"the same file":        {Source{Stored: Stored{Path: path, Size: 64*mib + 1, Blocks: there, Dev: st.Dev, Ino: st.Ino}, InPlace: true}, 0},
		"the same file, grown": {Source{Stored: Stored{Path: path, Size: 64*mib + 1, Blocks: there + mib, Dev: st.Dev, Ino: st.Ino}, InPlace: true}, mib},
		"another file there":   {Source{Stored: Stored{Path: path, Size: 64*mib + 1, Blocks: there, Dev: st.Dev, Ino: st.Ino + 1}, InPlace: true}, there},
		"elsewhere":            {Source{Stored: Stored{Path: path, Size: 9 * mib, Blocks: 9 * mib}}, 9*mib - there},
		"missing":              {Source{Stored: Stored{Path: path + "2", Size: 9 * mib, Blocks: mib}}, mib},
		"a hole":               {Source{Stored: Stored{Path: path + "2", Size: 9 * mib, Modified: 1}}, 0},
		"of an earlier cut":    {Source{Stored: Stored{Path: path + "2", Size: 9 * mib}}, 9 * mib},
		"without a name":       {Source{Stored: Stored{Gone: []string{path}, Deleted: true, Size: 9 * mib, Blocks: mib}}, mib},
	} {
		t.Run(name, func(t *testing.T) {
			tt.source.UID, tt.source.GID = os.Getuid(), os.Getgid()
			if taken, err := Check(tt.source); err != nil || taken.Grown != tt.want {
				t.Errorf("%+v, %v, want %d", taken, err, tt.want)
			}
		})
	}
}
