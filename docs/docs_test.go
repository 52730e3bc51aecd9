// Package docs tests that what is written about the programs is true of them.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder, as tests of this package see it.
const root = ".."

// folders calls visit for every folder of the project that is its own.
func folders(t *testing.T, visit func(dir string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		visit(path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPackagesSayWhatTheyAreFor: every package has a doc comment, which begins as go doc wants it.
func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	packages := 0
	folders(t, func(dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		name, doc := "", ""
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			name = f.Name.Name
			if text := f.Doc.Text(); text != "" {
				if doc != "" {
					t.Errorf("%s: two files say what package %s is for", dir, name)
				}
				doc = text
			}
		}
		if name == "" {
			return
		}
		packages++
		switch {
		case doc == "":
			t.Errorf("%s: package %s does not say what it is for", dir, name)
		case name != "main" && !strings.HasPrefix(doc, "Package "+name+" "):
			t.Errorf("%s: the comment of package %s begins with %q", dir, name, strings.SplitN(doc, "\n", 2)[0])
		}
	})
	if packages < 20 {
		t.Errorf("found %d packages; is %s still the module's root?", packages, root)
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// TestLinksLeadSomewhere: every relative link of a page names a file that is there.
func TestLinksLeadSomewhere(t *testing.T) {
	folders(t, func(dir string) {
		pages, err := filepath.Glob(filepath.Join(dir, "*.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
					t.Errorf("%s: the link to %s leads nowhere", page, m[1])
				}
			}
		}
	})
}

// TestExitCodes: the tables for people list what the one switch returns, and nothing else.
func TestExitCodes(t *testing.T) {
	codes := map[string]bool{}
	ast.Inspect(function(t, "../cmd/ssctl/main.go", "exitCode"), func(n ast.Node) bool {
		if ret, ok := n.(*ast.ReturnStmt); ok {
			codes[ret.Results[0].(*ast.BasicLit).Value] = true
		}
		return true
	})
	row := regexp.MustCompile(`(?m)^\| (\d+) \|`)
	for _, page := range []string{"../README.md", "errors.md"} {
		listed := map[string]bool{}
		for _, m := range row.FindAllStringSubmatch(read(t, page), -1) {
			listed[m[1]] = true
			if !codes[m[1]] {
				t.Errorf("%s lists the exit code %s, which ssctl does not have", page, m[1])
			}
		}
		for code := range codes {
			if !listed[code] {
				t.Errorf("%s does not list the exit code %s", page, code)
			}
		}
	}
}

// TestKinds: every kind of error stands in errors.md.
func TestKinds(t *testing.T) {
	page := read(t, "errors.md")
	f := parse(t, "../fault/fault.go")
	ast.Inspect(f, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			return true
		}
		for _, s := range decl.Specs {
			for _, name := range s.(*ast.ValueSpec).Names {
				if !strings.Contains(page, "`"+name.Name+"`") {
					t.Errorf("errors.md does not say what kind %s means", name.Name)
				}
			}
		}
		return true
	})
}

var (
	schema  = regexp.MustCompile(`ss/[a-z-]+/\d+`)
	jsonTag = regexp.MustCompile(`json:"([a-z_]+)`)
)

// TestJSON: json.md names every document that ssctl prints, and every field in them.
func TestJSON(t *testing.T) {
	page := read(t, "json.md")
	printed := []string{}
	for _, file := range append(goFiles(t, "../cmd/ssctl"), goFiles(t, "../report")...) {
		ast.Inspect(parse(t, file), func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				s, _ := strconv.Unquote(n.Value) // of a number: ""
				printed = append(printed, schema.FindAllString(s, -1)...)
				for _, m := range jsonTag.FindAllStringSubmatch(s, -1) {
					field(t, page, m[1], file)
				}
			case *ast.CompositeLit:
				if typ, ok := n.Type.(*ast.MapType); ok && fmt.Sprint(typ.Value) == "any" {
					for _, e := range n.Elts {
						key, _ := strconv.Unquote(e.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value)
						field(t, page, key, file)
					}
				}
			}
			return true
		})
	}
	for _, f := range []string{"name", "start_ms", "duration_ms"} { // store.CutPhase
		field(t, page, f, "store/types.go")
	}
	for _, s := range printed {
		if !strings.Contains(page, "`"+s+"`") {
			t.Errorf("json.md does not describe %s", s)
		}
	}
	for _, s := range schema.FindAllString(page, -1) {
		if !slices.Contains(printed, s) {
			t.Errorf("json.md describes %s, which ssctl does not print", s)
		}
	}
}

func field(t *testing.T, page, name, file string) {
	t.Helper()
	if !strings.Contains(page, "`"+name+"`") {
		t.Errorf("json.md does not name the field %q of %s", name, file)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func function(t *testing.T, path, name string) *ast.FuncDecl {
	t.Helper()
	for _, d := range parse(t, path).Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == name {
			return fn
		}
	}
	t.Fatalf("%s has no function %s", path, name)
	return nil
}

func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	return slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}
