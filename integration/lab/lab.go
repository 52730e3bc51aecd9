package lab

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// AdminName is the name of the host on which ssctl runs. Every lab has it, without an agent.
const AdminName = "admin"

// adminNumber ends the addresses of the host "admin"; the other hosts count from 1.
const adminNumber = 254

// KeepVariable names the environment variable that, when set, makes a lab leave its folder in place at its end, for
// someone to look at. Everything else is removed all the same.
const KeepVariable = "SSLAB_KEEP"

// MemoryVariable names the environment variable that says how agents copy memory: tracked, of members of any size, or frozen. Without it they do as they are.
const MemoryVariable = "SS_MEMORY"

// Lab is a set of hosts on one switch. It is for one goroutine at a time.
type Lab struct {
	// AgentConfig is added to every agent's agent.yaml by Init.
	AgentConfig string
	// Bin is the folder of the ssctl that the lab runs from now on, and of the agents that Init makes; empty for the programs under test.
	Bin string

	tb      TB
	id      string
	dir     string
	network *network
	hosts   []*Host // in the order New was given, "admin" last
	agents  map[string]*Agent
	inited  bool
}

// New makes a lab with the named hosts and "admin", all of them on. It is removed when tb's test ends. It needs root. What
// dead labs have left on the machine is removed first.
func New(tb TB, names ...string) *Lab {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatalf("a lab makes namespaces, mounts and cgroups: run this as root")
	}
	// A descriptor that this process was started with, of a terminal or a build tool, would reach every program on every host, and
	// CRIU refuses to dump what was opened in another mount namespace.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		tb.Fatalf("lab: keep descriptors from being inherited: %v", err)
	}
	if err := Clean(); err != nil {
		tb.Logf("lab: remove what dead labs left: %v", err)
	}
	dir, err := makeDir("")
	if err != nil {
		tb.Fatalf("lab: %v", err)
	}
	l := &Lab{tb: tb, id: dirID(dir), dir: dir, agents: map[string]*Agent{}}
	tb.Cleanup(l.close)
	if err := l.build(names); err != nil {
		tb.Fatalf("lab: %v", err)
	}
	return l
}

func (l *Lab) build(names []string) error {
	if err := l.saveState(); err != nil {
		return err
	}
	network, err := newNetwork()
	if err != nil {
		return err
	}
	l.network = network
	for i, name := range names {
		if err := l.addHost(name, i+1); err != nil {
			return err
		}
	}
	return l.addHost(AdminName, adminNumber)
}

func (l *Lab) addHost(name string, number int) error {
	if name == "" || strings.ContainsAny(name, "/ ") || number > adminNumber || l.find(name) != nil {
		return fmt.Errorf("host %q: need up to %d different names without blanks and slashes, none of them %q", name, adminNumber-1, AdminName)
	}
	h := &Host{
		Name: name, lab: l, number: number, pidfd: -1,
		addr:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}), 24),
		addr6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(number)}), 64),
	}
	l.hosts = append(l.hosts, h)
	return h.boot()
}

// Host returns the host of that name, or ends the test.
func (l *Lab) Host(name string) *Host {
	l.tb.Helper()
	h := l.find(name)
	if h == nil {
		l.tb.Fatalf("lab: no host %q", name)
	}
	return h
}

// Hosts are all hosts but "admin".
func (l *Lab) Hosts() []*Host { return l.hosts[:len(l.hosts)-1] }

// Dir is a folder on disk that goes with the lab. Its path is the same on every host.
func (l *Lab) Dir() string { return l.dir }

func (l *Lab) find(name string) *Host {
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

func (l *Lab) cgroup() string { return cgroupPrefix + l.id }

// close takes the lab down.
func (l *Lab) close() {
	l.stopAgents()
	if l.tb.Failed() {
		l.report()
	}
	var failures []error
	for _, h := range l.hosts {
		failures = append(failures, h.powerOff())
	}
	if l.network != nil {
		failures = append(failures, l.network.close())
	}
	failures = append(failures, removeCgroup(l.cgroup()))
	if os.Getenv(KeepVariable) == "" {
		failures = append(failures, os.RemoveAll(l.dir))
	} else {
		l.tb.Logf("lab: left in place: %s", l.dir)
	}
	if err := errors.Join(failures...); err != nil {
		l.tb.Errorf("lab: take down: %v", err)
	}
}

// makeDir makes a folder for a lab, on disk: /tmp, or /var/tmp where /tmp is in memory, as images may be
// gigabytes large.
func makeDir(kind string) (string, error) {
	base := "/tmp"
	var fs unix.Statfs_t
	if err := unix.Statfs(base, &fs); err != nil {
		return "", fmt.Errorf("examine %s: %w", base, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		base = "/var/tmp"
	}
	dir, err := os.MkdirTemp(base, dirPrefix+kind)
	if err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	// Members may run under another user and execute programs below it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	return dir, nil
}

// dirID is the part of a lab's name that is its own.
func dirID(dir string) string { return strings.TrimPrefix(filepath.Base(dir), dirPrefix) }
