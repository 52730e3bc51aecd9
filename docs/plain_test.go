package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// marks are turns of phrase that people stumble over, with what to write instead. None may be left but what fine matches: "there is no host" and "says who
// holds it" are plain English.
var marks = []struct {
	name, instead string
	pattern       *regexp.Regexp
	fine          *regexp.Regexp // nil: nothing is
}{
	{"anew", "again, new, once more", regexp.MustCompile(`\ba` + `new\b`), nil},
	{"a plural in brackets", "the noun, counted: 1 problem, 2 problems (english.Plural)",
		regexp.MustCompile(`(?:%[dvs]|\b\d+|\b[Tt]he|\b[Nn]o|\b[Aa]ny|\bthings?) ?(?:[a-z]+ )?[a-z]*` + `\(s\)`), nil},
	{"as … has it", "name what says so: the catalogue says", regexp.MustCompile(`\bas (?:the )?\w+ ` + `has it\b`), nil},
	{"is no X", "is not a X, there is no X", regexp.MustCompile(`(?:\b\w+ |\B)(?:is|are) ` + `no (?:\w+)`), regexp.MustCompile(`^[Tt]here |(?:longer|more)$`)},
	{"a sentence that was replaced", "what the README, the help and the errors say now", regexp.MustCompile(strings.Join([]string{`[Ii]t is no high` + ` availability`,
		`moves no job` + ` without`, `[Oo]nly who` + ` has`, `stand in` + ` the way:`, `is no job` + ` name`, `nobody is here` + ` to`, `latest cut of` + ` which job`,
		`its agent will` + ` when it can`, `[Bb]ring cuts back` + ` to`}, "|")), nil},
	{"who without a noun", "the host that, only holders of",
		regexp.MustCompile(`(?m)(?:^|[.:;]|//)[ \t]*[Ww]ho` + ` (?:has|had|is|knows|holds|asks|can)\b`), nil},
}

// TestPlainWords: the manner that issue templates and readers complained of does not come back.
func TestPlainWords(t *testing.T) {
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
		case !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".md") && !strings.HasSuffix(name, ".proto"):
			return nil
		}
		text := read(t, path)
		for _, m := range marks {
			for _, found := range m.pattern.FindAllString(text, -1) {
				if m.fine == nil || !m.fine.MatchString(found) {
					t.Errorf("%s: %q; write %s", path, found, m.instead)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
