package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// oneHost is the table of connections between members of one host: what the server is bound to, and how its client reaches it. ADDR4 and ADDR6 stand for the host's own addresses.
// Every row works in each of the steps of TestMembersOfOneHost. Where parts of two hosts are on one, a socket that is not connected is told the address in use: "sends" takes that for right.
var oneHost = []struct{ name, server, client string }{
	{"TCP, loopback", "tcp:127.0.0.1:9800", "flood:127.0.0.1:9800"},
	{"TCP, another loopback address", "tcp:127.0.0.2:9801", "tcp:127.0.0.2:9801"},
	{"TCP, IPv6 loopback", "tcp:[::1]:9802", "tcp:[::1]:9802"},
	{"TCP, mapped loopback", "tcp:[::ffff:127.0.0.1]:9803", "tcp:[::ffff:127.0.0.1]:9803"},
	{"TCP, loopback mapped at one end", "tcp:[::]:9804", "tcp:127.0.0.1:9804"},
	{"TCP, own address", "tcp:ADDR4:9805", "flood:ADDR4:9805"},
	{"TCP, own IPv6 address", "tcp:[ADDR6]:9806", "tcp:[ADDR6]:9806"},
	{"TCP, own address mapped", "tcp:[::ffff:ADDR4]:9807", "tcp:[::ffff:ADDR4]:9807"},
	{"TCP, own address mapped at one end", "tcp:[::]:9808", "tcp:ADDR4:9808"},
	{"TCP, any address", "tcp:0.0.0.0:9809", "tcp:ADDR4:9809"},
	{"UDP, both connected, loopback", "both:127.0.0.1:9820", "both:127.0.0.1:9820"},
	{"UDP, both connected, IPv6 loopback", "both:[::1]:9821", "both:[::1]:9821"},
	{"UDP, both connected, own address", "both:ADDR4:9822", "both:ADDR4:9822"},
	{"UDP, both connected, own IPv6 address", "both:[ADDR6]:9823", "both:[ADDR6]:9823"},
	{"UDP, one connected, loopback", "udp:127.0.0.1:9830", "udp:127.0.0.1:9830"},
	{"UDP, one connected, IPv6 loopback", "udp:[::1]:9831", "udp:[::1]:9831"},
	{"UDP, one connected, mapped loopback", "udp:[::ffff:127.0.0.1]:9832", "udp:[::ffff:127.0.0.1]:9832"},
	{"UDP, one connected, own address", "udp:ADDR4:9833", "udp:ADDR4:9833"},
	{"UDP, one connected, own IPv6 address", "udp:[ADDR6]:9834", "udp:[ADDR6]:9834"},
	{"UDP, one connected, any address", "udp:0.0.0.0:9835", "udp:ADDR4:9835"},
	{"UDP, one connected, any address, mapped at one end", "udp:[::]:9836", "udp:ADDR4:9836"},
	{"UDP, one connected, any address, loopback", "udp:[::]:9837", "udp:127.0.0.1:9837"},
	{"UDP, none connected, loopback", "udp:127.0.0.1:9840", "sendto:127.0.0.1:9840"},
	{"UDP, none connected, own address", "udp:ADDR4:9841", "sends:ADDR4:9841"},
	{"FIFOs", "fifo:/srv/onehost.fifo", "fifo:/srv/onehost.fifo"},
	{"UDP, none connected, own IPv6 address", "udp:[ADDR6]:9842", "sends:[ADDR6]:9842"},
}

// acrossHosts are the rows with the client on hostB: they become connections of one host when hostA's part comes to it.
var acrossHosts = []struct{ name, server, client string }{
	{"TCP, across", "tcp:ADDR4:9850", "flood:ADDR4:9850"},
	{"UDP, both connected, across", "udp:ADDR4:9851", "udp:ADDR4:9851"},
	{"UDP over IPv6, across", "udp:[ADDR6]:9852", "udp:[ADDR6]:9852"},
}

// TestMembersOfOneHost needs root and python3. All kinds of connections between members of one host, and between those of two hosts that one host gets: recorded as one cut, restored in
// place, moved to another host, moved to a host that has a part of the job already and has a cut taken there, and moved apart again. A port of
// loopback that members of two hosts have is refused. Each answer is checked, byte by byte, by the one who asked. SS_ONE_HOST_ROUNDS
// says how often (1).
func TestMembersOfOneHost(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	for i := range number(t, "SS_ONE_HOST_ROUNDS", 1) {
		s := &site{job: c.newJob(fmt.Sprintf("onehost%d", i)), notes: map[string]string{}}
		s.startOneHost()
		s.awaitProgress()
		first := s.placed(24)
		first.back(nil)
		first.back(map[string]string{"hostA": "hostC"})
		// Members of one host are one part.
		stdout, stderr, exit := c.Ctl("restore", first.cut, "--remap", "hostA=hostC", "--remap", "hostA=hostD")
		if exit != 2 || !strings.Contains(stderr, "--remap names hostA twice: all members of a host go to one host") {
			t.Errorf("members of one host apart: exit code %d\n%s%s", exit, stdout, stderr)
		}
		s.placed(24).back(map[string]string{"hostC": "hostB"})
		// What came from two hosts is one host's part now.
		together := s.placed(24)
		together.back(nil)
		together.back(map[string]string{"hostB": "hostD"})
		// Apart again: by the cut of when they were.
		first.back(map[string]string{"hostB": "hostC"})
		s.placed(24).back(nil)
		s.end()
	}
	(&site{job: c.newJob("loopbacks"), notes: map[string]string{}}).oneLoopback()
	(&site{job: c.newJob("strangers"), notes: map[string]string{}}).strangersReceive()
	c.checkLeaks()
}

// startOneHost starts the servers and clients of the tables.
func (s *site) startOneHost() {
	s.t.Helper()
	own := strings.NewReplacer("ADDR4", s.Host("hostA").Addr().String(), "ADDR6", s.Host("hostA").Addr6().String())
	servers, clients, across := []string{"echoes"}, []string{"asks"}, []string{"asks"}
	for _, row := range oneHost {
		servers, clients = append(servers, own.Replace(row.server)), append(clients, own.Replace(row.client))
	}
	for _, row := range acrossHosts {
		servers, across = append(servers, own.Replace(row.server)), append(across, own.Replace(row.client))
	}
	// hostB has a connection of its own over loopback, at ports that are free when both parts come to one host.
	s.client("servers", "hostA", servers...)
	s.client("servers-b", "hostB", "echoes", "tcp:127.0.0.1:9860", "udp:127.0.0.1:9861")
	s.listens("hostA", 9850)
	s.listens("hostB", 9860)
	for _, m := range []*member{
		s.client("clients", "hostA", clients...),
		s.client("across", "hostB", across...),
		s.client("clients-b", "hostB", "asks", "tcp:127.0.0.1:9860", "udp:127.0.0.1:9861"),
	} {
		await(s.t, "first progress of "+m.name, func() string {
			if log := s.log(m); !strings.Contains(log, "progress ") {
				return lastLine(log) // it may lack a connection, and awaitProgress waits for no member that has told of none
			}
			return ""
		})
	}
}

// placed is a cut and where each member was in it.
type placed struct {
	*site
	cut   string
	hosts map[*member]string
}

// placed takes a cut, and checks that it has so many channels.
func (s *site) placed(channels int) placed {
	s.t.Helper()
	cut := s.snapshot()
	if len(cut.Channels) != channels {
		s.t.Errorf("the cut has %d channels, want %d: %+v", len(cut.Channels), channels, cut.Channels)
	}
	p := placed{s, cut.Cut, map[*member]string{}}
	for _, m := range s.members {
		p.hosts[m] = m.host
	}
	s.awaitProgress()
	return p
}

// back restores the cut with each host's part where remap says, or where it was, and checks that all members go on.
func (p placed) back(remap map[string]string) {
	p.t.Helper()
	args := []string{"restore", p.cut}
	for from, to := range remap {
		args = append(args, "--remap", from+"="+to)
	}
	p.MustCtl(args...)
	for _, m := range p.members {
		m.host = cmp.Or(remap[p.hosts[m]], p.hosts[m])
	}
	p.awaitProgress()
}

// oneLoopback checks that members of two hosts with one port of loopback are not put together: this is refused before anything is touched.
func (s *site) oneLoopback() {
	s.t.Helper()
	for _, h := range []string{"hostA", "hostB"} {
		s.client("server-"+h, h, "echoes", "tcp:127.0.0.1:9870", "udp:[::1]:9871")
		s.listens(h, 9870)
		s.client("client-"+h, h, "asks", "tcp:127.0.0.1:9870", "udp:[::1]:9871")
	}
	s.awaitProgress()
	s.refuses(s.snapshot().Cut, []string{"--remap", "hostA=hostB"}, "127.0.0.1:9870", "[::1]:9871", "restore them to different hosts")
	s.end()
}

// strangersReceive checks that a connected UDP socket leads outside if what receives its datagrams does not belong to a member, here and on another host of the job, and if nothing does.
func (s *site) strangersReceive() {
	s.t.Helper()
	s.serve("idle", "hostB", "sleep", "1000007")
	for h, server := range map[string]string{"hostA": "udp:0.0.0.0:9880", "hostB": "udp:0.0.0.0:9882"} {
		echo := s.Host(h).Command(s.t.Context(), "/usr/bin/python3", s.clients(), "echoes", server)
		must(s.t, echo.Start())
		defer echo.Kill()
	}
	s.client("client", "hostA", "asks", "udp:"+s.at("hostA", 9880))
	s.client("far", "hostA", "asks", "udp:"+s.at("hostB", 9882))
	s.client("nobody", "hostA", "asks", "udp:127.0.0.1:9881")
	for _, to := range []string{s.at("hostA", 9880), s.at("hostB", 9882), "127.0.0.1:9881"} {
		await(s.t, "a client of "+to, func() string {
			if out := s.on("hostA", "ss", "-Hun"); !slices.Contains(strings.Fields(out), to) {
				return out
			}
			return ""
		})
	}
	_, stderr, exit := s.Ctl("snapshot", s.name)
	for _, want := range []string{
		s.at("hostA", 9880) + ", which is " + "no member of the job:", s.at("hostB", 9882) + ", which is " + "no member of the job on hostB:", "127.0.0.1:9881, which is " + "no member of the job:",
		"ssctl job set --outside keep", "while preparing", "the job runs on",
	} {
		if exit != 4 || !strings.Contains(stderr, want) {
			s.t.Errorf("exit code %d, no %q in\n%s", exit, want, stderr)
		}
	}
	s.MustCtl("job", "set", s.name, "--outside", "keep")
	s.restore(s.snapshot().Cut)
	s.end()
}
