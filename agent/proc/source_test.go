package proc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// naming are calls that may name a path in /proc, since they read nothing: they compare a path with it, mount it, or run the program that
// it leads to (its own, even if another version has its name now).
var naming = map[string]bool{"strings.HasPrefix": true, "unix.Mount": true, "exec.CommandContext": true}

// TestNobodyElseReadsProc reads the source of the module. Only this package may make a path in /proc, and nothing may read memory by process_vm_readv(2). Tests may, to check on it, and so may
// integration/, which is not part of what runs on a host.
func TestNobodyElseReadsProc(t *testing.T) {
	files, named := 0, 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch {
			case path == "../../integration", path == "../../agent/proc", path != "../.." && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && names(call) {
				named++
				return false
			}
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "ProcessVMReadv" {
				t.Errorf("%s: it changes the memory that it reads: use proc.Memory", set.Position(sel.Pos()))
			}
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.HasPrefix(strings.Trim(lit.Value, "\"`"), "/proc") {
				t.Errorf("%s: %s: read it through agent/proc", set.Position(lit.Pos()), lit.Value)
			}
			return true
		})
		return nil
	})
	if err != nil || files < 100 || named < 3 {
		t.Errorf("%d files, in which %d calls name it: %v", files, named, err)
	}
}

// names says whether a call is one of naming.
func names(call *ast.CallExpr) bool {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := fun.X.(*ast.Ident)
	return ok && naming[pkg.Name+"."+fun.Sel.Name]
}
