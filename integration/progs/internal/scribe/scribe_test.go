package scribe

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAnotherBlockIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	s, err := Open(path, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	s.times[7]++
	if err := s.check(7); err == nil {
		t.Error("a block that was not written is taken for one that was")
	}
	if _, err := s.file.WriteAt(s.block(7), s.at(7)); err != nil {
		t.Fatal(err)
	}
	if err := s.check(7); err != nil {
		t.Error(err)
	}
	if err := s.check(8); err != nil {
		t.Error(err)
	}
	older := s.block(7)
	s.times[7]++
	if _, err := s.file.WriteAt(older, s.at(7)); err != nil {
		t.Fatal(err)
	}
	if err := s.check(7); err == nil {
		t.Error("an older block is taken for the last one")
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<30 {
		t.Errorf("%v, %v", st, err)
	}
}
