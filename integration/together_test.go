package integration

import (
	"strings"
	"testing"
)

// TestBetweenMembers needs root and python3. What leads from one member to another of its host, and is not a network connection, is refused before the freeze, and the remedy that is
// named works: as one member, both are recorded.
func TestBetweenMembers(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	python := "/usr/bin/python3 -u " + (&site{job: c.newJob("x")}).clients()
	for _, row := range []struct{ name, path, first, second, words string }{
		{"unix", "/srv/between.sock", python + " echoes unix:/srv/between.sock", python + " asks unix:/srv/between.sock", "UNIX socket"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c.t = t
			there := "until [ -e " + row.path + " ]; do sleep 0.1; done; echo; "
			apart := c.newJob(row.name)
			apart.serve("first", "hostA", "sh", "-c", row.first)
			apart.serve("second", "hostA", "sh", "-c", there+row.second)
			apart.awaitProgress()
			stdout, stderr, exit := c.Ctl("snapshot", apart.name)
			t.Logf("exit code %d\n%s%s", exit, stdout, stderr)
			if exit != 4 || !strings.Contains(stderr, row.words) || !strings.Contains(stderr, "one member") || !strings.Contains(stderr, "while preparing") {
				t.Errorf("exit code %d\n%s%s", exit, stdout, stderr)
			}
			apart.awaitProgress()
			apart.end()
			if out, err := c.Host("hostA").Command(t.Context(), "rm", "-f", row.path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			as := c.newJob(row.name + "-one")
			as.serve("both", "hostA", "sh", "-c", "("+row.first+") & "+there+row.second)
			as.awaitProgress()
			cut := as.snapshot().Cut
			as.restore(cut)
			as.awaitProgress()
			as.restore(as.snapshot().Cut, "hostA=hostB")
			as.awaitProgress()
			as.end()
		})
	}
	c.t = t
	c.checkLeaks()
}
