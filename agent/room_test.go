package agent

import (
	"path/filepath"
	"testing"

	"ss/fault"
	"ss/store/images"
)

// TestKeptDumpsGiveWay: a dump that was kept for a restore does not keep the job's next snapshot from its room.
func TestKeptDumpsGiveWay(t *testing.T) {
	dir := t.TempDir()
	s, err := images.Open(filepath.Join(dir, "images"), images.Options{KeepDumps: true, StagingLimit: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w := &work{a: &Agent{cfg: Config{Images: s, ImageDir: filepath.Join(dir, "images"), StagingDir: filepath.Join(dir, "staging")}}}
	seal(t, s, aKey, newKey(t)) // 3 MiB
	if err := w.fits(2 << 20); err != nil {
		t.Error(err)
	}
	if err := w.fits(5 << 20); !fault.Is(err, fault.Refused) {
		t.Errorf("more than the limit: %v", err)
	}
}
