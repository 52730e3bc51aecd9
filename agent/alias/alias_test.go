package alias

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

const dialVariable = "SS_ALIAS_DIAL"

// TestMain dials and says where that led, in a process that was started in a cgroup.
func TestMain(m *testing.M) {
	to := os.Getenv(dialVariable)
	if to == "" {
		os.Exit(m.Run())
	}
	if mapped, ok := strings.CutPrefix(to, "mapped "); ok {
		fmt.Println(dialMapped(netip.MustParseAddrPort(mapped)))
		return
	}
	var d net.Dialer
	asked, outside := strings.CutPrefix(to, "outside ")
	if outside {
		to = asked
	}
	if local, dial, ok := strings.Cut(to, " "); ok {
		d.LocalAddr, to = &net.TCPAddr{IP: net.ParseIP(local)}, dial
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		fmt.Println(errors.Unwrap(err))
		return
	}
	if outside {
		fmt.Println(askOutside(c.(*net.TCPConn)))
		return
	}
	fmt.Println(c.LocalAddr().(*net.TCPAddr).IP, c.RemoteAddr().(*net.TCPAddr).IP)
}

// askOutside leaves the cgroup for the root one, and says what the socket says then.
func askOutside(c *net.TCPConn) string {
	mounts, err := proc.Mounts("cgroup2")
	if err != nil || len(mounts) == 0 {
		return fmt.Sprint("no cgroup v2 hierarchy is mounted: ", err)
	}
	if err := os.WriteFile(filepath.Join(mounts[0].Mountpoint, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err.Error()
	}
	said := ""
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			for _, ask := range []func(int) (unix.Sockaddr, error){unix.Getsockname, unix.Getpeername} {
				if a, err := ask(int(fd)); err != nil {
					said += err.Error() + " "
				} else {
					said += netip.AddrFrom4(a.(*unix.SockaddrInet4).Addr).String() + " "
				}
			}
		})
	}
	if err != nil {
		return err.Error()
	}
	return said
}

// dialMapped connects an IPv6 socket to an IPv4 address. Package net takes an IPv4 socket for that.
func dialMapped(to netip.AddrPort) string {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return err.Error()
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err.Error()
	}
	return netip.AddrFrom16(peer.(*unix.SockaddrInet6).Addr).String()
}

// TestConnections needs root. It connects from a cgroup with aliases, from one below it, and from outside.
func TestConnections(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("it needs root")
	}
	cgroup, dial := fixture(t)
	below := filepath.Join(cgroup, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(below) })
	exchange := func(names []agent.Alias, pairs ...string) {
		t.Helper()
		if err := Set(cgroup, pairsOf(pairs...), names); err != nil {
			t.Fatal(err)
		}
	}
	aliases := func(pairs ...string) { t.Helper(); exchange(nil, pairs...) }
	check := func(dir, to, want string) {
		t.Helper()
		if got := dial(dir, to); got != want {
			t.Errorf("in %s, %s leads to %q, want %q", filepath.Base(dir), to, got, want)
		}
	}
	const nobody = "connect: connection refused"
	check(cgroup, "127.0.0.2:PORT", nobody)
	aliases("127.0.0.2", "127.0.0.1", "2001:db8::9", "::1", "255.255.255.254", "127.0.0.1")
	check(cgroup, "127.0.0.2:PORT", "127.0.0.1 127.0.0.1")
	check(below, "127.0.0.2:PORT", "127.0.0.1 127.0.0.1")
	check(cgroup, "mapped 127.0.0.2:PORT", "::ffff:127.0.0.1")
	check(cgroup, "255.255.255.254:PORT", "127.0.0.1 127.0.0.1")
	check(cgroup, "127.0.0.2 127.0.0.1:PORT", "127.0.0.1 127.0.0.1") // bound to the old one
	check(cgroup, "[2001:db8::9]:PORT", "::1 ::1")
	check(cgroup, "127.0.0.3:PORT", nobody)
	check(filepath.Dir(cgroup), "127.0.0.2:PORT", nobody)

	aliases("127.0.0.3", "127.0.0.1", "127.0.0.1", "127.0.0.3") // a swap, in place of the others
	check(cgroup, "127.0.0.3:PORT", "127.0.0.1 127.0.0.1")
	check(cgroup, "127.0.0.1:PORT", nobody)
	check(cgroup, "127.0.0.2:PORT", nobody)
	aliases()
	check(cgroup, "127.0.0.3:PORT", nobody)

	// Told by their names, one of each family.
	exchange(pairsOf("127.0.0.1", "127.0.0.3", "::1", "2001:db8::9"), "127.0.0.3", "127.0.0.1", "2001:db8::9", "::1")
	check(cgroup, "127.0.0.3:PORT", "127.0.0.3 127.0.0.3")
	check(below, "127.0.0.3:PORT", "127.0.0.3 127.0.0.3")
	check(cgroup, "mapped 127.0.0.3:PORT", "::ffff:127.0.0.3")
	check(cgroup, "[2001:db8::9]:PORT", "2001:db8::9 2001:db8::9")
	check(filepath.Dir(cgroup), "127.0.0.1:PORT", "127.0.0.1 127.0.0.1")
	check(cgroup, "outside 127.0.0.3:PORT", "127.0.0.1 127.0.0.1") // a process that is not in the cgroup asks a socket of it

	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("2001:db8::%x", i+1), "::1")
	}
	aliases(many...)
	check(cgroup, "[2001:db8::c8]:PORT", "::1 ::1")
}

// pairsOf makes aliases: from, to, from, to.
func pairsOf(pairs ...string) []agent.Alias {
	var out []agent.Alias
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, agent.Alias{From: netip.MustParseAddr(pairs[i]), To: netip.MustParseAddr(pairs[i+1])})
	}
	return out
}

// fixture makes a cgroup, and listens on ports of 127.0.0.1 and ::1. dial dials from a cgroup.
func fixture(t *testing.T) (cgroup string, dial func(dir, to string) string) {
	t.Helper()
	mounts, err := proc.Mounts("cgroup2")
	if err != nil || len(mounts) == 0 {
		t.Fatalf("no cgroup v2 hierarchy is mounted: %v", err)
	}
	cgroup, err = os.MkdirTemp(mounts[0].Mountpoint, "ss-alias-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(cgroup) })
	l4, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l4.Addr().String())
	l6, err := net.Listen("tcp6", "[::1]:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l4.Close(), l6.Close() })
	return cgroup, func(dir, to string) string {
		t.Helper()
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", dialVariable+"="+strings.ReplaceAll(to, "PORT", port))
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(d.Fd())}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
}
