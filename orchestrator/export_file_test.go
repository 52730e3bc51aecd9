package orchestrator

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"ss/fault"
)

// TestWholeFile: one export at a time writes a file, what a dead one left is written over, and nothing is ever replaced.
func TestWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cut.tar")
	write := func(text string) error {
		return wholeFile(path, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	}
	if err := os.WriteFile(path+".partial", []byte("of one that died, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	var second error
	err := wholeFile(path, func(w io.Writer) error {
		second = write("second")
		_, err := io.WriteString(w, "first")
		return err
	})
	if err != nil || !fault.Is(second, fault.Conflict) {
		t.Fatalf("%v; beside it: %v", err, second)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "first" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := write("third"); !fault.Is(err, fault.Conflict) {
		t.Errorf("over a file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	late := wholeFile(path, func(io.Writer) error { return os.WriteFile(path, []byte("came meanwhile"), 0o600) })
	if data, err := os.ReadFile(path); !fault.Is(late, fault.Conflict) || err != nil || string(data) != "came meanwhile" {
		t.Errorf("%v: %q, %v", late, data, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
