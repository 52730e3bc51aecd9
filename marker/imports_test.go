package marker

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImports fails when the core imports anything that could do I/O, start something, read a clock or choose.
func TestImports(t *testing.T) {
	allowed := []string{"cmp", "crypto/sha256", "encoding/binary", "errors", "fmt", "maps", "slices", "strconv", "strings"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s; the core may import %v only (doc.go says why)", file, path, allowed)
			}
		}
	}
}
