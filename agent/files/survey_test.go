package files

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeletedLargeFiles: CRIU is to copy a file that has no name any more while the members stand still, so what it takes counts for that; more than CRIU can
// take is refused, with path and size.
func TestDeletedLargeFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		size    int64
		refused string
	}{
		"300 MiB":      {300 << 20, ""},
		"4 GiB less 1": {maxGhost, ""},
		"4 GiB":        {maxGhost + 1, "which has 4096 MiB and no name any more"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "deleted-large-file")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(tt.size); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil { // blocks are counted when they are there
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			s, err := Survey(t.Context(), self(), "")
			if err != nil {
				t.Fatal(err)
			}
			refused := ""
			for _, why := range s.Refused {
				if strings.Contains(why, path) {
					refused = why
				}
			}
			if (refused != "") != (tt.refused != "") || !strings.Contains(refused, tt.refused) {
				t.Errorf("refused: %q", refused)
			}
			var counted int64
			for _, l := range s.Largest {
				if strings.HasPrefix(l.Path, path) {
					counted = l.Bytes
				}
			}
			if counted < 1<<20 || counted > 2<<20 || s.Frozen < counted {
				t.Errorf("%d bytes are counted for it, %d in all", counted, s.Frozen)
			}
		})
	}
}
