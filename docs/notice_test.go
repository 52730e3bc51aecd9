package docs

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNoticeIsCurrent: NOTICE has the licences of what is linked into the programs, and of nothing else. scripts/notice reads them
// from the module cache, which has them once the programs are built.
func TestNoticeIsCurrent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "scripts/notice")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	want, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/notice: %v\n%s", err, &stderr)
	}
	if got := read(t, "../NOTICE"); got != string(want) {
		t.Error("NOTICE is not what scripts/notice prints: run scripts/notice > NOTICE")
	}
}
