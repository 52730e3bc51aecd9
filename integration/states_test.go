package integration

import (
	"fmt"
	"strings"
	"testing"
)

// connectionStates are the states that a connection can stay in while a program holds one of its ends, or both: see testdata/states.c for the steps that
// lead there.
var connectionStates = []string{
	"--",           // established, established
	"CfSf",         // likewise, both with more in transit than fits
	"Cs",           // FIN-WAIT-2, CLOSE-WAIT
	"Ss",           // the other way round
	"CsSw",         // and bytes against the direction that has ended
	"CfCs", "SfSs", // FIN-WAIT-1: the FIN waits behind bytes
	"CfSfCsSs",         // FIN-WAIT-1 at both ends
	"SfCsSs", "CfSsCs", // FIN-WAIT-2, LAST-ACK: the second FIN waits behind bytes
	"CsSs", "CwSwCsSs", // closed at both ends, without and with unread bytes
	"Cc", "Sc", "CwCc", "SwSc", // CLOSE-WAIT at one end, whose other end nobody holds
	"CsSc", "SsCc", "CwSwCsSc", // closed at one end
	"Cr", "Sr", "CwSwCr", // reset
	"CwSc", "SwCc", // reset, as what was sent was not read
}

// connectionStates starts a job whose members hold connections in states.
func (c *cluster) connectionStates(name string, port int, cases ...string) *job {
	c.t.Helper()
	j := c.newJob(name)
	program := j.compiled("testdata/states.c", "states")
	for _, side := range []struct{ name, host string }{{"server", "hostA"}, {"client", "hostB"}} {
		j.run(side.name, side.host, append([]string{program, side.name, j.Host("hostA").Addr().String(), fmt.Sprint(port), j.stop}, cases...)...)
	}
	for _, m := range j.members {
		j.says(m, "holding")
	}
	return j
}

// TestConnectionStates: connections in all states are in a cut at the first attempt. What each end has to say arrives in the job that runs on, and in the one that
// is restored on another host. Bytes that a closed socket has not sent yet are in nobody's hands: such a cut is refused. Needs root, CRIU and gcc.
func TestConnectionStates(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC")
	for i, name := range []string{"running", "restored"} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			j := c.connectionStates(name, 9700+i, connectionStates...)
			n, cut := j.attempts()
			if n != 1 {
				t.Errorf("%d attempts", n)
			}
			j.mustVerify(cut)
			if name == "restored" {
				j.restore(cut)
				n, cut = j.attempts()
				if n != 1 {
					t.Errorf("%d attempts after a restore", n)
				}
				j.restore(cut, "hostB=hostC")
				j.awaitProgress()
			}
			j.finish()
			j.end()
		})
	}
	t.Run("unsent", func(t *testing.T) {
		c.t = t
		j := c.connectionStates("unsent", 9710, "SfSc")
		stdout, stderr, exit := c.Ctl("snapshot", "unsent")
		if exit == 0 || !strings.Contains(stderr, "no member of the job holds its other end") {
			t.Errorf("exit code %d\n%s%s", exit, stdout, stderr)
		}
		j.finish()
		j.end()
	})
	c.t = t
	c.checkLeaks()
}
