package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOrder(t *testing.T) {
	p := spread{first: []string{"TestLong"}, alone: []string{"TestMeasures"}}
	together, alone, err := p.order([]string{"TestA", "TestMeasures", "TestB", "TestLong"})
	if err != nil || !slices.Equal(together, []string{"TestLong", "TestA", "TestB"}) || !slices.Equal(alone, []string{"TestMeasures"}) {
		t.Errorf("together %v, alone %v, error %v", together, alone, err)
	}
	if _, _, err := p.order([]string{"TestA", "TestLong"}); err == nil || !strings.Contains(err.Error(), "TestMeasures") {
		t.Errorf("a test that is gone: error %v", err)
	}
}

// TestSpread runs real test processes side by side: one test passes, one fails, one ends its process.
func TestSpread(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "three.test")
	if out, err := exec.Command("go", "test", "-c", "-o", binary, "./testdata/three").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out strings.Builder
	s := newSummary(&out, "three")
	p := spread{pkg: "three", binary: binary, goCommand: "go", dir: t.TempDir(), atOnce: 3, timeout: "1m"}
	s.apart = p.pkg
	if err := p.run(s); err != nil {
		t.Fatal(err)
	}
	if s.close() {
		t.Error("the verdict is good")
	}
	for _, want := range []string{"PASS TestGood (", "FAIL three TestBad (", "because", "FAIL three TestEnds (", "1 passed, 2 failed, 0 skipped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}
