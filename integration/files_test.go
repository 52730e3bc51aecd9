package integration

import (
	"os"
	"path/filepath"
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
