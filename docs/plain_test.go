package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// marks are turns of phrase that people stumble over, with what to write instead, and how many of them the documents and the source may still hold. A
// number only ever falls: whoever mends some lowers it.
var marks = []struct {
	name, instead string
	pattern       *regexp.Regexp
	most          int
}{
	{"anew", "again, new, once more", regexp.MustCompile(`\ba` + `new\b`), 0},
	{"thing(s)", "the noun, counted: 1 problem, 2 problems", regexp.MustCompile(`\bthings?` + `\(s\)`), 0},
	{"as … has it", "name what says so: the catalogue says", regexp.MustCompile(`\bas (?:the )?\w+ ` + `has it\b`), 1},
	{"is no X", "is not a X, there is no X", regexp.MustCompile(`\b(?:is|are) ` + `no (?:\w+)`), 174},
	{"who without a noun", "the host that, only holders of", regexp.MustCompile(`\b[Ww]ho` + ` (?:has|had|is|knows|holds|asks|can)\b`), 74},
}

// TestPlainWords: the manner that issue templates and readers complained of does not come back.
func TestPlainWords(t *testing.T) {
	counts := make([]int, len(marks))
	var found strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		switch {
		case d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata" || name == "adr"):
			return fs.SkipDir
		case d.IsDir(), name == "CHANGELOG.md", name == "plain_test.go", strings.HasSuffix(name, ".pb.go"):
			return nil
		case !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".md"):
			return nil
		}
		text := read(t, path)
		for i, m := range marks {
			for _, at := range m.pattern.FindAllStringIndex(text, -1) {
				counts[i]++
				if m.most == 0 {
					t.Errorf("%s: %q; write %s", path, text[at[0]:at[1]], m.instead)
				}
				found.WriteString(path + ": " + text[at[0]:at[1]] + "\n")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range marks {
		t.Logf("%s: %d of at most %d", m.name, counts[i], m.most)
		if counts[i] > m.most {
			t.Errorf("%q: %d times, at most %d may be left; write %s:\n%s", m.name, counts[i], m.most, m.instead, &found)
		}
	}
}
