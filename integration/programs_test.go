package integration

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// software is a set of servers and clients that TestPrograms takes snapshots of.
type software struct {
	name string
	// version is a command that prints what is tested, for the log.
	version []string
	// more keeps it out of CI: `make real-programs` runs it.
	more bool
	// start starts the members on hostA and hostB, and perhaps on hostC. What happens then ends hostA and moves its part to spare.
	start func(s *site)
	// spare is the host that gets hostA's part; hostC without it.
	spare string
	// judge checks at the end that the result is right, beyond what clients check all the time. Optional.
	judge func(s *site)
	// progress waits until the load has gone on; awaitProgress without it.
	progress func(s *site)
}

// site is where one software runs.
type site struct {
	*job
	dir   string            // a folder that all hosts share, for the software's files
	notes map[string]string // what start tells judge
}

// everySoftware is what TestPrograms runs, in this order.
var everySoftware = []software{
	redisSoftware, redisCluster, memcachedSoftware, mosquittoSoftware, proxySoftware, sqliteSoftware, postgresSoftware, postgresFiles, etcdSoftware,
	rabbitSoftware, sshSoftware, openMPI, mpich, nodeSoftware, javaSoftware, rsyncSoftware, spawnSoftware, forkserverSoftware,
}

// TestPrograms: ordinary server software of Debian's packages, under load. Two snapshots; a host dies, and its part is restored on another; one more snapshot,
// and a restore in place. The load goes on after each step, every answer is the one that must come, and the software's own check of its data passes.
// SS_PROGRAMS names what is run, separated by commas, or is "all"; without it, what fits into CI is. SS_PROGRAMS_ROUNDS is how often (1).
// Needs root, CRIU, python3 and the packages of the programs.
func TestPrograms(t *testing.T) {
	withoutRace(t)
	r := newRig(t, "hostA", "hostB", "hostC", "hostD")
	defer r.relay.close()
	for _, sw := range chosen(t) {
		out, err := exec.CommandContext(t.Context(), sw.version[0], sw.version[1:]...).CombinedOutput()
		var exit *exec.ExitError // some end with it after they have told their version
		if err != nil && !errors.As(err, &exit) {
			t.Errorf("%s: %v: %v\n%s", sw.name, sw.version, err, out)
			continue
		}
		version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		for i := range number(t, "SS_PROGRAMS_ROUNDS", 1) {
			t.Run(fmt.Sprintf("%s/%d", sw.name, i), func(t *testing.T) {
				t.Logf("version: %s", version)
				r.use(t)
				r.ordeal(sw)
			})
			r.use(t)
			if r.relay.Failed() {
				return
			}
		}
	}
	r.checkLeaks()
}

func chosen(t *testing.T) []software {
	t.Helper()
	names := strings.Split(os.Getenv("SS_PROGRAMS"), ",")
	var out []software
	for _, sw := range everySoftware {
		if names[0] == "all" || names[0] == "" && !sw.more || slices.Contains(names, sw.name) {
			out = append(out, sw)
		}
	}
	if len(out) == 0 {
		t.Fatalf("SS_PROGRAMS=%q names none", names)
	}
	return out
}

// ordeal runs one software through all that TestPrograms promises.
func (r *rig) ordeal(sw software) {
	r.t.Helper()
	r.jobs++
	s := &site{job: r.newJob(fmt.Sprintf("%s%d", sw.name, r.jobs)), notes: map[string]string{}}
	s.dir = filepath.Join(r.Dir(), s.name)
	must(r.t, os.MkdirAll(s.dir, 0o755))
	sw.start(s)
	goesOn := func() {
		r.t.Helper()
		if sw.progress != nil {
			sw.progress(s)
			return
		}
		s.awaitProgress()
	}
	goesOn()
	s.snapshot()
	goesOn()
	cut := s.snapshot().Cut
	goesOn()
	r.Host("hostA").PowerOff()
	s.restore(cut, "hostA="+cmp.Or(sw.spare, "hostC"))
	goesOn()
	r.Host("hostA").PowerOn()
	r.Agent("hostA").Start()
	cut = s.snapshot().Cut
	goesOn()
	s.restore(cut)
	goesOn()
	if sw.judge != nil {
		sw.judge(s)
	}
	s.end()
	must(r.t, os.RemoveAll(s.dir))
}

// keeps starts a member whose files in a folder are part of each cut.
func (s *site) keeps(name, host, folder string, command ...string) {
	s.t.Helper()
	m := &member{name: name, host: host, endless: true}
	s.members = append(s.members, m)
	s.MustCtl(append([]string{"run", s.name, "--host", host, "--log", s.logPath(m), "--files", folder, "--"}, command...)...)
}

// private makes a folder on a host's own disk.
func (s *site) private(host, path string) string {
	s.t.Helper()
	for _, h := range s.Hosts() {
		must(s.t, os.Chmod(h.Path("/srv"), 0o755)) // programs of other users come to it
	}
	must(s.t, os.MkdirAll(s.Host(host).Path(path), 0o755))
	return path
}

// client starts a client of testdata/clients.py as a member.
func (s *site) client(name, host string, args ...string) *member {
	s.t.Helper()
	s.serve(name, host, append([]string{"/usr/bin/python3", "-u", s.clients()}, args...)...)
	return s.members[len(s.members)-1]
}

// clients is the path of testdata/clients.py, as all hosts see it.
func (s *site) clients() string {
	s.t.Helper()
	path := filepath.Join(s.Dir(), "clients.py")
	if _, err := os.Stat(path); err != nil {
		source, err := os.ReadFile("testdata/clients.py")
		must(s.t, err)
		must(s.t, os.WriteFile(path, source, 0o644))
	}
	return path
}

// at is an address on a host.
func (s *site) at(host string, port int) string {
	return fmt.Sprintf("%s:%d", s.Host(host).Addr(), port)
}

// listens waits until something listens on a port of a host.
func (s *site) listens(host string, port int) {
	s.t.Helper()
	await(s.t, fmt.Sprintf("port %d of %s", port, host), func() string {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", s.Host(host).Pid()))
		if err != nil || !strings.Contains(string(table), fmt.Sprintf(":%04X 00000000:0000 0A", port)) {
			return fmt.Sprintf("nobody listens; the log: %s", s.lastLog())
		}
		return ""
	})
}

// lastLog is what the member that was started last has written.
func (s *site) lastLog() string {
	if len(s.members) == 0 {
		return ""
	}
	return s.log(s.members[len(s.members)-1])
}

// on runs a command on a host and returns its output.
func (s *site) on(host string, args ...string) string {
	s.t.Helper()
	out, err := s.Host(host).Command(s.t.Context(), args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %v\n%s", host, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// server starts a server as a member, and returns when it listens.
func (s *site) server(name, host string, port int, command ...string) {
	s.t.Helper()
	s.serve(name, host, command...)
	s.listens(host, port)
}

// config writes a file of the software's folder and returns its path.
func (s *site) config(name, format string, args ...any) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	must(s.t, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644))
	return path
}

// folder makes a folder below the software's own.
func (s *site) folder(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	must(s.t, os.MkdirAll(path, 0o755))
	return path
}

var redisSoftware = software{
	name: "redis", version: []string{"redis-server", "--version"},
	start: func(s *site) {
		for _, h := range []string{"hostA", "hostB"} {
			args := []string{"redis-server", "--port", "6379", "--protected-mode", "no", "--dir", s.folder(h), "--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0"}
			if h == "hostB" {
				args = append(args, "--replicaof", s.Host("hostA").Addr().String(), "6379")
			}
			s.server("redis", h, 6379, args...)
		}
		await(s.t, "the replica", func() string {
			if info := s.on("hostB", "redis-cli", "info", "replication"); !strings.Contains(info, "master_link_status:up") {
				return info
			}
			return ""
		})
		s.client("client", "hostB", "redis", s.at("hostA", 6379), s.at("hostB", 6379))
	},
	judge: func(s *site) {
		if info := s.on("hostC", "redis-cli", "info", "stats"); !strings.Contains(info, "sync_full:1\r\n") {
			s.t.Errorf("the replica was synchronised from the start:\n%s", info)
		}
	},
}

var memcachedSoftware = software{
	name: "memcached", version: []string{"memcached", "--version"}, more: true,
	start: func(s *site) {
		s.server("memcached", "hostA", 11211, "memcached", "-u", "nobody", "-l", "0.0.0.0", "-U", "0", "-m", "16")
		s.client("client", "hostB", "memcached", s.at("hostA", 11211))
	},
}

var mosquittoSoftware = software{
	name: "mosquitto", version: []string{"mosquitto", "-h"},
	start: func(s *site) {
		conf := s.config("conf", "listener 1883 0.0.0.0\nallow_anonymous true\nsys_interval 1\nuser nobody\nmax_queued_messages 0\n")
		s.server("mosquitto", "hostA", 1883, "mosquitto", "-c", conf)
		broker := s.Host("hostA").Addr().String()
		for _, qos := range []string{"1", "2"} {
			to := fmt.Sprintf("-h %s -q %s -t count%s", broker, qos, qos)
			s.serve("sub"+qos, "hostB", "sh", "-c", fmt.Sprintf("mosquitto_sub %s -i sub%s | python3 -u %s in_order", to, qos, s.clients()))
		}
		s.subscribed(2)
		for _, qos := range []string{"1", "2"} {
			to := fmt.Sprintf("-h %s -q %s -t count%s", broker, qos, qos)
			s.serve("pub"+qos, "hostB", "sh", "-c", fmt.Sprintf("python3 -u %s numbers | mosquitto_pub %s -l -i pub%s", s.clients(), to, qos))
		}
	},
}

// subscribed waits until that many subscriptions are active.
func (s *site) subscribed(n int) {
	s.t.Helper()
	await(s.t, "subscriptions", func() string {
		got := s.on("hostB", "mosquitto_sub", "-h", s.Host("hostA").Addr().String(), "-t", "$SYS/broker/subscriptions/count", "-C", "1")
		if count, _ := strconv.Atoi(got); count < n {
			return got
		}
		return ""
	})
}

var proxySoftware = software{
	name: "haproxy", version: []string{"haproxy", "-v"},
	start: func(s *site) {
		s.server("backend", "hostA", 8081, "/usr/bin/python3", "-u", s.clients(), "counted", s.at("hostA", 8081), "3")
		nginx := s.config("nginx", upstreamConfig, s.folder("nginx.d"), s.at("hostA", 8081), s.at("hostB", 8082))
		s.server("nginx", "hostB", 8082, "nginx", "-p", s.dir, "-c", nginx, "-e", filepath.Join(s.dir, "error.log"))
		haproxy := s.config("haproxy", haproxyConfig, s.at("hostA", 8083), s.at("hostB", 8082))
		s.server("haproxy", "hostA", 8083, "haproxy", "-db", "-f", haproxy)
		for i := range 3 {
			s.client(fmt.Sprintf("client%d", i), "hostB", "counts", s.at("hostA", 8083), fmt.Sprintf("/client/%d", i))
		}
	},
}

// upstreamConfig is that of an nginx that hands requests on, over connections that it keeps for ever: one that it made after a move would
// go to the address that has moved.
const upstreamConfig = `daemon off; user nobody nogroup; worker_processes 2; pid %[1]s/pid; events { worker_connections 512; }
http {
  keepalive_requests 1000000000; keepalive_timeout 1d; keepalive_time 1d;
  access_log off; client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  upstream back { server %[2]s; keepalive 4; keepalive_requests 1000000000; keepalive_timeout 1d; keepalive_time 1d; }
  server { listen %[3]s; location / { proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
`

// haproxyConfig is that of a haproxy whose clients have a connection each to the server behind it.
const haproxyConfig = `global
  maxconn 200
defaults
  mode http
  timeout connect 60s
  timeout client 1h
  timeout server 1h
frontend in
  bind %s
  default_backend web
backend web
  http-reuse never
  server nginx %s
`

var sqliteSoftware = software{
	name: "sqlite", version: []string{"python3", "-c", "import sqlite3; print('SQLite', sqlite3.sqlite_version)"},
	start: func(s *site) {
		// With a rollback journal SQLite writes to no file whose inode is another one than when it was opened: it can move on storage that the hosts share.
		s.notes["delete"], s.notes["wal"] = s.folder("delete"), s.private("hostA", "/srv/"+s.name)
		for mode, dir := range s.notes {
			s.keeps(mode, "hostA", dir, "/usr/bin/python3", "-u", s.clients(), "sqlite", dir+"/db", mode)
		}
	},
	judge: func(s *site) {
		s.MustCtl("kill", s.name)
		for mode, dir := range s.notes {
			if out := s.on("hostC", "python3", "-c", "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone())", dir+"/db"); out != "ok" {
				s.t.Errorf("%s: %s", mode, out)
			}
		}
	},
}

const postgresBin = "/usr/lib/postgresql"

// postgres is the command of one of PostgreSQL's programs, as its own user.
func (s *site) postgres(program string, args ...string) []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(postgresBin, "*", "bin", program))
	if err != nil || len(found) == 0 {
		s.t.Fatalf("no %s below %s (%v)", program, postgresBin, err)
	}
	return append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", found[len(found)-1]}, args...)
}

var postgresSoftware = software{
	name: "postgres", version: []string{"pgbench", "--version"},
	start: func(s *site) {
		own(s.t, s.dir, "postgres")
		s.startPostgres(filepath.Join(s.dir, "primary"), filepath.Join(s.dir, "standby"), func(name, host, _ string, command ...string) {
			// No file of the cut may change after it that is not open: nothing is removed, renamed or made again.
			s.serve(name, host, append(command, "-c", "checkpoint_timeout=1h", "-c", "autovacuum=off")...)
		})
	},
	progress: transactions, judge: sumsEqual,
}

// postgresFiles has the data on each host's own disk: what moves comes to a host that has none of it.
var postgresFiles = software{
	name: "postgres-files", version: []string{"pgbench", "--version"}, more: true,
	start: func(s *site) {
		dir := "/srv/" + s.name
		for _, h := range []string{"hostA", "hostB"} {
			own(s.t, s.Host(h).Path(s.private(h, dir)), "postgres")
		}
		s.startPostgres(dir+"/data", dir+"/data", s.keeps)
	},
	progress: transactions, judge: sumsEqual,
}

// startPostgres starts a primary on hostA, its standby on hostB, and pgbench. run starts a server whose data is in a folder.
func (s *site) startPostgres(primary, standby string, run func(name, host, dir string, command ...string)) {
	s.t.Helper()
	s.on("hostA", s.postgres("initdb", "-D", primary, "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")...)
	hba, err := os.OpenFile(s.Host("hostA").Path(primary+"/pg_hba.conf"), os.O_WRONLY|os.O_APPEND, 0)
	must(s.t, err)
	_, err = hba.WriteString("host all all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n")
	must(s.t, err)
	must(s.t, hba.Close())
	server := func(name, host, dir string) {
		s.t.Helper()
		run(name, host, dir, s.postgres("postgres", "-D", dir, "-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off")...)
		s.listens(host, 5432)
	}
	server("primary", "hostA", primary)
	from := s.Host("hostA").Addr().String()
	await(s.t, "the primary", func() string {
		out, err := s.Host("hostA").Command(s.t.Context(), s.postgres("pg_isready", "-h", from)...).CombinedOutput()
		if err != nil {
			return string(out)
		}
		return ""
	})
	s.on("hostA", s.postgres("pgbench", "-h", from, "-i", "-s", "1", "-q", "postgres")...)
	s.on("hostB", s.postgres("pg_basebackup", "-h", from, "-D", standby, "-R", "--no-sync", "-c", "fast")...)
	server("standby", "hostB", standby)
	s.serve("pgbench", "hostB", s.postgres("pgbench", "-h", from, "-n", "-c", "4", "-T", "100000", "postgres")...)
}

// transactions waits until some more have arrived at the standby.
func transactions(s *site) {
	at := func(host string) int {
		n, _ := strconv.Atoi(s.query(host, "SELECT count(*) FROM pgbench_history"))
		return n
	}
	before := at("hostB")
	await(s.t, "transactions", func() string {
		if n := at("hostB"); n < before+50 {
			return fmt.Sprintf("%d, and %d before", n, before)
		}
		return ""
	})
}

// sumsEqual checks what must be equal in all tables of pgbench, on both servers, and that none was promoted.
func sumsEqual(s *site) {
	const sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history)"
	for _, host := range []string{"hostC", "hostB"} {
		all := strings.Split(s.query(host, sums), "|")
		if len(slices.Compact(all)) != 1 || all[0] == "" {
			s.t.Errorf("sums on %s: %v", host, all)
		}
		if line := s.query(host, "SELECT timeline_id FROM pg_control_checkpoint()"); line != "1" {
			s.t.Errorf("timeline of %s: %s", host, line)
		}
	}
}

// query asks a PostgreSQL server.
func (s *site) query(host, sql string) string {
	s.t.Helper()
	return s.on(host, "psql", "-h", s.Host(host).Addr().String(), "-U", "postgres", "-XAtqc", sql, "postgres")
}

// own gives a folder to a user of the system.
func own(t *testing.T, path, name string) {
	t.Helper()
	u, err := user.Lookup(name)
	must(t, err)
	uid, _ := strconv.Atoi(u.Uid) // on Linux it is a number
	gid, _ := strconv.Atoi(u.Gid)
	must(t, os.Chown(path, uid, gid))
}

var etcdSoftware = software{
	name: "etcd", version: []string{"etcd", "--version"}, more: true,
	start: func(s *site) {
		hosts := map[string]string{"one": "hostA", "two": "hostB", "three": "hostB"}
		ports := map[string]int{"one": 2379, "two": 2379, "three": 2389}
		var all []string
		for _, name := range []string{"one", "two", "three"} {
			all = append(all, fmt.Sprintf("%s=http://%s", name, s.at(hosts[name], ports[name]+1)))
		}
		for _, name := range []string{"one", "two", "three"} {
			client, peer := "http://"+s.at(hosts[name], ports[name]), "http://"+s.at(hosts[name], ports[name]+1)
			s.serve(name, hosts[name], "etcd", "--name", name, "--data-dir", s.folder(name),
				"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
				"--initial-cluster", strings.Join(all, ","), "--unsafe-no-fsync", "--heartbeat-interval", "500", "--election-timeout", "5000")
		}
		for name, host := range hosts {
			s.listens(host, ports[name])
		}
		s.notes["term"] = s.on("hostB", "python3", s.clients(), "etcd_term", s.at("hostB", 2379))
		s.client("first", "hostB", "etcd", s.at("hostA", 2379), "first")
		s.client("second", "hostA", "etcd", s.at("hostB", 2379), "second")
	},
	judge: func(s *site) {
		for _, at := range []string{s.at("hostC", 2379), s.at("hostB", 2379), s.at("hostB", 2389)} {
			// The same leader since the beginning, and the same term: nobody has missed anybody.
			if now, first := s.on("hostB", "python3", s.clients(), "etcd_term", at), s.notes["term"]; now != first {
				s.t.Errorf("leader and term at %s: %s, and %s at first", at, now, first)
			}
		}
	},
}
