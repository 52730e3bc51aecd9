package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecturePointsAtWhatIsThere reads the reading path and the table of architecture.md: every file that is named exists, and a function
// that stands behind a file in the table is in that file.
func TestArchitecturePointsAtWhatIsThere(t *testing.T) {
	text := read(t, "architecture.md")
	_, way, ok := strings.Cut(text, "## A newcomer's way in")
	if !ok {
		t.Fatal("there is no way in")
	}
	files := regexp.MustCompile("`([a-z_/]+/[a-z_]+\\.(?:go|txt))`").FindAllStringSubmatch(way, -1)
	for _, m := range files {
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Errorf("there is no %s", m[1])
		}
	}
	rows := regexp.MustCompile("(?m)^\\| .* \\| `(.*)` \\| `(.*)` \\|$").FindAllStringSubmatch(way, -1)
	for _, m := range rows {
		if !declares(t, "../"+m[1], m[2]) {
			t.Errorf("%s has no function %s", m[1], m[2])
		}
	}
	if len(files) < 20 || len(rows) < 10 {
		t.Errorf("%d files and %d rows were found: has the form changed?", len(files), len(rows))
	}
}

func declares(t *testing.T, path, name string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
			return true
		}
	}
	return false
}
