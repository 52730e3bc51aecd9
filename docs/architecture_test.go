package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
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

// largePackage and largeInterface are the sizes from which architecture.md must say why a package, or an interface, is whole: lines of a package without its
// tests, and methods that an interface declares itself.
const (
	largePackage   = 2500
	largeInterface = 8
)

// TestLargeThingsAreAnswered: every large package has its row, no row is of a small one, and no interface is large.
func TestLargeThingsAreAnswered(t *testing.T) {
	lines := map[string]int{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".build" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines[filepath.Dir(path)[len("../"):]] += strings.Count(string(text), "\n")
		checkInterfaces(t, path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(read(t, "architecture.md"), "## Large packages")
	section, _, _ = strings.Cut(section, "\n## ")
	answered := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z/]+)` \\|").FindAllStringSubmatch(section, -1) {
		answered[m[1]] = true
	}
	for name, n := range lines {
		if n > largePackage && !answered[name] {
			t.Errorf("%s has %d lines, and architecture.md does not say why it is whole", name, n)
		}
	}
	for name := range answered {
		if lines[name] <= largePackage*9/10 {
			t.Errorf("%s has %d lines: architecture.md need not answer for it", name, lines[name])
		}
	}
}

func checkInterfaces(t *testing.T, path string, text []byte) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok {
			methods := 0
			for _, f := range i.Methods.List {
				methods += len(f.Names) // an embedded interface has none
			}
			if methods > largeInterface {
				t.Errorf("%s declares an interface of %d methods", path, methods)
			}
		}
		return true
	})
}
