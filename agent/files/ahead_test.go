package files

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMend: whatever two files hold, with holes and of any length, a mended copy is equal to the file.
func TestMend(t *testing.T) {
	dir := t.TempDir()
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 60 {
		src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
		for _, path := range []string{src, dst} {
			must(t, os.RemoveAll(path))
			f, err := os.Create(path)
			must(t, err)
			size := r.Int64N(4 << 20)
			must(t, f.Truncate(size))
			for range r.IntN(6) {
				data := bytes.Repeat([]byte{byte(r.IntN(3))}, r.IntN(100_000))
				at := r.Int64N(size + 1)
				_, err := f.WriteAt(data[:min(int64(len(data)), size-at)], at)
				must(t, err)
			}
			must(t, f.Close())
		}
		file, err := os.Open(src)
		must(t, err)
		out, err := os.OpenFile(dst, os.O_RDWR, 0)
		must(t, err)
		want, err := os.ReadFile(src)
		must(t, err)
		must(t, mend(out, file, int64(len(want)), i%2 == 0))
		got, err := os.ReadFile(dst)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("file %d of %d bytes differs from its copy of %d", i, len(want), len(got))
		}
		must(t, file.Close())
		must(t, out.Close())
	}
}

// TestCopiesAhead: a copy that was made before the members stand still is what the file holds when they do: of a file that nobody wrote, that was written
// in place, through a mapping, made longer, or made shorter. One that is closed by then leaves nothing. The member is this process.
func TestCopiesAhead(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	const size = 3 << 20
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return b
	}
	open := map[string]*os.File{}
	for _, name := range []string{"still", "written", "mapped", "longer", "shorter", "closed"} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		defer f.Close()
		_, err = f.Write(random(size))
		must(t, err)
		open[name] = f
	}
	memory, err := unix.Mmap(int(open["mapped"].Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer func() { must(t, unix.Munmap(memory)) }()
	memory[1<<20] ^= 1 // from here on, writes to this page do not change the file's times
	trees := []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}
	s, err := Survey(t.Context(), trees, to)
	must(t, err)
	s.Ahead.clones = nil // on a file system that clones nothing would be copied
	must(t, s.Ahead.Copy(t.Context(), trees, to, func(context.Context) error { return nil }))
	if got := len(s.Ahead.copies); got != len(open) {
		t.Fatalf("%d copies of %d files", got, len(open))
	}
	memory[1<<20+7] ^= 1
	_, err = open["written"].WriteAt(random(10), 2<<20)
	must(t, err)
	_, err = open["longer"].WriteAt(random(5000), size)
	must(t, err)
	must(t, open["shorter"].Truncate(size/2+1))
	must(t, open["closed"].Close())
	delete(open, "closed")
	c, err := Take(t.Context(), trees, s.Names, s.Ahead)
	must(t, err)
	must(t, c.Copy(t.Context(), false, func(string) string { return to }))
	must(t, s.Ahead.Drop())
	for _, f := range c.Stored("m") {
		file := open[filepath.Base(f.Path)]
		if file == nil || filepath.Dir(f.Path) != dir {
			continue // another file of this test's program
		}
		delete(open, filepath.Base(f.Path))
		want, err := os.ReadFile(f.Path)
		must(t, err)
		got, err := os.ReadFile(filepath.Join(to, f.Name))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("the copy of %s is not what the file holds", f.Path)
		}
	}
	if len(open) > 0 {
		t.Errorf("not taken: %v", open)
	}
	left, err := filepath.Glob(filepath.Join(to, "ahead-*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	must(t, c.Close())
}
