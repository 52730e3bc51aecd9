package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ss/store/blob"
)

const crashName = "job/objects/one"

// crashContent is written in more than one piece.
var crashContent = bytes.Repeat([]byte("0123456789abcdef"), 40_000)

// stories are what may be interrupted. Each ends with the object, or without.
var stories = map[string]struct {
	before bool // the object is there
	run    func(d *blob.Dir) error
	after  bool
}{
	"put": {
		run: func(d *blob.Dir) error {
			return d.Put(context.Background(), crashName, bytes.NewReader(crashContent), int64(len(crashContent)))
		},
		after: true,
	},
	"put again": {
		before: true,
		run: func(d *blob.Dir) error {
			return d.Put(context.Background(), crashName, bytes.NewReader(crashContent), int64(len(crashContent)))
		},
		after: true,
	},
	"commit":       {run: commit, after: true},
	"commit again": {before: true, run: commit, after: true},
	"remove": {
		before: true,
		run:    func(d *blob.Dir) error { return d.Remove(context.Background(), crashName) },
	},
}

func commit(d *blob.Dir) error {
	in, err := d.Create(context.Background())
	if err != nil {
		return err
	}
	for p := range slices.Chunk(crashContent, 100_000) {
		if _, err := in.Write(p); err != nil {
			return errors.Join(err, in.Discard())
		}
	}
	return in.Commit(crashName)
}

func openDir(t *testing.T, root string, before bool) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if before {
		if err := stories["put"].run(d); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// there says whether the object is there, and fails the test if it is not whole.
func there(t *testing.T, d *blob.Dir) bool {
	t.Helper()
	n := 0
	for info, err := range d.List(t.Context(), "") {
		if err != nil || info.Name != crashName {
			t.Fatalf("listed: %+v, %v", info, err)
		}
		n++
	}
	r, err := d.Get(t.Context(), crashName, 0, -1)
	if errors.Is(err, blob.ErrNotFound) && n == 0 {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, crashContent) {
		t.Fatalf("an object is visible that is not whole: %d bytes, %v", len(got), err)
	}
	return true
}

// leftovers lists everything below root but the object, its folders, and the folder of what has no name yet.
func leftovers(t *testing.T, d *blob.Dir, root string) []string {
	t.Helper()
	keep := []string{".", blob.IncomingName}
	if there(t, d) {
		keep = append(keep, "job", "job/objects", crashName)
	}
	var left []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, path); !slices.Contains(keep, rel) {
			left = append(left, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// clean is the start of a process after whatever happened: nothing but the object is left, and the story can be told to its end.
func clean(t *testing.T, root, story string) {
	t.Helper()
	d := openDir(t, root, false)
	was := there(t, d)
	if err := d.RemovePartials(0); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, d, root); there(t, d) != was || len(left) != 0 {
		t.Fatalf("cleaning: there %v, then %v, and %q", was, there(t, d), left)
	}
	if err := stories[story].run(d); err != nil || there(t, d) != stories[story].after {
		t.Fatalf("once more: %v, there: %v", err, there(t, d))
	}
}

var errInjected = errors.New("injected")

// TestErrorAtEachStep fails one operation at a time. The object is whole or absent, and nothing is left that RemovePartials
// does not remove.
func TestErrorAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				root := filepath.Join(t.TempDir(), "root")
				d := openDir(t, root, story.before)
				i, failed := 0, ""
				d.Step = func(op, path string, _ int) error {
					if i++; i == n {
						failed = op + " " + path
						return errInjected
					}
					return nil
				}
				err := story.run(d)
				d.Step = nil
				if failed == "" {
					if err != nil || there(t, d) != story.after {
						t.Fatalf("in peace: %v, there: %v", err, there(t, d))
					}
					t.Logf("%d steps", n-1)
					return
				}
				// What comes after the object is durable, or gone, may fail quietly: it is tidiness.
				quiet := strings.HasPrefix(failed, "remove ") && failed != "remove "+d.Path(crashName)
				if !errors.Is(err, errInjected) && (err != nil || !quiet) {
					t.Fatalf("failed at %s: %v", failed, err)
				}
				if err == nil && there(t, d) != story.after {
					t.Fatalf("failed at %s without an error, there: %v", failed, there(t, d))
				}
				clean(t, root, name)
			}
		})
	}
}

// child is the process that ends at a step.
func child(root, story, step string) int {
	d, err := blob.OpenDir(root)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	last, err := strconv.Atoi(step)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	n := 0
	d.Step = func(string, string, int) error {
		if n++; n > last {
			os.Exit(died)
		}
		return nil
	}
	if err := stories[story].run(d); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// died is the exit status of a child that ended at its step.
const died = 77

// TestEndAtEachStep ends a process before each operation.
func TestEndAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				root := filepath.Join(t.TempDir(), "root")
				d := openDir(t, root, story.before)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "BLOB_TEST_CHILD="+root, "BLOB_TEST_STORY="+name, "BLOB_TEST_STEP="+strconv.Itoa(n))
				out, err := cmd.CombinedOutput()
				if err == nil {
					if there(t, d) != story.after {
						t.Fatalf("in peace, there: %v", there(t, d))
					}
					return
				}
				if cmd.ProcessState.ExitCode() != died {
					t.Fatalf("step %d: %v: %s", n, err, out)
				}
				clean(t, root, name)
			}
		})
	}
}

// TestDiskFull fills the disk at 64 places of an object, and at each operation that needs room. Nothing is left, not even in part, and once
// there is room the same object comes in.
func TestDiskFull(t *testing.T) {
	for name, story := range stories {
		if story.before {
			continue
		}
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			d := openDir(t, root, false)
			for i := range 64 {
				room := i * len(crashContent) / 64
				full := []error{syscall.ENOSPC, syscall.EDQUOT}[i%2]
				d.Step = func(op, _ string, n int) error {
					if op != "write" {
						return nil
					}
					if room -= n; room < 0 {
						return full
					}
					return nil
				}
				wantFull(t, d, root, story.run(d))
			}
			for _, op := range []string{"create", "sync", "mkdir", "rename"} {
				d.Step = func(at, _ string, _ int) error {
					if at == op {
						return syscall.ENOSPC
					}
					return nil
				}
				wantFull(t, d, root, story.run(d))
			}
			d.Step = nil
			if err := story.run(d); err != nil || !there(t, d) {
				t.Fatalf("with room again: %v", err)
			}
		})
	}
}

func wantFull(t *testing.T, d *blob.Dir, root string, err error) {
	t.Helper()
	d.Step = nil
	if !errors.Is(err, blob.ErrFull) || there(t, d) {
		t.Fatalf("error %v, there: %v", err, there(t, d))
	}
	left := leftovers(t, d, root)
	left = slices.DeleteFunc(left, func(path string) bool { return path == "job" || path == "job/objects" }) // empty folders
	if len(left) != 0 {
		t.Fatalf("left behind: %q", left)
	}
}

// TestDurabilityOrder writes down what is made durable when: nothing gets a name before its bytes are on disk, and Put returns after
// the name is, and those of its folders.
func TestDurabilityOrder(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	d := openDir(t, root, false)
	var trace []string
	d.Step = func(op, path string, _ int) error {
		rel, _ := filepath.Rel(root, path)
		if filepath.Dir(rel) == blob.IncomingName {
			rel = "temporary"
		}
		if step := op + " " + rel; len(trace) == 0 || trace[len(trace)-1] != step {
			trace = append(trace, step)
		}
		return nil
	}
	if err := stories["put"].run(d); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create temporary", "mkdir .incoming", "write temporary", "sync temporary", "mkdir job", "mkdir job/objects", "rename job/objects/one",
		"syncdir .", "syncdir job", "syncdir job/objects", "remove temporary",
	}
	if !slices.Equal(trace, want) {
		t.Errorf("put:\n%s", strings.Join(trace, "\n"))
	}
	trace = nil
	if err := stories["remove"].run(d); err != nil {
		t.Fatal(err)
	}
	want = []string{"remove job/objects/one", "syncdir job/objects", "remove job/objects", "remove job"}
	if !slices.Equal(trace, want) {
		t.Errorf("remove:\n%s", strings.Join(trace, "\n"))
	}
}
