package custody

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/agent/custody/custodytest"
)

// FuzzImport: whatever somebody sends as an export, nothing is written but below the set's staging folder, and nothing stays.
func FuzzImport(f *testing.F) {
	f.Add([]byte(custodytest.Meta), "hostA-1/images/pages-1.img", int64(4), []byte("page"))
	f.Add([]byte(custodytest.Meta), "hostA-1/../../../x", int64(1), []byte("x"))
	f.Add([]byte(`{"members":{"..":{}}}`), "../x", int64(1), []byte("x"))
	f.Add([]byte(`{"members":null}`), "/", int64(-1), []byte(nil))
	f.Add([]byte(custodytest.Meta), "hostA-1/"+strings.Repeat("x", 300), int64(0), []byte(nil))
	h := newHolder(f)
	f.Fuzz(func(t *testing.T, meta []byte, path string, size int64, data []byte) {
		im, err := h.StartImport(ImportOpen{Key: aKey, Meta: meta})
		if err != nil {
			return
		}
		if err := im.Put(PlainFile{Path: path, Size: size}, bytes.NewReader(data)); err == nil {
			name := filepath.Join(h.cfg.Staging, aKey.Job, aKey.Snapshot, aKey.Host, path)
			got, err := os.ReadFile(name)
			if err != nil || !bytes.Equal(got, data) || !strings.HasPrefix(name, h.cfg.Staging+"/") {
				t.Errorf("%q: %d bytes, %v", path, len(got), err)
			}
		}
		if err := im.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string]int{h.cfg.Staging: 0, h.dir: 1} {
			if left, err := os.ReadDir(dir); err != nil || len(left) != want {
				t.Errorf("in %s there are %v, %v", dir, left, err)
			}
		}
	})
}
