package images

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// stories are what may be interrupted. In the store lies key1, committed, from the start, and must not be lost. Each story is about key2, which shares
// objects with it; whole says whether key2 is whole before.
var stories = map[string]struct {
	whole bool
	heal  bool                         // key2 is damaged before; it is whole after a run in peace
	spoil func(t testing.TB, s *Store) // in peace, after the sets were made
	run   func(s, other *Store) error
	want  string // what key2 is after a run in peace: "doubt", "committed" or ""
}{
	"seal": {
		run: func(s, _ *Store) error {
			if _, err := store(s, key2, changed(5)); err != nil {
				return err
			}
			return s.Commit(key2)
		},
		want: "committed",
	},
	"fetch": {
		run: func(s, other *Store) error {
			_, err := s.Fetch(context.Background(), key2, "", false, []Source{asSource("hostB", other)})
			return err
		},
		want: "doubt",
	},
	"receive": {
		run: func(s, other *Store) error {
			_, err := other.Push(context.Background(), key2, asPeer(s))
			return err
		},
		want: "doubt",
	},
	"remove": {
		whole: true,
		run: func(s, _ *Store) error {
			if err := s.Remove(key2); err != nil {
				return err
			}
			_, err := s.Collect(context.Background(), "", false)
			return err
		},
		want: "",
	},
	"heal": {
		whole: true, heal: true,
		spoil: func(t testing.TB, s *Store) {
			m, err := s.Manifest(key2)
			ok(t, err)
			flip(t, s.objects.Path(ObjectName("ring", m.Packs[len(m.Packs)-1].Digest)), 1000)
			ok(t, os.Remove(s.objects.Path(ObjectName("ring", m.Index.Digest))))
			flip(t, s.objects.Path(SetName(key2)), 700)
		},
		run: func(s, other *Store) error {
			_, err := s.Fetch(context.Background(), key2, "", false, []Source{asSource("hostB", other)})
			return err
		},
		want: "committed",
	},
}

// scene is a store as a story finds it, and another that has both sets and is only read. It is played many times, on copies.
func scene(t testing.TB, story string) (s, other *Store) {
	t.Helper()
	s, other = reopen(t, filepath.Join(t.TempDir(), "images")), reopen(t, filepath.Join(t.TempDir(), "images"))
	sealed(t, other, key1, sample())
	sealed(t, other, key2, changed(5))
	ok(t, other.Commit(key2))
	ctx, from := context.Background(), []Source{asSource("hostB", other)}
	_, err := s.Fetch(ctx, key1, "", false, from)
	ok(t, err)
	ok(t, s.Commit(key1))
	if stories[story].whole {
		_, err := s.Fetch(ctx, key2, "", false, from)
		ok(t, err)
		ok(t, s.Commit(key2))
	}
	if stories[story].spoil != nil {
		stories[story].spoil(t, s)
	}
	return s, other
}

func reopen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	ok(t, err)
	return s
}

// copyOf is another store with the same in it.
func copyOf(t testing.TB, s *Store) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	ok(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(dir, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o600)
	}))
	return reopen(t, dir)
}

// stateOf says what key2 is, and fails the test if a set that can be seen is not whole. A set that was damaged before may still be.
func stateOf(t testing.TB, s *Store, damaged bool) string {
	t.Helper()
	sets, err := s.Sets()
	ok(t, err)
	found := map[Key]string{}
	for _, set := range sets {
		found[set.Key] = "doubt"
		if set.Committed {
			found[set.Key] = "committed"
		}
		if damaged && set.Key == key2 {
			continue
		}
		if _, err := s.VerifyData(context.Background(), set.Key, "", jobKey); err != nil {
			t.Fatalf("%s can be seen and is not whole: %v", set.Key, err)
		}
	}
	if found[key1] != "committed" {
		t.Fatalf("the committed set is lost: %v", found)
	}
	return found[key2]
}

// after is the start of an agent after whatever happened: what is left must be consistent, and the story must go well now.
func after(t testing.TB, s, other *Store, name, before, at string) {
	t.Helper()
	ctx, story := context.Background(), stories[name]
	s = reopen(t, s.dir)
	ok(t, s.RemovePartials(ctx))
	state := stateOf(t, s, story.heal)
	allowed := state == before || state == story.want || state == "doubt"
	if !allowed {
		t.Fatalf("%s: %q became %q", at, before, state)
	}
	if !story.heal {
		if err := s.Check(ctx); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
	}
	if err := story.run(s, other); err != nil && !errors.Is(err, ErrExists) {
		t.Fatalf("%s, and then: %v", at, err)
	}
	ok(t, s.RemovePartials(ctx))
	if err := s.Check(ctx); err != nil {
		t.Fatalf("%s, and done again: %v", at, err)
	}
	stateOf(t, s, false)
}

// steps lets f be asked before every operation on the file system.
func steps(s *Store, f func(op, path string, n int) error) {
	s.step, s.objects.Step = f, f
}

var errInjected = errors.New("injected")

// TestErrorAtEachStep fails one operation at a time.
func TestErrorAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			played, other := scene(t, name)
			for n := 0; ; n++ {
				s := copyOf(t, played)
				before := stateOf(t, s, story.heal)
				var mu sync.Mutex
				i, failed := 0, ""
				steps(s, func(op, path string, _ int) error {
					mu.Lock()
					defer mu.Unlock()
					if i++; i == n+1 {
						failed = "failed at " + op + " " + path
						return fmt.Errorf("%s: %w", op, errInjected)
					}
					return nil
				})
				err := story.run(s, other)
				steps(s, nil)
				state := stateOf(t, s, story.heal && err != nil)
				if failed == "" {
					if err != nil || state != story.want {
						t.Fatalf("in peace: %v, %q", err, state)
					}
					t.Logf("%d steps", n)
					return
				}
				// Tidying up may fail without a word.
				if err != nil {
					wantErr(t, err, errInjected)
				} else if state != story.want {
					t.Fatalf("%s without a word, and now it is %q", failed, state)
				}
				after(t, s, other, name, before, failed)
			}
		})
	}
}

// TestMain lets the test program be an agent that is killed at a step.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGES_TEST_CHILD"); dir != "" {
		if err := child(dir, os.Getenv("IMAGES_TEST_OTHER"), os.Getenv("IMAGES_TEST_STORY"), os.Getenv("IMAGES_TEST_STEP")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if *benchTable {
		os.Exit(printTable())
	}
	os.Exit(m.Run())
}

func child(dir, otherDir, story, step string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	other, err := Open(otherDir, Options{})
	if err != nil {
		return err
	}
	last, err := strconv.Atoi(step)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	n := 0
	steps(s, func(string, string, int) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; n > last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	})
	return stories[story].run(s, other)
}

// TestKilledAtEachStep does the same with SIGKILL in a process of its own.
func TestKilledAtEachStep(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			played, other := scene(t, name)
			for n := 0; ; n++ {
				s := copyOf(t, played)
				before := stateOf(t, s, story.heal)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "IMAGES_TEST_CHILD="+s.dir, "IMAGES_TEST_OTHER="+other.dir, "IMAGES_TEST_STORY="+name, "IMAGES_TEST_STEP="+strconv.Itoa(n))
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				out, err := cmd.CombinedOutput()
				state := stateOf(t, s, story.heal && err != nil)
				if err == nil {
					if state != story.want {
						t.Fatalf("in peace: %q", state)
					}
					return
				}
				if status, isWait := cmd.ProcessState.Sys().(syscall.WaitStatus); !isWait || !status.Signaled() {
					t.Fatalf("step %d: %v: %s", n, err, out)
				}
				after(t, s, other, name, before, fmt.Sprintf("killed at step %d", n))
			}
		})
	}
}

// TestDiskFull lets the disk be full after so many bytes, at 64 places.
func TestDiskFull(t *testing.T) {
	const places = 64
	content := files{"hostA-1/pages-1.img": random(8<<20, 3), "hostA-1/core-1.img": []byte("registers")}
	ctx := context.Background()
	total := 0
	var mu sync.Mutex
	limited := func(limit int) func(op, path string, n int) error {
		written := 0
		return func(op, _ string, n int) error {
			mu.Lock()
			defer mu.Unlock()
			if written += n; op == "write" || op == "create" {
				total = written
				if limit >= 0 && written > limit {
					return syscall.ENOSPC
				}
			}
			return nil
		}
	}
	s := newStore(t)
	s.objects.Step = limited(-1)
	sealed(t, s, key1, content)
	all := total
	base := newStore(t)
	sealed(t, base, key1, sample())
	for i := range places {
		s := copyOf(t, base)
		before := objectsOf(t, s, "ring")
		p, err := s.Begin(key2)
		ok(t, err)
		ok(t, fill(p, content))
		steps(s, limited(all*i/places))
		_, err = p.Seal(ctx, infoOf(key2))
		steps(s, nil)
		wantErr(t, err, ErrNoSpace, s.dir)
		if sets, err := s.Sets(); err != nil || len(sets) != 1 {
			t.Fatal(sets, err)
		}
		if now := objectsOf(t, s, "ring"); len(now) != len(before) {
			t.Fatalf("what was stored in vain still takes room: %q", now)
		}
		m, err := p.Seal(ctx, infoOf(key2))
		ok(t, err)
		if i%16 == 0 {
			ok(t, s.Check(ctx))
			same(t, s, key2, m.Manifest.Digest, content)
			same(t, s, key1, "", sample())
		}
	}
}
