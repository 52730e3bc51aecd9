package obstacles

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/sockets"
)

// tcpAOInfo is TCP_AO_INFO of include/uapi/linux/tcp.h (Linux 6.7). The kernel answers it for a socket that has keys or needs one.
const tcpAOInfo = 40

// keys looks for keys that the segments of a TCP socket are signed with. CRIU restores none, so that anybody could connect. Those of TCP_MD5SIG only a list of sockets
// tells (see signing), which is made for sockets that may have some.
func (s *survey) keys(h sockets.Holder, fd int) {
	if _, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, tcpAOInfo); err == nil {
		s.add(h.Pid, "has a TCP socket with keys (descriptor %d, TCP-AO), which CRIU doesn't restore, so that others could connect without: "+keyless, h.Fd)
	}
	var st unix.Stat_t
	if optionMemory(fd) > 0 && unix.Fstat(fd, &st) == nil {
		s.keyed[st.Ino] = h
	}
}

const keyless = "close it before the snapshot, or run the program without keys, such as in a tunnel (WireGuard, IPsec)"

// optionMemory is how many bytes the kernel keeps for what was set of a socket: keys, filters, IP options.
func optionMemory(fd int) uint32 {
	var info [16]uint32 // SK_MEMINFO_VARS are nine
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 1 // not known
	}
	return info[6] // SK_MEMINFO_OPTMEM
}

// signing looks for keys of TCP_MD5SIG, in each network namespace that has a socket which may have some.
func (s *survey) signing() error {
	asked := map[uint64]map[uint64]bool{}
	for inode, h := range s.keyed {
		ns, err := proc.Namespace(h.Pid, "net")
		if err != nil {
			continue // it ended
		}
		signs, ok := asked[ns]
		if !ok {
			if signs, err = sockets.Signing(h.Pid); proc.Gone(err) {
				continue
			} else if err != nil {
				return err
			}
			asked[ns] = signs
		}
		if signs[inode] {
			s.add(h.Pid, "has a TCP socket with keys (descriptor %d, TCP_MD5SIG), which CRIU doesn't restore, so that others could connect without: "+keyless, h.Fd)
		}
	}
	return nil
}

// connectedElsewhere looks for a TCP connection in another network namespace than the agent's. No gate could hold it, and no list of connections has it.
func (s *survey) connectedElsewhere(h sockets.Holder, fd int) {
	if s.home == 0 {
		s.home = homeCookie()
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	switch {
	case err == nil && cookie == s.home:
		return
	case err != nil: // before Linux 5.14
		theirs, err1 := proc.Namespace(h.Pid, "net")
		ours, err2 := proc.Namespace(os.Getpid(), "net")
		if err1 != nil || err2 != nil || theirs == ours {
			return
		}
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.State == sockets.Listen || info.State == tcpClose {
		return
	}
	s.add(h.Pid, "has a TCP connection (descriptor %d) in a network namespace other than this host's, where a snapshot can't hold what comes on it: "+
		"start it without a network namespace of its own (unshare --net, ip netns exec), or close the connection before the snapshot", h.Fd)
}

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

// homeCookie names the agent's network namespace as SO_NETNS_COOKIE does; 0 if it is not known.
func homeCookie() uint64 {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	cookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie
}
