package inventory

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// optionPool gathers the options of many sockets, equal ones once. Members stand still while it does, so it compares what the kernel gave as it is, and
// makes the readable form of each set of values once.
type optionPool struct {
	list  []Options
	index map[string]int
	kinds map[[2]int][]option
	raw   []byte
}

// take reads the options of a socket and returns the index of their values in the list.
func (p *optionPool) take(fd, family, protocol int) int {
	kind := [2]int{family, protocol}
	options, ok := p.kinds[kind]
	if !ok {
		options = optionsOf(family, protocol)
		p.kinds[kind] = options
	}
	p.raw = append(p.raw[:0], byte(family), byte(protocol))
	for _, o := range options {
		var value [textSize]byte
		n, err := o.read(fd, &value)
		if err != nil {
			p.raw = append(p.raw, absent)
			continue
		}
		p.raw = append(append(p.raw, byte(n)), value[:n]...)
	}
	i, ok := p.index[string(p.raw)]
	if !ok {
		i = len(p.list)
		p.index[string(p.raw)] = i
		p.list = append(p.list, readable(options, p.raw[2:]))
	}
	return i
}

// absent stands for the length of a value that the kernel did not give.
const absent = 0xff

// readable makes the values of the options, each after its length, what an inventory stores.
func readable(options []option, raw []byte) Options {
	values := Options{}
	for _, o := range options {
		n := raw[0]
		raw = raw[1:]
		if n == absent {
			continue
		}
		values[o.name] = hex.EncodeToString(o.trim(raw[:n]))
		raw = raw[n:]
	}
	return values
}

// takeSockets lists the sockets that a process holds and that are not in seen, which it adds to, by inode.
func takeSockets(pid, inner int, seen map[uint64]bool, pool *optionPool, groups joinable, look func(fd int) string) ([]Socket, error) {
	var numbers []int
	err := proc.EachFd([]int{pid}, func(_, fd int, link string) {
		if n, ok := proc.SocketInode(link); ok && !seen[n] {
			seen[n] = true
			numbers = append(numbers, fd)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	var out []Socket
	var refused error
	err = borrow(pid, numbers, func(number, fd int) {
		s := Socket{Process: inner, Descriptor: number}
		s.Family, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		s.Protocol, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		s.Options = pool.take(fd, s.Family, s.Protocol)
		if s.Protocol == unix.IPPROTO_TCP {
			s.SegmentSize = segmentSize(fd)
			s.WindowClamp, _ = unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP)
		} else {
			s.Groups, s.Sources = groups.joined(pid, fd, s.Family)
			s.Interfaces = takeInterfaces(pid, fd, s.Family)
			s.Unread = datagrams(fd, s.Protocol)
		}
		if s.Family == unix.AF_INET || s.Family == unix.AF_INET6 {
			s.Failed = failed(fd)
		}
		if s.Family == unix.AF_UNIX && look != nil && refused == nil {
			if why := look(fd); why != "" {
				refused = &Refusal{fmt.Sprintf("%s %s (descriptor %d)", proc.Whose(pid), why, number)}
			}
		}
		out = append(out, s)
	})
	return out, cmp.Or(refused, err)
}

// failed says whether a socket has an error that has not been read. To ask for it (SO_ERROR) would take it away.
func failed(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0
}

// borrow calls f with a duplicate of each descriptor of a process (pidfd_getfd(2)) and closes it again.
func borrow(pid int, numbers []int, f func(number, fd int)) error {
	if len(numbers) == 0 {
		return nil
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open a pidfd: %w", err)
	}
	defer unix.Close(pidfd)
	for _, number := range numbers {
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if isGone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("duplicate descriptor %d: %w", number, err)
		}
		f(number, fd)
		_ = unix.Close(fd)
	}
	return nil
}

// textSize is ample for a text, the name of a congestion control (TCP_CA_NAME_MAX).
const textSize = 16

// read asks the kernel for the value and says how many bytes it gave.
func (o option) read(fd int, value *[textSize]byte) (int, error) {
	size := uint32(textSize)
	if o.size > 0 {
		size = uint32(o.size)
	}
	// Raw: it does not wait, and telling the scheduler of each of thousands of calls would double their time.
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.code),
		uintptr(unsafe.Pointer(value)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return min(int(size), textSize), nil
}

// trim takes from a text what follows its end.
func (o option) trim(value []byte) []byte {
	if o.size == 0 {
		value, _, _ = bytes.Cut(value, []byte{0})
	}
	return value
}

func (o option) get(fd int) ([]byte, error) {
	var value [textSize]byte
	n, err := o.read(fd, &value)
	return o.trim(value[:n]), err
}

func (o option) set(fd int, value []byte) error {
	if len(value) == 0 {
		return errors.New("there is no value")
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.code),
		uintptr(unsafe.Pointer(&value[0])), uintptr(len(value)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// segmentSize is the largest segment that a connection sends, in bytes; 0 for what is not a connection.
func segmentSize(fd int) uint32 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.State == tcpListen || info.State == tcpClose {
		return 0
	}
	return info.Snd_mss
}

// pathMTU is the largest packet that a connection's way takes, in bytes; 0 if it is not known.
func pathMTU(fd int) uint32 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Pmtu
}

// Of include/net/tcp_states.h.
const (
	tcpClose  = 7
	tcpListen = 10
)

// applySocket sets what differs of one socket.
func applySocket(want Socket, options Options, outer map[int]int) []Difference {
	var left []Difference
	differs := func(what, was, is string, err error) {
		d := Difference{Process: want.Process, Object: fmt.Sprintf("descriptor %d", want.Descriptor), What: what, Was: was, Is: is}
		if err != nil {
			d.Why = err.Error()
		}
		left = append(left, d)
	}
	found := false
	pid, ok := outer[want.Process]
	var err error
	if ok {
		err = borrow(pid, []int{want.Descriptor}, func(_, fd int) {
			if found = want.is(fd); !found {
				return
			}
			applyOptions(fd, want, options, differs)
			if want.Protocol == unix.IPPROTO_TCP {
				applyTCP(fd, want, differs)
			}
			applyGroups(pid, fd, want, differs)
			applyInterfaces(pid, fd, want, differs)
			if want.Unread > 0 && datagrams(fd, want.Protocol) == 0 {
				differs("datagrams that had not been read", "there", "not there", errors.New("CRIU leaves them out"))
			}
			if want.Failed { // an error that is there now came with the restore, and may go again
				is := "not there"
				if failed(fd) {
					is = "another one"
				}
				differs("an error that had not been read (SO_ERROR)", "there", is, errors.New("CRIU leaves it out"))
			}
		})
	}
	if !found {
		differs("the socket", "there", "not there", err)
	}
	return left
}

// is says whether a descriptor is of a socket of that kind.
func (s Socket) is(fd int) bool {
	family, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err1 == nil && err2 == nil && family == s.Family && protocol == s.Protocol
}

// applyOptions sets the options that differ. Some change others: IP_TOS sets SO_PRIORITY, SO_TIMESTAMP and its like put each other out. So what is
// off goes first, and a second round sets what the first has changed.
func applyOptions(fd int, want Socket, options Options, differs func(what, was, is string, err error)) {
	names := slices.SortedFunc(maps.Keys(options), func(a, b string) int {
		return cmp.Or(isOn(options[a])-isOn(options[b]), strings.Compare(a, b))
	})
	for _, name := range names {
		_, _, _ = applyOption(fd, want, name, options[name])
	}
	for _, name := range names {
		if was, is, err := applyOption(fd, want, name, options[name]); err != nil || was != is {
			differs(name, was, is, err)
		}
	}
}

// applyOption sets one option if it differs, and says what it was and what it is now.
func applyOption(fd int, want Socket, name, digits string) (was, is string, err error) {
	o, known := byName(want.Family, want.Protocol, name)
	value, err := hex.DecodeString(digits)
	if !known || err != nil {
		return digits, "unknown", errors.New("this agent does not know it: upgrade it")
	}
	now, err := o.get(fd)
	if err == nil && !slices.Equal(now, value) {
		if err = o.set(fd, value); err == nil {
			now, err = o.get(fd)
		}
	}
	return o.text(value), o.text(now), err
}

// isOn is 1 for a value that is not zero.
func isOn(digits string) int {
	if strings.Trim(digits, "0") == "" {
		return 0
	}
	return 1
}

// text is a value as a person reads it.
func (o option) text(value []byte) string {
	switch {
	case o.size == 0:
		return string(value)
	case len(value) == 4:
		return strconv.Itoa(int(int32(uint32(value[0]) | uint32(value[1])<<8 | uint32(value[2])<<16 | uint32(value[3])<<24)))
	}
	return hex.EncodeToString(value)
}

// applyTCP sets what no option tells plainly.
func applyTCP(fd int, want Socket, differs func(what, was, is string, err error)) {
	// A clamp grows with the receive buffer by itself, so a larger one than now was not asked for by the program.
	if now, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP); err == nil && want.WindowClamp > 0 && want.WindowClamp < now {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, want.WindowClamp); err != nil {
			differs("TCP_WINDOW_CLAMP", strconv.Itoa(want.WindowClamp), strconv.Itoa(now), err)
		}
	}
	if now := segmentSize(fd); now > 0 && now < want.SegmentSize {
		// A connection that was made in repair mode has the segment size of a peer that told none, 536 bytes, even when CRIU has told the kernel
		// the peer's own: nothing computes it again. Setting the IP options, here none as before, does (do_ip_setsockopt in net/ipv4/ip_sockglue.c).
		resyncSegmentSize(fd)
		// On a network that takes less at once it stays smaller, rightly.
		if now, most := segmentSize(fd), min(want.SegmentSize, pathMTU(fd)); now > 0 && now < most/2 {
			differs("the segment size", strconv.FormatUint(uint64(want.SegmentSize), 10), strconv.FormatUint(uint64(now), 10), errors.New("each segment carries less: the connection is slower"))
		}
	}
}

func resyncSegmentSize(fd int) {
	var options [40]byte
	size := uint32(len(options))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, unix.IP_OPTIONS,
		uintptr(unsafe.Pointer(&options[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return
	}
	_, _, _ = unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_IP, unix.IP_OPTIONS,
		uintptr(unsafe.Pointer(&options[0])), uintptr(size), 0)
}
