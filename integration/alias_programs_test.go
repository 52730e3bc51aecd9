package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// webConfig is that of an nginx which answers by itself.
const webConfig = `daemon off; user nobody nogroup; worker_processes 2; pid %[1]s/pid; events { worker_connections 512; }
http {
  access_log off; client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  server { listen %[2]s; location / { return 200 "hello\n"; } }
}
`

// balancerConfig is that of a haproxy that makes a connection for each request.
const balancerConfig = haproxyConfig + "  option httpclose\n"

// TestOldAddressesOfPrograms: Debian's nginx, haproxy, mosquitto, and a Redis Cluster of three, with clients that make a connection for each request, after
// their host has died and its part has moved. haproxy and the nodes of the cluster make connections to old addresses as well. Clients of two hosts go on without an
// error, and snapshots in a row succeed: SS_OLD_SNAPSHOTS of them (2; 20 is what was asked for once). Needs root, CRIU, python3 and the programs.
func TestOldAddressesOfPrograms(t *testing.T) {
	withoutRace(t)
	snapshots := int(number(t, "SS_OLD_SNAPSHOTS", 2))
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	for _, row := range []struct {
		name  string
		start func(s *site)
	}{{"servers", startServers}, {"redis-cluster", func(s *site) { startRedisCluster(s) }}} {
		t.Run(row.name, func(t *testing.T) {
			c.t = t
			s := &site{job: c.newJob(row.name), notes: map[string]string{}}
			s.dir = filepath.Join(c.Dir(), row.name)
			row.start(s)
			s.awaitProgress()
			cut := s.snapshot().Cut
			s.awaitProgress()
			c.Host("hostA").PowerOff()
			s.restore(cut, "hostA=hostD")
			s.awaitProgress()
			c.Host("hostA").PowerOn()
			c.Agent("hostA").Start()
			s.snapshotsInARow(snapshots)
			s.restore(s.snapshot().Cut, "hostD=hostA") // back at home
			s.snapshotsInARow(1)
			s.end()
		})
	}
	c.t = t
	c.checkLeaks()
}

// snapshotsInARow takes so many, with progress after each.
func (s *site) snapshotsInARow(n int) {
	s.t.Helper()
	counts := map[int]int{}
	for range n {
		s.awaitProgress()
		tries, _ := s.attempts()
		counts[tries]++
		if tries > 2 {
			s.t.Errorf("a snapshot took %d attempts", tries)
		}
	}
	s.awaitProgress()
	s.t.Logf("%d snapshots by the number of attempts: %v", n, counts)
}

func startServers(s *site) {
	s.server("nginx", "hostA", 8081, "nginx", "-p", s.folder("."), "-c", s.config("nginx", webConfig, s.folder("nginx.d"), s.at("hostA", 8081)), "-e", filepath.Join(s.dir, "error.log"))
	s.server("haproxy", "hostB", 8082, "haproxy", "-db", "-f", s.config("haproxy", balancerConfig, s.at("hostB", 8082), s.at("hostA", 8081)))
	s.server("near", "hostA", 8083, "haproxy", "-db", "-f", s.config("near", balancerConfig, s.at("hostA", 8083), s.at("hostA", 8081)))
	s.server("mosquitto", "hostA", 1883, "mosquitto", "-c", s.config("mosquitto", "listener 1883 0.0.0.0\nallow_anonymous true\nuser nobody\n"))
	s.client("to-nginx", "hostB", "fetches", s.at("hostA", 8081))
	s.client("through-haproxy", "hostC", "fetches", s.at("hostB", 8082))
	s.client("to-haproxy", "hostC", "fetches", s.at("hostA", 8083))
	loop := fmt.Sprintf("n=0; while mosquitto_pub -h %s -t count -q 1 -m $n; do n=$((n+1)); echo progress $n; sleep 0.2; done; echo FAIL message $n", s.Host("hostA").Addr())
	s.serve("publisher", "hostC", "sh", "-c", loop)
}

func startRedisCluster(s *site, options ...string) {
	var nodes []string
	for _, h := range []string{"hostA", "hostB", "hostC"} {
		server := []string{"redis-server", "--port", "7000", "--protected-mode", "no", "--dir", s.folder(h), "--save", "", "--cluster-enabled", "yes"}
		s.server("redis", h, 7000, append(server, options...)...)
		nodes = append(nodes, s.at(h, 7000))
	}
	s.on("hostA", append([]string{"redis-cli", "--cluster", "create", "--cluster-yes"}, nodes...)...)
	await(s.t, "the cluster", func() string {
		for _, h := range []string{"hostA", "hostB", "hostC"} {
			if info := s.on(h, "redis-cli", "-p", "7000", "cluster", "info"); !strings.Contains(info, "cluster_state:ok") {
				return info
			}
		}
		return ""
	})
	s.client("client", "hostB", append([]string{"cluster", "client"}, nodes...)...)
	s.client("other", "hostC", "cluster", "other", nodes[0])
}
