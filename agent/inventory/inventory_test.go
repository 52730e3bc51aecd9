package inventory

import (
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

type socketKind struct {
	name             string
	family, kind     int
	protocol, listen int
}

// kinds are the sockets that the tests look at.
var kinds = []socketKind{
	{"tcp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0},
	{"tcp listener", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 1},
	{"tcp6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0},
	{"udp", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0},
	{"udp6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0},
	{"unix", unix.AF_UNIX, unix.SOCK_STREAM, 0, 0},
	{"netlink", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, 0},
	{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0, 0},
}

// other is a value that an option does not have by default.
func other(o option, now []byte) []byte {
	switch o.name {
	case "UDP_ENCAP":
		return []byte{2, 0, 0, 0} // UDP_ENCAP_ESPINUDP
	case "TCP_CONGESTION":
		return []byte("reno")
	case "SO_MAX_PACING_RATE":
		return []byte{0, 0, 16, 0, 0, 0, 0, 0}
	case "SO_LINGER":
		return []byte{1, 0, 0, 0, 9, 0, 0, 0}
	case "SO_TIMESTAMPING", "SO_TIMESTAMPING_NEW":
		return []byte{unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE, 0, 0, 0}
	case "IP_LOCAL_PORT_RANGE":
		return []byte{0x40, 0x9c, 0x50, 0xc3} // 40000 to 50000
	case "IP_TOS", "IPV6_TCLASS":
		return []byte{0x10, 0, 0, 0}
	case "IPV6_ADDR_PREFERENCES":
		return []byte{1, 0, 0, 0} // IPV6_PREFER_SRC_TMP
	}
	if len(now) == 4 && now[0] == 0 && now[1] == 0 {
		return []byte{1, 0, 0, 0}
	}
	if len(now) == 4 && now[0] == 1 && now[1] == 0 {
		return []byte{0, 0, 0, 0}
	}
	return []byte{7, 0, 0, 0}
}

// TestOptionsAreSetAgain sets every option of each kind of socket to something else, takes the inventory, gives the descriptor a new socket with
// defaults, and settles: all that could be set is as it was.
func TestOptionsAreSetAgain(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			fd := newSocket(t, k.family, k.kind, k.protocol, k.listen)
			var changed []string
			for _, o := range optionsOf(k.family, k.protocol) {
				now, err := o.get(fd)
				if err == nil && o.set(fd, other(o, now)) == nil {
					changed = append(changed, o.name)
				}
			}
			if len(changed) < 4 {
				t.Fatalf("only %v could be changed", changed)
			}
			inv := through(t, take(t))
			var s Socket
			for _, one := range inv.Sockets {
				if one.Descriptor == fd {
					s = one
				}
			}
			fresh := newSocket(t, k.family, k.kind, k.protocol, k.listen)
			if err := unix.Dup3(fresh, fd, 0); err != nil {
				t.Fatal(err)
			}
			inv.Sockets = []Socket{s}
			inv.Threads = nil
			left, err := inv.Apply(t.Context(), []int{os.Getpid()})
			if err != nil || len(left) > 0 {
				t.Errorf("left %v, error %v", left, err)
			}
			after := take(t)
			for _, one := range after.Sockets {
				if one.Descriptor != fd {
					continue
				}
				for name, value := range inv.Options[s.Options] {
					if after.Options[one.Options][name] != value {
						t.Errorf("%s was %s and is %s", name, value, after.Options[one.Options][name])
					}
				}
			}
			t.Logf("%d options: %s", len(changed), strings.Join(changed, " "))
		})
	}
}

// TestWhatCannotBeSetIsNamed plants differences that only the process itself, or another host, could mend.
func TestWhatCannotBeSetIsNamed(t *testing.T) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	inv := take(t)
	for i := range inv.Sockets {
		if inv.Sockets[i].Descriptor == fd {
			inv.Sockets = inv.Sockets[i : i+1]
			break
		}
	}
	options := inv.Options[inv.Sockets[0].Options]
	options["TCP_CONGESTION"] = "6e6f6e65" // "none"
	options["SO_FUTURE"] = "01000000"
	gone := inv.Sockets[0]
	gone.Descriptor = 1 << 19
	inv.Sockets = append(inv.Sockets, gone)
	first := slices.IndexFunc(inv.Threads, func(th Thread) bool { return th.Thread == th.Process }) // process numbers begin again at some time
	inv.Threads[first].Personality = "0040000"
	left, err := inv.Apply(t.Context(), []int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, d := range left {
		text.WriteString(d.String() + "\n")
	}
	for _, want := range []string{"TCP_CONGESTION was none and is ", "SO_FUTURE was ", "descriptor 524288: the socket was there and is not there", "the personality was 0040000"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("not named: %q; differences:\n%s", want, text.String())
		}
	}
}

// TestThreads changes what threads have and finds it as it was.
func TestThreads(t *testing.T) {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	tid := unix.Gettid()
	all, err := online()
	if err != nil {
		t.Fatal(err)
	}
	var one, before unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &before); err != nil {
		t.Fatal(err)
	}
	one.Set(all[len(all)-1])
	set := func(cpus *unix.CPUSet, slack, priority int, filter string) {
		t.Helper()
		if err := unix.SchedSetaffinity(tid, cpus); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(priority)); errno != 0 {
			t.Fatal(errno)
		}
		if err := os.WriteFile("/proc/self/coredump_filter", []byte(filter), 0); err != nil {
			t.Fatal(err)
		}
	}
	filter, err := proc.Text(os.Getpid(), "coredump_filter")
	if err != nil {
		t.Fatal(err)
	}
	set(&one, 123456, 3<<13, "0x7f")
	inv := through(t, take(t))
	set(&before, 50000, 0, "0x"+filter)
	t.Cleanup(func() { set(&before, 50000, 0, "0x"+filter) })
	inv.Sockets = nil
	left, err := inv.Apply(t.Context(), []int{os.Getpid()})
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, error %v", left, err)
	}
	for _, th := range take(t).Threads {
		if th.Thread == tid && (th.Slack != "123456" || th.IOPriority != 3<<13 || len(all) > 1 && len(th.Processors) != 1) {
			t.Errorf("the thread has %+v", th)
		}
		if th.Thread == os.Getpid() && th.CoreFilter != "0000007f" {
			t.Errorf("the process has %+v", th)
		}
	}
}

// TestGroups has a socket that joins a group on the loopback device, and one that has not joined it.
func TestGroups(t *testing.T) {
	fd, bystander := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0), newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	if err := unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: 1}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []int{fd, bystander} {
		if err := (option{level: unix.SOL_IP, code: unix.IP_UNICAST_IF, size: 4}).set(f, []byte{0, 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
	}
	inv := through(t, take(t))
	for _, s := range inv.Sockets {
		if s.Descriptor == fd && s.Interfaces["IP_UNICAST_IF"] != "lo" {
			t.Errorf("it sends through %v", s.Interfaces)
		}
		if s.Descriptor == fd && (len(s.Groups) != 1 || s.Groups[0] != "239.1.2.3%lo") || s.Descriptor == bystander && len(s.Groups) > 0 {
			t.Errorf("descriptor %d has joined %v", s.Descriptor, s.Groups)
		}
	}
	fresh := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	if err := unix.Dup3(fresh, fd, 0); err != nil {
		t.Fatal(err)
	}
	inv.Threads = nil
	if left, err := inv.Apply(t.Context(), []int{os.Getpid()}); err != nil || len(left) > 0 {
		t.Errorf("left %v, error %v", left, err)
	}
	for _, s := range take(t).Sockets {
		if s.Descriptor == fd && (len(s.Groups) != 1 || s.Interfaces["IP_UNICAST_IF"] != "lo") {
			t.Errorf("after it, it has joined %v and sends through %v", s.Groups, s.Interfaces)
		}
	}
}

func newSocket(t *testing.T, family, kind, protocol, listen int) int {
	t.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if listen > 0 {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

func take(t *testing.T) Inventory {
	t.Helper()
	inv, err := Take(t.Context(), []int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// through returns the inventory as it comes out of a file.
func through(t *testing.T, inv Inventory) Inventory {
	t.Helper()
	text, err := json.Marshal(inv)
	if err != nil {
		t.Fatal(err)
	}
	var out Inventory
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// leftOut are the options that a program can set and that are not in the tables, with the reason. By level and number.
var leftOut = map[[2]int]string{
	{unix.SOL_SOCKET, unix.SO_DEBUG}:          "of the kernel's own debugging",
	{unix.SOL_SOCKET, unix.SO_SNDBUF}:         "CRIU restores it",
	{unix.SOL_SOCKET, unix.SO_RCVBUF}:         "CRIU restores it",
	{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}:  "CRIU restores it by its name",
	{unix.SOL_SOCKET, soBufLock}:              "CRIU restores it",
	{unix.SOL_SOCKET, unix.SO_LOCK_FILTER}:    "cannot be taken back",
	{unix.SOL_SOCKET, soReserveMem}:           "memory of the cgroup, reserved as it is asked for",
	{unix.SOL_SOCKET, unix.SO_INCOMING_CPU}:   "changes by itself",
	{unix.SOL_SOCKET, unix.SO_PASSCRED}:       "of UNIX sockets; others have it without effect",
	{unix.SOL_SOCKET, unix.SO_PASSSEC}:        "of UNIX sockets; others have it without effect",
	{unix.SOL_SOCKET, soPassPidfd}:            "of UNIX sockets; others have it without effect",
	{unix.SOL_SOCKET, soPassRights}:           "of UNIX sockets; others have it without effect",
	{unix.SOL_IPV6, unix.IPV6_V6ONLY}:         "CRIU restores it",
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF}:   "a number that another host may not have: kept by its name",
	{unix.SOL_TCP, unix.TCP_CORK}:             "CRIU restores it",
	{unix.SOL_TCP, unix.TCP_QUICKACK}:         "changes by itself",
	{unix.SOL_TCP, unix.TCP_REPAIR}:           "CRIU's own",
	{unix.SOL_TCP, unix.TCP_TIMESTAMP}:        "CRIU's own",
	{unix.SOL_TCP, unix.TCP_MAXSEG}:           "CRIU restores it",
	{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP}:     "settled with the segment size: it grows by itself",
	{unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT}: "of a socket that is not connected yet",
	{unix.SOL_UDP, unix.UDP_CORK}:             "CRIU refuses a corked socket",
	{unix.SOL_UDP, unix.UDP_ENCAP}:            "the kernel's tunnels",
}

const (
	soBufLock    = 72
	soReserveMem = 73
)

// TestNoOptionIsForgotten tries every number of every level on each kind of socket. What takes another value is in a table, or left out for a reason.
func TestNoOptionIsForgotten(t *testing.T) {
	for _, k := range kinds {
		fd := newSocket(t, k.family, k.kind, k.protocol, k.listen)
		known := map[[2]int]bool{}
		for _, o := range optionsOf(k.family, k.protocol) {
			known[[2]int{o.level, o.code}] = true
		}
		for _, level := range []int{unix.SOL_SOCKET, unix.SOL_IP, unix.SOL_IPV6, unix.SOL_TCP, unix.SOL_UDP} {
			for code := 1; code < 128; code++ {
				o := option{level: level, code: code, size: 4}
				now, err := o.get(fd)
				if err != nil || len(now) != 4 || known[[2]int{level, code}] || leftOut[[2]int{level, code}] != "" {
					continue
				}
				if o.set(fd, other(o, now)) != nil {
					continue
				}
				if after, err := o.get(fd); err == nil && string(after) != string(now) {
					t.Errorf("%s: option %d of level %d is forgotten: it was %v, and takes %v", k.name, code, level, now, after)
				}
			}
		}
	}
}
