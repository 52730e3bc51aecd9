package integration

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// changing are the options whose values change while a connection or a host lives, so that they say nothing of a restore. By level and number.
var changing = map[string]string{
	"1 7":   "SO_SNDBUF: the kernel tunes it",
	"1 8":   "SO_RCVBUF: the kernel tunes it",
	"1 49":  "SO_INCOMING_CPU",
	"1 55":  "SO_MEMINFO",
	"1 56":  "SO_INCOMING_NAPI_ID",
	"1 57":  "SO_COOKIE",
	"1 71":  "SO_NETNS_COOKIE: another host",
	"6 2":   "TCP_MAXSEG: judged by the segment size below",
	"6 10":  "TCP_WINDOW_CLAMP: judged where it was set",
	"6 11":  "TCP_INFO",
	"6 12":  "TCP_QUICKACK",
	"6 24":  "TCP_TIMESTAMP: a clock",
	"6 26":  "TCP_CC_INFO",
	"6 29":  "TCP_REPAIR_WINDOW",
	"1 17":  "SO_PEERCRED",
	"1 28":  "SO_PEERNAME: another address",
	"1 31":  "SO_PEERSEC",
	"0 4":   "IP_OPTIONS",
	"41 24": "IPV6_MTU",
}

// told is what a member of options tells of itself when it is asked, by what a line begins with.
func (j *job) told(m *member) map[string]string {
	j.t.Helper()
	before := len(j.log(m))
	for _, pid := range j.instances(m.host, "options") {
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			j.t.Fatal(err)
		}
	}
	await(j.t, "what "+m.name+" tells", func() string {
		if log := j.log(m); len(log) < before || !strings.HasSuffix(log, "end\n") || len(log) == before {
			return lastLine(log)
		}
		return ""
	})
	lines := map[string]string{}
	for line := range strings.Lines(j.log(m)[before:]) {
		what, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		f := strings.Fields(what)
		if ok && (len(f) != 6 || changing[f[3]+" "+f[5]] == "") {
			lines[what] = value
		}
	}
	return lines
}

// same fails the test for everything that a member tells otherwise than before.
func (j *job) same(m *member, before map[string]string, when string) {
	j.t.Helper()
	now := j.told(m)
	var lost []string
	for what, value := range before {
		if now[what] != value {
			lost = append(lost, fmt.Sprintf("%s was%s and is%s", what, value, now[what]))
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		j.t.Errorf("%s, %s has lost:\n%s", when, m.name, strings.Join(lost, "\n"))
	}
}

// TestNothingIsLostInSilence needs root. A program gives every socket option that the kernel answers for another value than the default, joins a
// multicast group, and changes what a process can change of itself. Each is as it was in place, on another host, and after a second move.
func TestNothingIsLostInSilence(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	c.compile("options")
	j := c.newJob("options")
	program := filepath.Join(c.Dir(), "options")
	a := c.Host("hostA").Addr().String()
	j.serve("listen", "hostA", program, "listen", a, "7300")
	j.serve("dial", "hostB", program, "dial", a, "7300")
	before := map[*member]map[string]string{}
	for _, m := range j.members {
		await(t, m.name+" to be ready", func() string {
			if log := j.log(m); !strings.Contains(log, "ready\n") {
				return log
			}
			return ""
		})
		before[m] = j.told(m)
		if len(before[m]) < 300 {
			t.Fatalf("%s tells %d things only", m.name, len(before[m]))
		}
	}
	cut := j.snapshot().Cut
	for _, m := range j.members {
		j.same(m, before[m], "after the snapshot")
	}
	for _, remap := range [][]string{nil, {"hostA=hostC"}} {
		j.restore(cut, remap...)
		for _, m := range j.members {
			j.same(m, before[m], fmt.Sprintf("restored %v", remap))
		}
	}
	j.restore(j.snapshot().Cut, "hostC=hostA")
	for _, m := range j.members {
		j.same(m, before[m], "restored from a cut of restored members")
	}
	j.end()
	c.checkLeaks()
}
