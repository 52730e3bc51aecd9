package files

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// opening are the functions that open, change or make what a path leads to.
var opening = map[string]string{
	"os":       " Open OpenFile Create ReadFile WriteFile Chown Lchown Chmod Truncate Rename Link Symlink Mkfifo ",
	"unix":     " Open Openat Openat2 Creat Chown Lchown Chmod Fchmodat Fchownat Truncate Rename Renameat Renameat2 Link Linkat Symlink Mkfifo Mknod ",
	"syscall":  " Open Creat Chown Lchown Chmod Truncate Rename Link Symlink Mkfifo Mknod ",
	"elf":      " Open ",
	"filepath": " Walk WalkDir ",
}

// own says of each file of the agent that opens paths why no member can influence them.
var own = map[string]string{
	"alias/alias.go": "the folder of a member's cgroup, which root alone makes",
	"cell/adopt.go":  "the state folder", "cell/state.go": "the state folder", "cell/waits/record.go": "the state folder",
	"cell/cgroup.go": "cgroups", "cgroup/cgroup.go": "cgroups", "cgroup/freeze.go": "cgroups", "cgroup/kill.go": "cgroups",
	"cell/init.go":  "/dev/null, the cgroup of the member; the log goes through Append",
	"cell/watch.go": "the lock in the state folder", "cell/terminals.go": "/dev/ptmx, before the member runs",
	"criu/errors.go": "CRIU's logs, in folders of 0700", "criu/hand.go": "images, in folders of 0700",
	"criu/image/codec.go":   "images, in folders of 0700",
	"criu/image/hand.go":    "images, in folders of 0700",
	"criu/image/omitted.go": "images, in folders of 0700",
	"criu/image/pages.go":   "images, in folders of 0700",
	"criu/image/rewrite.go": "images, in folders of 0700",
	"criu/image/sockets.go": "images, in folders of 0700",
	"criu/image/unsent.go":  "images, in folders of 0700",
	"criu/keeper.go":        "the work folder, cgroups; what is handed goes through Hold",
	"criu/operation.go":     "the work folder", "criu/restore.go": "the work folder",
	"criu/omit.go": "images, in folders of 0700", "criu/show.go": "the work folder",
	"memory/staging.go": "the staging folder", "memory/tracker.go": "cgroups", "memory/twin_amd64.go": "the lock in the state folder",
	"custody/export.go": "images", "holdings.go": "images", "custody/import.go": "images", "files.go": "images", "outcome.go": "images", "fate.go": "notes in the state folder",
	"standing_file.go": "the state folder", "hear.go": "the state folder",
	"journal.go": "the state folder", "restore.go": "the work folder", "logs.go": "opened with O_PATH, and asked for its file system alone",
}

// TestNothingElseOpensPaths reads the source of the agent. A file that opens a path is to go through this package, or stand in the list above with
// the reason why no member can influence the path. What package proc names, or begins with "/sys/" in the source, is the kernel's.
func TestNothingElseOpensPaths(t *testing.T) {
	found := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), "../")
		if dir := filepath.Dir(path); dir == filepath.Join("..", "files") || dir == filepath.Join("..", "proc") || strings.HasSuffix(dir, "test") {
			return nil // custodytest is for tests
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !opens(call) || len(call.Args) > 0 && kernels(call.Args[0]) {
				return true
			}
			found++
			if own[name] == "" {
				t.Errorf("%s: open it through agent/files, or say in the list of this test why no member can influence the path", set.Position(call.Pos()))
			}
			return true
		})
		return nil
	})
	if err != nil || found < 20 {
		t.Errorf("%d calls found: %v", found, err)
	}
}

func opens(call *ast.CallExpr) bool {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := fun.X.(*ast.Ident)
	return ok && strings.Contains(opening[pkg.Name], " "+fun.Sel.Name+" ")
}

// kernels says whether an expression is a path that package proc names, or its leftmost string begins with /sys/.
func kernels(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return strings.HasPrefix(e.Value, `"/sys/`)
	case *ast.BinaryExpr:
		return kernels(e.X)
	case *ast.CallExpr:
		if fun, ok := e.Fun.(*ast.SelectorExpr); ok {
			if pkg, ok := fun.X.(*ast.Ident); ok && pkg.Name == "proc" {
				return true
			}
		}
		return len(e.Args) > 0 && kernels(e.Args[0])
	}
	return false
}
