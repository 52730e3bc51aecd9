package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// stories are what may be interrupted. Each works on a store in which the sample lies under the key (in
// source, for Receive) or not, and ends with a whole set, or with none.
var stories = map[string]struct {
	prepare func(t testing.TB, s *Store) // in peace
	run     func(s, source *Store) error
	want    string // what is there after a run in peace: "doubt", "committed" or ""
}{
	"seal": {
		run: func(s, _ *Store) error {
			p, err := s.Begin(testKey)
			if err != nil {
				return err
			}
			if err := fill(p); err != nil {
				return errors.Join(err, p.Discard())
			}
			if _, err := p.Seal(context.Background(), info); err != nil {
				return errors.Join(err, p.Discard())
			}
			return nil
		},
		want: "doubt",
	},
	"receive": {
		run: func(s, source *Store) error {
			r, err := s.Receive(testKey, "")
			if err != nil {
				return err
			}
			if err := source.Send(context.Background(), testKey, r.Put); err != nil {
				return errors.Join(err, r.Discard())
			}
			if _, err := r.Seal(context.Background()); err != nil {
				return errors.Join(err, r.Discard())
			}
			return nil
		},
		want: "doubt",
	},
	"commit": {
		prepare: func(t testing.TB, s *Store) { sealed(t, s, testKey) },
		run:     func(s, _ *Store) error { return s.Commit(testKey) },
		want:    "committed",
	},
	"remove": {
		prepare: func(t testing.TB, s *Store) { sealed(t, s, testKey); check(t, s.Commit(testKey)) },
		run:     func(s, _ *Store) error { return s.Remove(testKey) },
		want:    "",
	},
}

// state says what is there, and fails the test if it is anything but whole.
func state(t testing.TB, s *Store) string {
	t.Helper()
	sets, err := s.Sets()
	check(t, err)
	if len(sets) == 0 {
		return ""
	}
	if len(sets) != 1 || sets[0].Key != testKey {
		t.Fatalf("sets: %v", sets)
	}
	if _, err := s.Verify(context.Background(), testKey, ""); err != nil {
		t.Fatalf("a set is visible that is not whole: %v", err)
	}
	if sets[0].Committed {
		return "committed"
	}
	return "doubt"
}

var errInjected = errors.New("injected")

// TestErrorAtEachStep fails one operation at a time. The story says so, leaves either the old or the new state, and
// nothing partial once the fault is gone and the agent has started anew.
func TestErrorAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			source := newStore(t)
			sealed(t, source, testKey)
			for n := 0; ; n++ {
				s := newStore(t)
				if story.prepare != nil {
					story.prepare(t, s)
				}
				before := state(t, s)
				var mu sync.Mutex
				i, failed := 0, ""
				s.step = func(op, path string) error {
					mu.Lock()
					defer mu.Unlock()
					if i++; i == n+1 {
						failed = op + " " + path
						return fmt.Errorf("%s: %w", op, errInjected)
					}
					return nil
				}
				err := story.run(s, source)
				s.step = nil
				after := state(t, s)
				if failed == "" {
					if err != nil || after != story.want {
						t.Fatalf("in peace: %v, %q", err, after)
					}
					t.Logf("%d steps", n)
					return
				}
				wantErr(t, err, errInjected)
				if after != before && after != story.want {
					t.Fatalf("failed at %s: %q became %q", failed, before, after)
				}
				if (name == "seal" || name == "receive") && after != "" {
					t.Fatalf("failed at %s, and yet there is a set %q", failed, after)
				}
				clean(t, s, after)
			}
		})
	}
}

// clean is the start of an agent after whatever happened.
func clean(t testing.TB, s *Store, want string) {
	t.Helper()
	check(t, s.RemovePartials(nil))
	if keys, err := s.Partials(); err != nil || len(keys) != 0 {
		t.Fatalf("partials: %v, %v", keys, err)
	}
	if got := state(t, s); got != want {
		t.Fatalf("cleaning made %q of %q", got, want)
	}
	if left := tree(t, s.dir); want == "" && len(left) != 0 {
		t.Fatalf("left behind: %q", left)
	}
}

// TestMain lets the test program be an agent that is killed at a step.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGES_TEST_CHILD"); dir != "" {
		if err := child(dir, os.Getenv("IMAGES_TEST_SOURCE"), os.Getenv("IMAGES_TEST_STORY"), os.Getenv("IMAGES_TEST_STEP")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(dir, sourceDir, story, step string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	source, err := Open(sourceDir)
	if err != nil {
		return err
	}
	last, err := strconv.Atoi(step)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	n := 0
	s.step = func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; n > last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	return stories[story].run(s, source)
}

// TestKilledAtEachStep does the same with SIGKILL in a process of its own.
func TestKilledAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := newStore(t)
			sealed(t, source, testKey)
			for n := 0; ; n++ {
				s := newStore(t)
				if story.prepare != nil {
					story.prepare(t, s)
				}
				before := state(t, s)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "IMAGES_TEST_CHILD="+s.dir, "IMAGES_TEST_SOURCE="+source.dir, "IMAGES_TEST_STORY="+name, "IMAGES_TEST_STEP="+strconv.Itoa(n))
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				out, err := cmd.CombinedOutput()
				after := state(t, s)
				if err == nil {
					if after != story.want {
						t.Fatalf("in peace: %q", after)
					}
					return
				}
				if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
					t.Fatalf("step %d: %v: %s", n, err, out)
				}
				if after != before && after != story.want {
					t.Fatalf("killed at step %d: %q became %q", n, before, after)
				}
				clean(t, s, after)
			}
		})
	}
}

// TestDurabilityOrder writes down what is made durable when: nothing gets a name before what it names is on disk.
func TestDurabilityOrder(t *testing.T) {
	source := newStore(t)
	sealed(t, source, testKey)
	for _, name := range []string{"seal", "receive"} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var mu sync.Mutex
			var trace []string
			s.step = func(op, path string) error {
				mu.Lock()
				defer mu.Unlock()
				rel, _ := filepath.Rel(s.dir, path)
				trace = append(trace, op+" "+rel)
				return nil
			}
			check(t, stories[name].run(s, source))
			s.step = nil
			partial := "ring/" + testKey.Snapshot + "/.hostA.partial"
			index := func(step string) int {
				i := slices.Index(trace, step)
				if i < 0 {
					t.Fatalf("no %q in\n%s", step, strings.Join(trace, "\n"))
				}
				return i
			}
			manifest := index("create " + partial + "/manifest.json")
			for path := range content() {
				for _, dir := range parents(path) {
					if i := index("syncdir " + partial + "/" + dir); i > manifest {
						t.Errorf("folder %s is durable only after the manifest", dir)
					}
				}
				if index("sync "+partial+"/"+path) > manifest {
					t.Errorf("%s is durable only after the manifest", path)
				}
			}
			last := []string{
				"create " + partial + "/manifest.json", "syncdir " + partial,
				"rename " + partial, "syncdir ring/" + testKey.Snapshot,
			}
			if got := trace[len(trace)-len(last):]; !slices.Equal(got, last) {
				t.Errorf("the end is\n%s", strings.Join(got, "\n"))
			}
			if index("syncdir .") > manifest || index("syncdir ring") > manifest {
				t.Error("the folders above the set are not durable in time")
			}
		})
	}
}
