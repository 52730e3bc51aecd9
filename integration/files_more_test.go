package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ss/integration/lab"
)

// TestProgramReplaced needs root. A program that is replaced on disk under two members (an upgrade) is in the cut as it was, for both.
func TestProgramReplaced(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	c.userFolder()
	holder := c.compile("holder", "-pthread")
	program := "/srv/user/program"
	put := func() {
		for _, h := range c.Hosts() {
			path := h.Path(program)
			if out, err := exec.CommandContext(t.Context(), "cp", holder, path+".new").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	put()
	j := c.newJob("replaced")
	for i := range 6 { // all their CRIUs restore a program that has no name
		j.serve(fmt.Sprintf("replaced%d", i), "hostA", program, "replaced")
	}
	j.awaitProgress()
	put()
	for range filesRounds(t) {
		cut := j.snapshot().Cut
		j.restore(cut)
		j.awaitProgress()
		j.restore(cut, "hostA=hostB")
		j.awaitProgress()
		j.restore(cut, "hostA=hostA")
		j.moved("hostB", "hostA")
		j.awaitProgress()
	}
	j.end()
}

// TestPythonProcesses needs root and python3. The pools of multiprocessing that are made by spawn and by a fork server hold named semaphores.
func TestPythonProcesses(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	for _, method := range []string{"spawn", "forkserver"} {
		t.Run(method, func(t *testing.T) {
			c := &cluster{Lab: c.Lab, t: t}
			program := c.Dir() + "/pool-" + method + ".py"
			if err := os.WriteFile(program, []byte(pythonPool), 0o644); err != nil {
				t.Fatal(err)
			}
			j := c.newJob(method)
			j.serve("pool", "hostA", "/usr/bin/python3", program, method)
			j.awaitProgress()
			for range filesRounds(t) {
				cut := j.snapshot().Cut
				j.restore(cut)
				j.awaitProgress()
				j.restore(cut, "hostA=hostB")
				j.awaitProgress()
				cut = j.snapshot().Cut
				j.restore(cut, "hostB=hostA")
				j.awaitProgress()
			}
			j.end()
		})
	}
}

const pythonPool = `
import multiprocessing, sys, time

def square(n):
    return n * n

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    lock = context.Lock()
    with context.Pool(2) as pool:
        n = 0
        while True:
            with lock:
                n += 1
            if pool.map(square, range(n, n + 4)) != [i * i for i in range(n, n + 4)]:
                print("FAIL: wrong answer", flush=True)
                sys.exit(1)
            if n % 10 == 0:
                print("progress", n, flush=True)
            time.sleep(0.005)
`

// TestSparseFileAndStaging needs root. A sparse file counts in staging by what it takes on its disk, and so does a file that is full: that one
// is refused before the freeze.
func TestSparseFileAndStaging(t *testing.T) {
	withoutRace(t)
	l := lab.New(t, "hostA", "hostB")
	l.AgentConfig = "staging_limit: 96MiB\n"
	l.StartAgents()
	c := &cluster{Lab: l, t: t}
	c.userFolder()
	j := c.newJob("sparse")
	j.serve("sparse", "hostA", c.compile("holder", "-pthread"), "sparse", "/srv/user/f", "1000", "append")
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.restore(cut)
	j.awaitProgress()
	j.end()

	if err := c.Host("hostA").WriteFile("/srv/user/full", make([]byte, 200<<20)); err != nil {
		t.Fatal(err)
	}
	j = c.newJob("full")
	j.serve("full", "hostA", c.compile("lines"), "/srv/user/full", "append")
	j.awaitProgress()
	_, stderr, exit := c.Ctl("snapshot", "full")
	if exit == 0 || !strings.Contains(stderr, "staging") || strings.Contains(stderr, "recording") {
		t.Errorf("exit code %d: %s", exit, stderr)
	}
	j.awaitProgress()
	j.end()
}
