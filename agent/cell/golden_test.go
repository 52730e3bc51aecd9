package cell

import (
	"os"
	"path/filepath"
	"testing"

	"ss/agent/proc"
)

// TestMembersOf94ec08b: what an agent of that version, and the PID 1 of its cells, wrote of a member is read, with all that it says. It needs no root.
func TestMembersOf94ec08b(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/94ec08b")); err != nil {
		t.Fatal(err)
	}
	g := &Manager{cfg: Config{StateDir: dir}}
	all, err := g.records()
	if err != nil || len(all) != 1 {
		t.Fatalf("records %+v, %v", all, err)
	}
	r := all[0]
	if r.damage != nil || r.Job != "words" || r.Name != "hostB-1" || r.Kind != restored || len(r.Command) != 6 || r.Log != "/srv/words-serve.log" || r.Epoch != 0 {
		t.Errorf("record %+v", r)
	}
	folder := filepath.Join(dir, "members", "words", "hostB-1")
	var init proc.Identity
	var root rootRecord
	var exit exitRecord
	for name, v := range map[string]any{initFile: &init, rootFile: &root, exitFile: &exit} {
		if err := readState(folder, name, v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if init.Alive() || root.InnerPid != 1001 || exit.Status != "signal: killed" {
		t.Errorf("init %+v, root %+v, exit %+v", init, root, exit)
	}
}
