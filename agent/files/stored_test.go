package files

import (
	"math"
	"path/filepath"
	"testing"
)

// TestStoredFromOutside: descriptions of files that an archive may bring. What Take makes of real files passes.
func TestStoredFromOutside(t *testing.T) {
	good := Stored{Path: "/srv/f", Links: []string{"/srv/g"}, Gone: []string{"/srv/f"}, Name: "0", Size: 1 << 40, Blocks: 4096, Mode: 0o7777, UID: math.MaxUint32 - 1}
	if err := CheckAll([]Stored{good, {Gone: []string{"/srv/h (deleted)"}}, {Gone: []string{"/srv/h (deleted)"}}}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Stored){
		"no name":         func(s *Stored) { s.Path, s.Links, s.Gone = "", nil, nil },
		"a way up":        func(s *Stored) { s.Path = "/srv/../etc/passwd" },
		"relative":        func(s *Stored) { s.Links[0] = "srv/f" },
		"a NUL":           func(s *Stored) { s.Gone[0] = "/srv/f\x00g" },
		"the root":        func(s *Stored) { s.Path = "/" },
		"two slashes":     func(s *Stored) { s.Path = "//srv/f" },
		"less than empty": func(s *Stored) { s.Size = -1 },
		"no blocks":       func(s *Stored) { s.Blocks = math.MinInt64 },
		"a kind in mode":  func(s *Stored) { s.Mode = 0o100644 },
		"no user":         func(s *Stored) { s.UID = -1 },
		"user of nobody":  func(s *Stored) { s.UID = math.MaxUint32 },
		"group too large": func(s *Stored) { s.GID = math.MaxUint32 + 1000 },
		"one name twice":  func(s *Stored) { s.Links[0] = s.Path },
	} {
		s := good
		s.Links, s.Gone = []string{"/srv/g"}, []string{"/srv/f"}
		change(&s)
		if err := CheckAll([]Stored{s}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := CheckAll([]Stored{good, good}); err == nil {
		t.Error("two files of one name: no error")
	}
	if _, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{{Content: "/dev/null"}}); err == nil {
		t.Error("a file without a name was put back")
	}
}
