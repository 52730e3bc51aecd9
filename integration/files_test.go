package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// userFolder makes a folder on every host that user 1000 owns, and returns its path.
func (c *cluster) userFolder() string {
	c.t.Helper()
	for _, h := range c.Hosts() {
		dir := h.Path("/srv/user")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Chown(dir, 1000, 1000); err != nil {
			c.t.Fatal(err)
		}
	}
	return "/srv/user"
}

// TestMemberOfAnotherUser needs root. A member of user 1000 goes on in place and elsewhere, and the file that it writes is its own.
func TestMemberOfAnotherUser(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	file := c.userFolder() + "/lines"
	j := c.newJob("other")
	j.serve("lines", "hostA", asUser(c.compile("lines"), file, "place")...)
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.restore(cut)
	j.awaitProgress()
	j.restore(cut, "hostA=hostB")
	j.awaitProgress()
	j.end()
	c.checkLeaks()
}

// filesRounds is how often each case of TestFilesOfACut is cut and restored: once in CI, and as often as SS_FILES_ROUNDS says.
func filesRounds(t *testing.T) int {
	t.Helper()
	value := os.Getenv("SS_FILES_ROUNDS")
	if value == "" {
		return 1
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("SS_FILES_ROUNDS=%s is not a number of rounds", value)
	}
	return n
}

// TestFilesOfACut needs root. Each kind of file that members hold is in the cut as it was: in place and on another host the programs, which
// check their files all the time, go on.
func TestFilesOfACut(t *testing.T) {
	withoutRace(t)
	r := newRig(t, "hostA", "hostB")
	defer r.relay.close()
	holder := r.compile("holder", "-pthread")
	r.userFolder()
	for _, kind := range []struct {
		name    string
		members [][]string // arguments of holder
		here    bool       // in place only
	}{
		{name: "lease, in place", members: [][]string{{"lease", "/srv/user/f", "place"}}},
		{name: "lease, appended", members: [][]string{{"lease", "/srv/user/f", "append"}}},
		{name: "lease, only written", members: [][]string{{"writeonly", "/srv/user/f"}}},
		{name: "spool", members: [][]string{{"spool", "/srv/user"}}},
		{name: "rotated log", members: [][]string{{"rotate", "/srv/user/log"}}},
		{name: "named semaphore", members: [][]string{{"semaphore", "/ss-one"}}},
		{name: "two named semaphores", members: [][]string{{"semaphore", "/ss-one"}, {"semaphore", "/ss-two"}}},
		{name: "removed name, another beside it", members: [][]string{{"linked", "/srv/user"}}},
		{name: "removed name, another elsewhere", members: [][]string{{"elsewhere", "/srv/user"}}},
		{name: "read by a removed name, another elsewhere", members: [][]string{{"reader", "/srv/user"}}},
		{name: "log that is cut off", members: [][]string{{"cutoff", "/srv/user/f"}}},
		{name: "two write a file without a name", members: [][]string{{"both_write", "/srv/user/f", "one"}, {"both_write", "/srv/user/f", "two"}}},
		{name: "two map memory without a name", members: [][]string{{"share", "/dev/shm/f", "one"}, {"share", "/dev/shm/f", "two"}}},
		{name: "two have one FIFO", members: [][]string{{"fifo", "/srv/user/f", "one"}, {"fifo", "/srv/user/f", "two"}}, here: true},
		{name: "two names of one file", members: [][]string{{"hardlinks", "/srv/user"}}},
		{name: "shared mapping of a file", members: [][]string{{"map", "/srv/user/m"}}},
		{name: "shared mapping of shared memory", members: [][]string{{"map", "shm:/ss-map"}}},
		{name: "appended and written in place", members: [][]string{{"both", "/srv/user/f"}}},
		{name: "two append to one file", members: [][]string{{"append", "/srv/user/f", "one"}, {"append", "/srv/user/f", "two"}}},
		{name: "one reads what another appends", members: [][]string{{"append", "/srv/user/f", "one"}, {"follow", "/srv/user/f"}}},
		{name: "set-group bit", members: [][]string{{"mode", "/srv/user/f", "02664"}}},
		{name: "set-user bit", members: [][]string{{"mode", "/srv/user/f", "04755"}}},
		{name: "sticky file", members: [][]string{{"mode", "/srv/user/f", "01600"}}},
		{name: "changed root", members: [][]string{{"root", "/srv/user"}}},
		{name: "sparse, in place", members: [][]string{{"sparse", "/srv/user/f", "600", "place"}}},
		{name: "sparse, appended", members: [][]string{{"sparse", "/srv/user/f", "600", "append"}}},
		{name: "no name", members: [][]string{{"unlinked", "/srv/user/f"}}},
		{name: "two with the same removed name", members: [][]string{{"unlinked", "/srv/user/f"}, {"unlinked", "/srv/user/f"}}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			r.use(t)
			r.emptyUserFolder()
			j := r.newJob("files")
			for i, args := range kind.members {
				j.serve(strconv.Itoa(i), "hostA", append([]string{holder}, args...)...)
			}
			await(t, "all members to begin", func() string {
				for _, m := range j.members {
					if log := j.log(m); !strings.Contains(log, "progress ") {
						return m.name + ": " + log
					}
				}
				return ""
			})
			j.awaitProgress()
			defer j.end()
			for range filesRounds(t) {
				cut := j.snapshot().Cut
				j.awaitProgress()
				j.restore(cut)
				j.awaitProgress()
				if kind.here {
					continue
				}
				j.restore(cut, "hostA=hostB")
				j.awaitProgress()
				cut = j.snapshot().Cut
				j.restore(cut, "hostB=hostA")
				j.awaitProgress()
			}
		})
	}
}

// emptyUserFolder removes what a case left, logs included.
func (c *cluster) emptyUserFolder() {
	c.t.Helper()
	for _, h := range c.Hosts() {
		for _, pattern := range []string{"/srv/user/*", "/srv/files-*", "/dev/shm/*"} {
			found, err := filepath.Glob(h.Path(pattern))
			if err != nil {
				c.t.Fatal(err)
			}
			for _, path := range found {
				if err := os.RemoveAll(path); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
}
