package integration

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// redisCluster has three masters with append-only files, which save in the background as well. Clients make a connection for each command.
var redisCluster = software{
	name: "redis-cluster", version: []string{"redis-server", "--version"}, more: true, spare: "hostD",
	start: func(s *site) {
		startRedisCluster(s, "--appendonly", "yes")
		saves := "while redis-cli -p 7000 bgsave; do sleep 0.5; echo progress saved; done; echo FAIL no answer"
		s.serve("saves", "hostA", "sh", "-c", saves)
	},
}

var rabbitSoftware = software{
	name: "rabbitmq", version: []string{"dpkg-query", "-W", "rabbitmq-server", "erlang-base"}, more: true,
	start: func(s *site) {
		dir := s.private("hostA", "/srv/"+s.name)
		own(s.t, s.Host("hostA").Path(dir), "rabbitmq")
		conf := s.config("rabbit.conf", "listeners.tcp.default = 5672\nloopback_users = none\nlog.console = true\nlog.file = false\n")
		env := []string{
			"HOME=" + dir, "RABBITMQ_NODENAME=rabbit@localhost", "RABBITMQ_MNESIA_BASE=" + dir, "RABBITMQ_LOG_BASE=" + dir, "RABBITMQ_CONFIG_FILE=" + conf,
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + dir + "/plugins", "RABBITMQ_PID_FILE=" + dir + "/pid", "RABBITMQ_GENERATED_CONFIG_DIR=" + dir,
		}
		command := append([]string{"setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups", "--", "env", "-C", dir}, env...)
		s.keeps("rabbitmq", "hostA", dir, append(command, "/usr/lib/rabbitmq/bin/rabbitmq-server")...)
		s.listensOn("hostA", 5672)
		for i := range 2 {
			queue := fmt.Sprintf("numbers%d", i)
			s.client("consumes"+queue, "hostB", "consumes", s.at("hostA", 5672), queue)
			s.client("publishes"+queue, "hostB", "publishes", s.at("hostA", 5672), queue)
		}
	},
}

// listensOn waits until something accepts connections at a port of a host, over IPv4 or IPv6.
func (s *site) listensOn(host string, port int) {
	s.t.Helper()
	await(s.t, fmt.Sprintf("port %d of %s", port, host), func() string {
		out, err := s.Host(host).Command(s.t.Context(), "nc", "-z", s.Host(host).Addr().String(), fmt.Sprint(port)).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s%v; the log: %s", out, err, s.lastLog())
		}
		return ""
	})
}

// sshSoftware is a session on a terminal. The client has one as well.
var sshSoftware = software{
	name: "ssh", version: []string{"sh", "-c", "ssh -V 2>&1"},
	start: func(s *site) {
		for _, key := range []string{"host", "user"} {
			s.on("hostA", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key))
		}
		for _, h := range []string{"hostA", "hostC"} {
			must(s.t, os.MkdirAll(s.Host(h).Path("/run/sshd"), 0o755)) // sshd asks for it at each login
		}
		conf := s.config("sshd", "Port 22\nHostKey %[1]s/host\nAuthorizedKeysFile %[1]s/user.pub\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile none\n", s.dir)
		s.server("sshd", "hostA", 22, "/usr/sbin/sshd", "-D", "-e", "-f", conf)
		s.client("session", "hostB", "terminal", "ssh", "-tt", "-F", "none", "-i", filepath.Join(s.dir, "user"), "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", s.Host("hostA").Addr().String(), "bash --norc")
	},
}

// mpi compiles testdata/mpi.c with a compiler of an MPI and returns the program's path.
func (s *site) mpi(compiler string) string {
	s.t.Helper()
	program := filepath.Join(s.dir, "mpi")
	if out, err := exec.CommandContext(s.t.Context(), compiler, "-O1", "-Wall", "-o", program, "testdata/mpi.c").CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
	return program
}

// openMPI starts its daemons through a launcher of ours instead of ssh. A person's launcher calls `ssctl run`; this one leaves the command to the test.
var openMPI = software{
	name: "openmpi", version: []string{"mpirun.openmpi", "--version"}, more: true, spare: "hostD",
	start: func(s *site) {
		program := s.mpi("mpicc.openmpi")
		launch := s.config("launch", "#!/bin/sh\nhost=$1; shift; printf '%%s\\n' \"$*\" > %[1]s/$host.new; mv %[1]s/$host.new %[1]s/$host.launch\n", s.dir)
		must(s.t, os.Chmod(launch, 0o755))
		var hosts []string
		for _, h := range []string{"hostA", "hostB", "hostC"} {
			s.private(h, "/srv/"+s.name)
			hosts = append(hosts, s.Host(h).Addr().String())
		}
		s.serve("mpirun", "hostA", "env", "TMPDIR=/srv/"+s.name, "mpirun.openmpi", "--allow-run-as-root", "--host", strings.Join(hosts, ","), "-n", "3", "--bind-to", "none",
			"--mca", "plm_rsh_agent", launch, "--mca", "plm_rsh_no_tree_spawn", "1", "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", program)
		for _, h := range []string{"hostB", "hostC"} {
			order := filepath.Join(s.dir, s.Host(h).Addr().String()+".launch")
			await(s.t, order, func() string {
				if _, err := os.Stat(order); err != nil {
					return fmt.Sprintf("%v; the log: %s", err, s.log(s.members[0]))
				}
				return ""
			})
			s.serve("daemon", h, "env", "TMPDIR=/srv/"+s.name, "sh", order)
		}
	},
}

var hydraLaunch = regexp.MustCompile(`(?m)^HYDRA_LAUNCH: (.*--proxy-id (\d+).*)$`)

// mpich has a launcher that tells a person what to start.
var mpich = software{
	name: "mpich", version: []string{"mpiexec.hydra", "--version"}, more: true, spare: "hostD",
	start: func(s *site) {
		program := s.mpi("mpicc.mpich")
		var hosts []string
		for _, h := range []string{"hostA", "hostB", "hostC"} {
			hosts = append(hosts, s.Host(h).Addr().String())
		}
		s.serve("mpiexec", "hostA", "mpiexec.hydra", "-launcher", "manual", "-localhost", hosts[0], "-hosts", strings.Join(hosts, ","), "-n", "3",
			"-genv", "UCX_TLS", "tcp,self", program)
		await(s.t, "what to launch", func() string {
			if log := s.log(s.members[0]); !strings.Contains(log, "HYDRA_LAUNCH_END") {
				return log
			}
			return ""
		})
		for i, found := range hydraLaunch.FindAllStringSubmatch(s.log(s.members[0]), -1) {
			s.serve("proxy"+found[2], []string{"hostA", "hostB", "hostC"}[i], "sh", "-c", "exec "+found[1])
		}
	},
}

var nodeSoftware = software{
	name: "node", version: []string{"node", "--version"}, more: true,
	start: func(s *site) {
		source, err := os.ReadFile("testdata/chat.js")
		must(s.t, err)
		program := filepath.Join(s.dir, "chat.js")
		must(s.t, os.WriteFile(program, source, 0o644))
		host := s.Host("hostA").Addr().String()
		s.server("chat", "hostA", 8000, "node", program, "server", host, "8000")
		for i, h := range []string{"hostB", "hostB", "hostC"} {
			s.serve(fmt.Sprintf("talker%d", i), h, "node", program, "client", host, "8000", fmt.Sprint("talker", i), "3")
		}
	},
	spare: "hostD",
}

var javaSoftware = software{
	name: "java", version: []string{"java", "-version"}, more: true,
	start: func(s *site) {
		s.on("hostA", "javac", "-d", s.dir, s.here("testdata/Counted.java"))
		host := s.Host("hostA").Addr().String()
		s.serve("server", "hostA", "java", "-Xmx96m", "-cp", s.dir, "Counted", host, "8085")
		s.listensOn("hostA", 8085)
		for i := range 3 {
			s.client(fmt.Sprintf("client%d", i), "hostB", "counts", s.at("hostA", 8085), fmt.Sprintf("/client/%d", i))
		}
	},
}

// here is the path of a file of this folder, as all hosts see it.
func (s *site) here(name string) string {
	s.t.Helper()
	path, err := filepath.Abs(name)
	must(s.t, err)
	return path
}

// rsyncSoftware fetches a file of 96 MiB that is declared at one end, into a folder that is declared at the other.
var rsyncSoftware = software{
	name: "rsync", version: []string{"rsync", "--version"}, more: true,
	start: func(s *site) {
		from, to := s.private("hostA", "/srv/"+s.name), s.private("hostB", "/srv/"+s.name)
		data := make([]byte, 96<<20)
		seed := rand.NewChaCha8([32]byte{1})
		_, _ = seed.Read(data) // it never fails
		must(s.t, s.Host("hostA").WriteFile(from+"/large", data))
		must(s.t, s.Host("hostA").WriteFile(from+"/sum", fmt.Appendf(nil, "%x\n", sha256.Sum256(data))))
		conf := s.config("rsyncd", "use chroot = no\nuid = root\ngid = root\n[files]\npath = %s\nread only = yes\n", from)
		s.keeps("rsyncd", "hostA", from, "rsync", "--daemon", "--no-detach", "--address", s.Host("hostA").Addr().String(), "--config", conf)
		s.listens("hostA", 873)
		s.keeps("fetches", "hostB", to, "/usr/bin/python3", "-u", s.clients(), "rsyncs", fmt.Sprintf("rsync://%s/files", s.Host("hostA").Addr()), to)
	},
	judge: func(s *site) {
		complete := func() int { return strings.Count(s.lastLog(), "\ncomplete ") }
		before := complete()
		await(s.t, "the files that are under way", func() string {
			if n := complete(); n < before+2 {
				return fmt.Sprintf("%d whole ones, and %d before: %s", n, before, lastLine(s.lastLog()))
			}
			return ""
		})
	},
}

var spawnSoftware, forkserverSoftware = multiprocessing("spawn"), multiprocessing("forkserver")

// multiprocessing is a pool of Python's processes on each of two hosts.
func multiprocessing(method string) software {
	return software{
		name: "python-" + method, version: []string{"/usr/bin/python3", "--version"}, more: true,
		start: func(s *site) {
			program := filepath.Join(s.dir, "pool.py")
			must(s.t, os.WriteFile(program, []byte(pythonPool), 0o644))
			for _, h := range []string{"hostA", "hostB"} {
				s.serve("pool-"+h, h, "/usr/bin/python3", program, method)
			}
		},
	}
}
