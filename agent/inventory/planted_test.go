package inventory

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// loss is something that a restore could lose. hold makes this process hold it. What lose loses then, in this process or in what is compared where a process
// cannot change it of itself, is either set again, so that back is true, or named with these words.
type loss struct {
	hold  func(t *testing.T) (lose func(*Inventory), back func() bool)
	named string
}

// TestPlantedLosses plants each loss that was once seen with exit code 0 and that an inventory is to find. It needs root (IP_TRANSPARENT). What is found
// elsewhere has its test there: System V IPC in TestSystemV, files and folders in TestFilesOfACut, and in TestZoo pipes to other programs, EFD_SEMAPHORE,
// mounts of the cell, subreapers, and what the kernel does not tell (Landlock, session keyrings, memory policy).
func TestPlantedLosses(t *testing.T) {
	rows := map[string]loss{
		"TCP_WINDOW_CLAMP":        {hold: windowClamp},
		"segment size":            {hold: smallSegments, named: "the segment size was 65483 and is "},
		"processors":              {hold: fewerProcessors},
		"processor that is gone":  {hold: compared(func(th *Thread) { th.Processors = []int{1023} }), named: "processors was [1023] and is "},
		"timer slack":             {hold: timerSlack},
		"I/O priority":            {hold: ioPriorityLoss},
		"core dump filter":        {hold: processText("coredump_filter", "0x7f", "0x33")},
		"oom_score_adj":           {hold: processText("oom_score_adj", "500", "400")},
		"personality":             {hold: compared(func(th *Thread) { th.Personality = "0040000" }), named: "the personality was 0040000 and is "},
		"KSM":                     {hold: mergedPages, named: "merging of equal pages (KSM) was on and is off"},
		"exit signal":             {hold: compared(func(th *Thread) { th.ExitSignal = int(unix.SIGUSR2) }), named: "ends was SIGUSR2 and is SIGCHLD"},
		"thread":                  {hold: compared(func(th *Thread) { th.Thread = 1 << 22 }), named: "the thread was there and is not there"},
		"process":                 {hold: compared(func(th *Thread) { th.Process = 1 << 22 }), named: "the thread was there and is not there"},
		"socket":                  {hold: closedSocket, named: "the socket was there and is not there"},
		"no socket":               {hold: replacedSocket(noSocket), named: "the socket was there and is not there"},
		"another socket":          {hold: replacedSocket(udpSocket), named: "the socket was there and is not there"},
		"multicast group":         {hold: leftGroup},
		"sources of a group":      {hold: allSources},
		"interface of a group":    {hold: groupElsewhere, named: "the multicast group 239.1.2.3 on gone0 was joined and is not joined"},
		"IP_MULTICAST_IF":         {hold: multicastInterface},
		"unread datagram":         {hold: readDatagram, named: "datagrams that had not been read was there and is not there"},
		"unread error":            {hold: readError, named: "an error that had not been read (SO_ERROR) was there and is not there"},
		"unread inotify event":    {hold: inotifyEvent, named: "events of inotify that had not been read was "},
		"option of a later agent": {hold: laterOption, named: "SO_LATER was "},
	}
	for kind, names := range map[string][]string{
		"tcp": {"TCP_CONGESTION", "TCP_USER_TIMEOUT", "TCP_NOTSENT_LOWAT", "TCP_SYNCNT", "TCP_LINGER2", "IP_TRANSPARENT", "IP_FREEBIND", "IP_RECVTOS", "IP_MINTTL", "IP_TOS", "IP_TTL",
			"TCP_KEEPIDLE", "TCP_NODELAY", "SO_KEEPALIVE", "SO_PRIORITY", "SO_MARK", "SO_DEBUG", "SO_LOCK_FILTER"},
		"tcp listener": {"TCP_DEFER_ACCEPT", "TCP_FASTOPEN"},
		"tcp6":         {"IPV6_MINHOPCOUNT", "IPV6_TCLASS", "IPV6_TRANSPARENT", "IPV6_RECVTCLASS"},
		"udp":          {"IP_MULTICAST_TTL", "IP_MULTICAST_LOOP", "IP_MULTICAST_ALL", "UDP_GRO", "UDP_SEGMENT", "IP_RECVTTL", "SO_BROADCAST"},
		"udp6":         {"IPV6_MULTICAST_HOPS", "IPV6_MULTICAST_LOOP", "IPV6_MULTICAST_ALL", "IPV6_RECVPKTINFO"},
		"unix":         {"SO_PASSCRED"},
		"netlink":      {"NETLINK_PKTINFO", "NETLINK_BROADCAST_ERROR", "NETLINK_NO_ENOBUFS", "NETLINK_CAP_ACK", "NETLINK_EXT_ACK", "NETLINK_GET_STRICT_CHK"},
		"packet":       {"PACKET_QDISC_BYPASS", "PACKET_IGNORE_OUTGOING"},
	} {
		for _, name := range names {
			rows[kind+" "+name] = loss{hold: socketOption(kind, name)}
		}
	}
	for _, name := range []string{"SO_TIMESTAMP", "SO_TIMESTAMPNS", "SO_TIMESTAMPING"} {
		rows[name] = loss{hold: socketOption("udp", name)}
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) { row.plant(t) })
	}
}

func (l loss) plant(t *testing.T) {
	runtime.LockOSThread() // some losses are of one thread alone
	defer runtime.UnlockOSThread()
	lose, back := l.hold(t)
	inv := through(t, take(t))
	if l.named != "" && len(inv.Unread) == 0 { // of what is always lost there is nothing to compare
		if said := applied(t, inv); strings.Contains(said, l.named) {
			t.Fatalf("named before it is lost:\n%s", said)
		}
	}
	lose(&inv)
	if back != nil && back() {
		t.Fatal("it was not lost")
	}
	said := applied(t, inv)
	if !strings.Contains(said, l.named) {
		t.Errorf("not named: %q; differences:\n%s", l.named, said)
	}
	if back != nil && !back() {
		t.Errorf("it is not back; differences:\n%s", said)
	}
	if l.named == "" && said != "" {
		t.Errorf("differences:\n%s", said)
	}
}

// applied applies the inventory, and returns what is left as text.
func applied(t *testing.T, inv Inventory) string {
	t.Helper()
	left, err := inv.Apply(t.Context(), []int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, d := range left {
		text.WriteString(d.String() + "\n")
	}
	return text.String()
}

// compared changes what is compared of the process's first thread.
func compared(change func(*Thread)) func(*testing.T) (func(*Inventory), func() bool) {
	return func(*testing.T) (func(*Inventory), func() bool) {
		return func(inv *Inventory) {
			i := slices.IndexFunc(inv.Threads, func(th Thread) bool { return th.Thread == th.Process })
			change(&inv.Threads[i])
		}, nil
	}
}

// socketOption gives an option another value than the default, and takes it away.
func socketOption(kind, name string) func(*testing.T) (func(*Inventory), func() bool) {
	return func(t *testing.T) (func(*Inventory), func() bool) {
		i := slices.IndexFunc(kinds, func(k socketKind) bool { return k.name == kind })
		k := kinds[i]
		o, ok := byName(k.family, k.protocol, name)
		if !ok {
			t.Fatalf("the inventory has no %s of %s", name, kind)
		}
		fd := newSocket(t, k.family, k.kind, k.protocol, k.listen)
		before, err := o.get(fd)
		if err == nil {
			err = o.set(fd, other(o, before))
		}
		if err != nil {
			t.Fatal(err)
		}
		held, err := o.get(fd)
		if err != nil || bytes.Equal(held, before) {
			t.Fatalf("%s is %v and was %v: %v", name, held, before, err)
		}
		lose := func(*Inventory) {
			fresh := newSocket(t, k.family, k.kind, k.protocol, k.listen)
			if err := unix.Dup3(fresh, fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
		}
		return lose, func() bool {
			now, err := o.get(fd)
			return err == nil && bytes.Equal(now, held)
		}
	}
}

func windowClamp(t *testing.T) (func(*Inventory), func() bool) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	set := func(n int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, n); err != nil {
			t.Fatal(err)
		}
	}
	set(20000)
	return func(*Inventory) { set(60000) }, func() bool {
		n, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP)
		return err == nil && n == 20000
	}
}

// smallSegments has a connection over the loopback device whose peer takes 500 bytes at once, as if it had been restored so.
func smallSegments(t *testing.T) (func(*Inventory), func() bool) {
	server := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	client := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	err := unix.SetsockoptInt(server, unix.SOL_TCP, unix.TCP_MAXSEG, 500)
	if err == nil {
		err = unix.Bind(server, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(server, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(server)
	if err == nil {
		err = unix.Connect(client, at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(inv *Inventory) {
		for i := range inv.Sockets {
			if inv.Sockets[i].Descriptor == client {
				inv.Sockets[i].SegmentSize = 65483
			}
		}
	}, nil
}

func fewerProcessors(t *testing.T) (func(*Inventory), func() bool) {
	tid := unix.Gettid()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &before); err != nil {
		t.Fatal(err)
	}
	all, err := online()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		return compared(func(th *Thread) { th.Processors = nil })(t) // one processor: there is nothing to lose
	}
	one.Set(all[len(all)-1])
	if err := unix.SchedSetaffinity(tid, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.SchedSetaffinity(tid, &before) })
	return func(*Inventory) { _ = unix.SchedSetaffinity(tid, &before) }, func() bool {
		var now unix.CPUSet
		return unix.SchedGetaffinity(tid, &now) == nil && now == one
	}
}

func timerSlack(t *testing.T) (func(*Inventory), func() bool) {
	tid := unix.Gettid()
	set := func(n uintptr) {
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, n, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	set(123456)
	t.Cleanup(func() { set(0) })
	return func(*Inventory) { set(50000) }, func() bool {
		now, err := proc.Text(tid, "timerslack_ns")
		return err == nil && now == "123456"
	}
}

func ioPriorityLoss(t *testing.T) (func(*Inventory), func() bool) {
	tid := unix.Gettid()
	set := func(n uintptr) {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), n); errno != 0 {
			t.Fatal(errno)
		}
	}
	const idle = 3 << 13
	set(idle)
	t.Cleanup(func() { set(0) })
	return func(*Inventory) { set(0) }, func() bool {
		n, err := ioPriority(tid)
		return err == nil && n == idle
	}
}

// processText writes a file of /proc/PID.
func processText(name, held, lost string) func(*testing.T) (func(*Inventory), func() bool) {
	return func(t *testing.T) (func(*Inventory), func() bool) {
		path := filepath.Join("/proc/self", name)
		set := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
		read := func() string {
			text, err := proc.Text(os.Getpid(), name)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		before := read()
		t.Cleanup(func() {
			if name == "coredump_filter" {
				before = "0x" + before
			}
			set(before)
		})
		set(held)
		want := read()
		return func(*Inventory) { set(lost) }, func() bool { return read() == want }
	}
}

func mergedPages(t *testing.T) (func(*Inventory), func() bool) {
	set := func(on uintptr) error { return unix.Prctl(unix.PR_SET_MEMORY_MERGE, on, 0, 0, 0) }
	if err := set(1); err != nil || !mergesPages(os.Getpid()) { // a kernel without KSM
		return compared(func(th *Thread) { th.MergesPages = true })(t)
	}
	t.Cleanup(func() { _ = set(0) })
	return func(*Inventory) {
		if err := set(0); err != nil {
			t.Fatal(err)
		}
	}, nil
}

// replacedSocket has another descriptor in the place of a TCP socket.
func replacedSocket(other func(t *testing.T) int) func(*testing.T) (func(*Inventory), func() bool) {
	return func(t *testing.T) (func(*Inventory), func() bool) {
		fd := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
		return func(*Inventory) {
			if err := unix.Dup3(other(t), fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
		}, nil
	}
}

func noSocket(t *testing.T) int {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func udpSocket(t *testing.T) int {
	return newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
}

// closedSocket is of a number that nothing opened meanwhile gets.
func closedSocket(t *testing.T) (func(*Inventory), func() bool) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	return func(inv *Inventory) {
		for i := range inv.Sockets {
			if inv.Sockets[i].Descriptor == fd {
				inv.Sockets[i].Descriptor = 1 << 19
			}
		}
	}, nil
}

// grouped is a socket that has joined a group on the loopback device.
func grouped(t *testing.T) (fd int, m membership) {
	fd = newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	m = membership{group: netip.AddrFrom4([4]byte{239, 1, 2, 3}), iface: 1}
	if err := m.join(fd); err != nil {
		t.Fatal(err)
	}
	return fd, m
}

func leftGroup(t *testing.T) (func(*Inventory), func() bool) {
	fd, m := grouped(t)
	return func(*Inventory) {
		mreq := &unix.IPMreqn{Multiaddr: m.group.As4(), Ifindex: int32(m.iface)}
		if err := unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_DROP_MEMBERSHIP, mreq); err != nil {
			t.Fatal(err)
		}
	}, func() bool { return m.holds(fd) }
}

func allSources(t *testing.T) (func(*Inventory), func() bool) {
	const from = "include 192.0.2.1"
	fd, m := grouped(t)
	if err := m.take(fd, from); err != nil {
		t.Fatal(err)
	}
	return func(*Inventory) {
		if err := m.take(fd, "exclude"); err != nil {
			t.Fatal(err)
		}
	}, func() bool { return m.from(fd) == from }
}

func groupElsewhere(t *testing.T) (func(*Inventory), func() bool) {
	fd, _ := grouped(t)
	return func(inv *Inventory) {
		for i := range inv.Sockets {
			if inv.Sockets[i].Descriptor == fd {
				inv.Sockets[i].Groups = []string{"239.1.2.3%gone0"}
			}
		}
	}, nil
}

func multicastInterface(t *testing.T) (func(*Inventory), func() bool) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	set := func(addr [4]byte) {
		if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, addr); err != nil {
			t.Fatal(err)
		}
	}
	loopback := [4]byte{127, 0, 0, 1}
	set(loopback)
	return func(*Inventory) { set([4]byte{}) }, func() bool {
		now, err := unix.GetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF)
		return err == nil && now == loopback
	}
}

func readDatagram(t *testing.T) (func(*Inventory), func() bool) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	var at unix.Sockaddr
	if err == nil {
		at, err = unix.Getsockname(fd)
	}
	if err == nil {
		err = unix.Sendto(fd, []byte("unread"), 0, at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(*Inventory) {
		var b [16]byte
		if _, _, err := unix.Recvfrom(fd, b[:], 0); err != nil {
			t.Fatal(err)
		}
	}, nil
}

// readError has a socket that sent to a port where nobody listens.
func readError(t *testing.T) (func(*Inventory), func() bool) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := l.LocalAddr().(*net.UDPAddr).Port
	l.Close()
	fd := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Send(fd, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	return func(*Inventory) {
		if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || n == 0 {
			t.Fatalf("the error %d, %v", n, err)
		}
	}, nil
}

func inotifyEvent(t *testing.T) (func(*Inventory), func() bool) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	dir := t.TempDir()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(*Inventory) {
		var b [256]byte
		if _, err := unix.Read(fd, b[:]); err != nil {
			t.Fatal(err)
		}
	}, nil
}

func laterOption(t *testing.T) (func(*Inventory), func() bool) {
	fd := newSocket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0)
	return func(inv *Inventory) {
		for _, s := range inv.Sockets {
			if s.Descriptor == fd {
				inv.Options[s.Options]["SO_LATER"] = "01000000"
			}
		}
	}, nil
}
