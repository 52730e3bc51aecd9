package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestManyFilesOfAMember: a member has more files open than the agent may hold with them. That is said before the freeze, and the agent opens none of them: its other jobs and callers need
// descriptors. The member is this process.
func TestManyFilesOfAMember(t *testing.T) {
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was)) }()
	low := was
	low.Cur = 800
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	dir := t.TempDir()
	for i := range 250 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		must(t, err)
		defer f.Close()
	}
	trees := []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}
	seen, err := Survey(t.Context(), trees, "")
	if err != nil || len(seen.Refused) != 1 || !strings.Contains(seen.Refused[0], "LimitNOFILE") {
		t.Errorf("%q, %v", seen.Refused, err)
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := open()
	if c, err := Take(t.Context(), trees, nil, nil); err == nil {
		must(t, c.Close())
		t.Error("it takes hold of them")
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors, and %d after it", before, after)
	}
	low.Cur = min(4000, was.Max)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	c, err := Take(t.Context(), trees, nil, nil)
	must(t, err)
	if n := len(c.Stored("m")); n < 250 {
		t.Errorf("%d files are held", n)
	}
	must(t, c.Close())
}
