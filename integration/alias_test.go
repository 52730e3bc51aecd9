package integration

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestOldAddresses needs root and python3: rule R6. A client that opens a connection for each request reaches the server at the address that it
// knows: after a move, when the agents were started again, after a second move, and when the server is back at home. A program that is not of the
// job does not, and a restore that needs no alias leaves none.
func TestOldAddresses(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	s := &site{job: c.newJob("again"), notes: map[string]string{}}
	s.server("server", "hostA", 8090, "/usr/bin/python3", "-u", s.clients(), "counted", s.at("hostA", 8090), "1")
	s.client("client", "hostB", "again", s.at("hostA", 8090), "/n")
	s.awaitProgress()
	first := s.snapshot().Cut
	s.awaitProgress()
	lead := func(to string, from ...string) map[string]string {
		out := map[string]string{}
		for _, h := range from {
			out[c.Host(h).Addr().String()] = c.Host(to).Addr().String()
			out[c.Host(h).Addr6().String()] = c.Host(to).Addr6().String()
		}
		return out
	}

	c.Host("hostA").PowerOff()
	s.restore(first, "hostA=hostC")
	s.awaitProgress()
	s.aliases(lead("hostC", "hostA"))
	ask := []string{"/usr/bin/python3", "-c", "import socket, sys\ntry:\n socket.create_connection((sys.argv[1], 8090), 2)\n print('reached')\nexcept OSError as e:\n print('not reached:', e)", c.Host("hostA").Addr().String()}
	if out := s.on("hostB", ask...); !strings.HasPrefix(out, "not reached") {
		t.Errorf("a program that is not of the job has reached the server at its old address: %s", out)
	}
	for _, h := range []string{"hostB", "hostC"} {
		c.Agent(h).Stop()
		c.Agent(h).Start()
	}
	s.awaitProgress()
	s.aliases(lead("hostC", "hostA"))

	c.Host("hostA").PowerOn()
	c.Agent("hostA").Start()
	s.restore(s.snapshot().Cut, "hostC=hostD")
	s.awaitProgress()
	s.aliases(lead("hostD", "hostA", "hostC"))

	s.restore(s.snapshot().Cut, "hostD=hostA")
	s.awaitProgress()
	s.aliases(lead("hostA", "hostC", "hostD"))

	s.restore(first)
	s.awaitProgress()
	s.aliases(nil)
	s.end()
	c.checkLeaks()
}

// TestOldAddressesOfLaterMembers needs root and python3. A member that is started after a move reaches the moved host at its old address, over TCP and over UDP, and is told the old address.
func TestOldAddressesOfLaterMembers(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC")
	s := &site{job: c.newJob("later"), notes: map[string]string{}}
	s.server("server", "hostA", 8090, "/usr/bin/python3", "-u", s.clients(), "counted", s.at("hostA", 8090), "1")
	s.client("echo", "hostA", "echoes", "udp:"+s.at("hostA", 8091))
	s.client("client", "hostB", "again", s.at("hostA", 8090), "/n")
	s.client("sender", "hostB", "asks", "sendto:"+s.at("hostA", 8091))
	s.awaitProgress()
	s.restore(s.snapshot().Cut, "hostA=hostC")
	s.awaitProgress()
	for _, h := range []string{"hostB", "hostC"} {
		s.client("later", h, "again", s.at("hostA", 8090), "/later/"+h)
		s.client("later-udp", h, "asks", "sendto:"+s.at("hostA", 8091))
	}
	for range 2 {
		s.awaitProgress()
		s.restore(s.snapshot().Cut)
	}
	s.awaitProgress()
	s.end()
	c.checkLeaks()
}

// aliases checks what ps says of the members' aliases.
func (s *site) aliases(want map[string]string) {
	s.t.Helper()
	var doc struct {
		Members []struct {
			Name    string
			Aliases map[string]string
		}
	}
	must(s.t, json.Unmarshal([]byte(s.MustCtl("-o", "json", "ps", s.name)), &doc))
	if len(doc.Members) != 2 {
		s.t.Errorf("%d members", len(doc.Members))
	}
	for _, m := range doc.Members {
		if !maps.Equal(m.Aliases, want) {
			s.t.Errorf("%s has the aliases %v, want %v", m.Name, m.Aliases, want)
		}
	}
	table := s.MustCtl("ps", s.name)
	for _, from := range slices.Sorted(maps.Keys(want)) {
		if line := from + " is " + want[from]; strings.Count(table, line) != 2 {
			s.t.Errorf("ps does not say %q of both members:\n%s", line, table)
		}
	}
}
