package integration

import "testing"

// TestSystemV needs root. System V shared memory, attached or not, semaphores and message queues come back in place, on another host, and from a cut of
// restored processes.
func TestSystemV(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("sysv")
	j.serve("sysv", "hostA", c.compile("sysv"))
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.awaitProgress()
	j.restore(cut)
	j.awaitProgress()
	j.restore(j.snapshot().Cut, "hostA=hostB")
	j.awaitProgress()
	j.restore(cut)
	j.moved("hostB", "hostA")
	j.awaitProgress()
	j.end()
	c.checkLeaks()
}
