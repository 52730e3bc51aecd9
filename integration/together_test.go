package integration

import (
	"strings"
	"testing"
)

// betweenMembers are ways from one member to another of its host that CRIU, which dumps one member at a time, would cut: refused before the freeze. FIFOs and network connections are in TestMembersOfOneHost.
var betweenMembers = []struct{ way, words string }{
	{"unix:/srv/between.stream", "has a UNIX socket (descriptor"},
	{"unix:@between", "has a UNIX socket (descriptor"},
	{"seqpacket:/srv/between.packets", "has a UNIX socket (descriptor"},
	{"dgram:/srv/between.dgram", "has a UNIX socket (descriptor"},
	{"pipes:/srv/between.pipes", "has a pipe open (descriptor"}, // two, which were passed over a socket
	{"pipes:@pipes", "has a pipe open (descriptor"},
	{"shares:127.0.0.1:9890", "holds the socket 127.0.0.1:9890 as well as process"},
}

// TestBetweenMembers needs root and python3. What leads from one member to another of its host, and can't be recorded, is refused before the freeze, and the remedy that is
// named works: as one member, both are recorded, all ways together, and restored in place and elsewhere.
func TestBetweenMembers(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	apart := &site{job: c.newJob("apart"), notes: map[string]string{}}
	servers, clients := "/usr/bin/python3 -u "+apart.clients()+" echoes", "echo; /usr/bin/python3 -u "+apart.clients()+" asks"
	want := map[string]int{}
	for _, row := range betweenMembers {
		servers, clients = servers+" "+row.way, clients+" "+row.way
		kind, name, _ := strings.Cut(row.way, ":")
		clients = "until grep -q ' @\\?" + strings.TrimPrefix(name, "@") + "$' /proc/net/unix; do sleep 0.1; done; " + clients
		want[row.words] += map[string]int{"dgram": 1, "pipes": 4, "shares": 1}[kind]
		if kind == "unix" || kind == "seqpacket" {
			want[row.words] += 2 // both are connected
		}
	}
	apart.serve("first", "hostA", "sh", "-c", servers)
	apart.serve("second", "hostA", "sh", "-c", clients)
	apart.awaitProgress()
	stdout, stderr, exit := c.Ctl("snapshot", apart.name)
	for _, words := range []string{"while preparing", "the job runs on"} {
		if exit != 4 || !strings.Contains(stderr, words) {
			t.Errorf("exit code %d, no %q in\n%s%s", exit, words, stdout, stderr)
		}
	}
	all := 0
	for _, n := range want {
		all += n
	}
	want["start both as one member (sh -c 'one & two & wait')"] = all
	for words, n := range want {
		if got := strings.Count(stderr, words); got != n {
			t.Errorf("%d times %q, want %d:\n%s", got, words, n, stderr)
		}
	}
	apart.awaitProgress()
	apart.end()
	apart.on("hostA", "sh", "-c", "rm -f /srv/between.*")

	as := c.newJob("one")
	as.serve("both", "hostA", "sh", "-c", "("+servers+") & "+clients)
	as.awaitProgress()
	cut := as.snapshot().Cut
	as.restore(cut)
	as.awaitProgress()
	as.restore(as.snapshot().Cut, "hostA=hostB")
	as.awaitProgress()
	as.end()
	c.checkLeaks()
}
