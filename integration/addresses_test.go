package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// secondNetwork gives hosts an address on another network, and returns it. It goes when the host is switched off.
func (s *site) secondNetwork(hosts ...string) {
	s.t.Helper()
	for _, h := range hosts {
		s.on(h, "ip", "address", "add", s.second(h)+"/24", "dev", "eth0")
	}
}

// second is the address that secondNetwork gives a host.
func (s *site) second(host string) string {
	v4 := s.Host(host).Addr().As4()
	return fmt.Sprintf("192.168.77.%d", v4[3])
}

// TestAddressesOfConnections needs root and python3. What becomes of each kind of address when a member moves: every one to the target's address on the same network, and none to another
// network unless a person says so.
func TestAddressesOfConnections(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	s := &site{job: c.newJob("addresses"), notes: map[string]string{}}
	s.secondNetwork("hostA", "hostB", "hostC")
	four, six := s.Host("hostA").Addr().String(), s.Host("hostA").Addr6().String()
	// The address that a server is bound to, and where its client connects.
	rows := []struct{ name, server, client string }{
		{"IPv4", "tcp:" + four + ":9700", "tcp:" + four + ":9700"},
		{"IPv6", "tcp:[" + six + "]:9701", "tcp:[" + six + "]:9701"},
		{"IPv4-mapped", "tcp:[::ffff:" + four + "]:9702", "tcp:[::ffff:" + four + "]:9702"},
		{"mapped at one end", "tcp:[::]:9703", "tcp:" + four + ":9703"},
		{"any IPv4", "tcp:0.0.0.0:9704", "tcp:" + four + ":9704"},
		{"any IPv6", "tcp:[::]:9705", "tcp:[" + six + "]:9705"},
		{"second network", "tcp:" + s.second("hostA") + ":9706", "tcp:" + s.second("hostA") + ":9706"},
		{"any IPv4, over the second network", "tcp:0.0.0.0:9707", "tcp:" + s.second("hostA") + ":9707"},
		{"connected UDP", "udp:" + four + ":9708", "udp:" + four + ":9708"},
		{"connected UDP over IPv6", "udp:[" + six + "]:9709", "udp:[" + six + "]:9709"},
		{"connected UDP over the second network", "udp:" + s.second("hostA") + ":9710", "udp:" + s.second("hostA") + ":9710"},
		{"bound to a device", "tcp%eth0:" + four + ":9711", "tcp:" + four + ":9711"},
	}
	servers, clients := []string{"echoes"}, []string{"asks"}
	for _, row := range rows {
		servers, clients = append(servers, row.server), append(clients, row.client)
	}
	s.client("servers", "hostA", servers...)
	s.listens("hostA", 9711)
	s.client("hears", "hostA", "hears", "239.77.0.1:9720", four)
	s.client("clients", "hostB", clients...)
	s.client("calls", "hostB", "calls", "239.77.0.1:9720", s.Host("hostB").Addr().String())
	s.awaitProgress()
	cut := s.snapshot().Cut
	s.restore(cut)
	s.awaitProgress()

	// hostD has no address on the second network. None of its others is guessed.
	for _, more := range [][]string{{"--dry-run"}, nil} {
		stdout, stderr, exit := c.Ctl(append([]string{"restore", cut, "--remap", "hostA=hostD"}, more...)...)
		if want := "--remap-addr " + s.second("hostA") + "="; exit == 0 || !strings.Contains(stdout+stderr, want) {
			t.Errorf("%v: exit code %d without %q\n%s%s", more, exit, want, stdout, stderr)
		}
		s.awaitProgress() // the job runs on
	}
	s.restore(cut, "hostA=hostC")
	s.awaitProgress()
	s.has("hostC", s.Host("hostC").Addr().String(), s.Host("hostC").Addr6().String(), s.second("hostC"))

	// A person says which address it becomes.
	cut = s.snapshot().Cut
	s.on("hostD", "ip", "address", "add", "192.168.78.4/24", "dev", "eth0")
	for _, h := range []string{"hostB", "hostD"} {
		s.on(h, "ip", "route", "add", map[string]string{"hostB": "192.168.78.0/24", "hostD": "192.168.77.0/24"}[h], "dev", "eth0")
	}
	c.MustCtl("restore", cut, "--remap", "hostC=hostD", "--remap-addr", s.second("hostC")+"=192.168.78.4")
	s.moved("hostC", "hostD")
	s.awaitProgress()
	s.has("hostD", s.Host("hostD").Addr().String(), s.Host("hostD").Addr6().String(), "192.168.78.4")
	s.restore(s.snapshot().Cut)
	s.awaitProgress()
	s.end()
	c.checkLeaks()
}

// has checks that connections of a host have these addresses as their own end, and no others.
func (s *site) has(host string, addrs ...string) {
	s.t.Helper()
	out := s.on(host, "ss", "-Htun", "state", "connected", "exclude", "time-wait", "( sport >= :9700 and sport <= :9711 )")
	var got []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		local, _, _ := strings.Cut(fields[4], "%")
		if at := strings.LastIndexByte(local, ':'); at > 0 {
			local = local[:at]
		}
		got = append(got, strings.TrimPrefix(strings.Trim(local, "[]"), "::ffff:"))
	}
	slices.Sort(got)
	slices.Sort(addrs)
	if got = slices.Compact(got); !slices.Equal(got, addrs) {
		s.t.Errorf("connections of %s have the addresses %v, want %v:\n%s", host, got, addrs, out)
	}
}

// TestDeviceThatATargetLacks needs root and python3. A socket that is bound to a device (SO_BINDTODEVICE), and a multicast group that was joined on one, are refused before the fence where the target has no such device.
func TestDeviceThatATargetLacks(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	s := &site{job: c.newJob("device"), notes: map[string]string{}}
	s.on("hostA", "ip", "link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
	s.on("hostA", "ip", "link", "set", "extra1", "up")
	s.on("hostA", "ip", "address", "add", "192.168.79.1/24", "dev", "extra0")
	s.on("hostA", "ip", "link", "set", "extra0", "up")
	s.client("server", "hostA", "echoes", "tcp%extra0:0.0.0.0:9730")
	s.listens("hostA", 9730)
	s.client("hears", "hostA", "hears", "239.77.0.2:9731", "192.168.79.1")
	s.client("calls", "hostA", "calls", "239.77.0.2:9731", "192.168.79.1")
	s.awaitProgress()
	cut := s.snapshot().Cut
	for _, more := range [][]string{{"--dry-run"}, nil} {
		stdout, stderr, exit := c.Ctl(append([]string{"restore", cut, "--remap", "hostA=hostB"}, more...)...)
		if exit == 0 || !strings.Contains(stdout+stderr, "extra0") {
			t.Errorf("%v: exit code %d\n%s%s", more, exit, stdout, stderr)
		}
		s.awaitProgress()
	}
	s.restore(cut)
	s.awaitProgress()
	s.end()
	c.checkLeaks()
}
