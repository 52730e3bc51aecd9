package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestExplore is for exploration.
func TestExplore(t *testing.T) {
	r := newRig(t, "hostA", "hostB")
	object := r.compile("object")
	for _, kind := range strings.Fields(os.Getenv("KINDS")) {
		t.Run(kind, func(t *testing.T) {
			r.use(t)
			j := r.newJob("j-" + kind)
			j.serve("object", "hostA", object, kind, os.Getenv("ARG"))
			defer func() { j.Ctl("kill", j.name) }()
			log := func() string { return j.log(j.members[0]) }
			await(t, "ready", func() string {
				if strings.Contains(log(), "progress 3\n") || strings.Contains(log(), "FAIL") {
					return ""
				}
				return lastLine(log())
			})
			if strings.Contains(log(), "FAIL") {
				t.Logf("CANNOT %s", lastLine(log()))
				return
			}
			out, stderr, exit := j.Ctl("snapshot", j.name)
			if exit != 0 {
				t.Logf("REFUSED %d %s%s", exit, out, stderr)
				j.awaitProgress()
				return
			}
			out, stderr, exit = j.Ctl("restore", "latest", "--job", j.name)
			if exit != 0 {
				t.Errorf("LOST %d %s%s", exit, out, stderr)
				return
			}
			j.awaitProgress()
			fmt.Println("FINE", kind)
		})
	}
	r.use(t)
	r.relay.close()
}
