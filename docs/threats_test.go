package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")

// TestThreatsNameTests: every test that the pages on security, and the page of rows, name is there.
func TestThreatsNameTests(t *testing.T) {
	there := map[string]bool{}
	folders(t, func(dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
					there[fn.Name.Name] = true
				}
			}
		}
	})
	named := 0
	for _, page := range []string{"threats.md", "rows.md", "../SECURITY.md"} {
		for _, m := range testName.FindAllStringSubmatch(read(t, page), -1) {
			named++
			if !there[m[1]] {
				t.Errorf("%s names %s, and there is no such test", page, m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("found %d names of tests", named)
	}
}

// TestRowsHaveTests: each row of rows.md names a test, or a command of the Makefile.
func TestRowsHaveTests(t *testing.T) {
	rows := 0
	for line := range strings.Lines(read(t, "rows.md")) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| row ") {
			continue
		}
		rows++
		if !testName.MatchString(line) {
			t.Errorf("no test is named in: %s", line)
		}
	}
	if rows < 40 {
		t.Errorf("found %d rows: has the form changed?", rows)
	}
}
