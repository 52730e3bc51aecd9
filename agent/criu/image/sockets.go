package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"golang.org/x/sys/unix"

	"ss/marker"
)

// States of a TCP socket, include/net/tcp_states.h of Linux.
const (
	TCPEstablished = 1
	TCPSynSent     = 2
	TCPFinWait1    = 4
	TCPFinWait2    = 5
	TCPCloseWait   = 8
	TCPLastAck     = 9
	TCPListen      = 10
	TCPClosing     = 11
)

// Ends reads the TCP connections of the images in dir; Host and Member are left empty.
//
// CRIU takes outq_seq and inq_seq from TCP_QUEUE_SEQ: they are the kernel's write_seq and rcv_nxt, and a FIN that
// was sent, or received, counts in them. outq_len however is SIOCOUTQ (write_seq − snd_una) *less* a FIN of our own
// that is not acknowledged (soccr/soccr.c, refresh_sk), that is in the states FIN-WAIT-1, CLOSING and LAST-ACK.
// unsq_len is SIOCOUTQNSD (write_seq − snd_nxt), treated likewise.
//
// Left out: sockets that never connected or have closed (CRIU restores them unconnected), and SYN-SENT, for
// which CRIU sends the same SYN again: there is no channel yet, and nothing in it to lose.
func (Editor) Ends(dir string) ([]marker.End, error) {
	sockets, err := InetSockets(dir)
	if err != nil {
		return nil, err
	}
	return EndsOf(dir, sockets)
}

// EndsOf is Ends of images whose sockets are read already.
func EndsOf(dir string, sockets []*sk_inet.InetSkEntry) ([]marker.End, error) {
	var ends []marker.End
	for _, sk := range sockets {
		if !connected(sk) {
			continue
		}
		local, remote, err := SockAddrs(sk)
		if err != nil {
			return nil, err
		}
		stream, err := ReadStream(dir, sk.GetIno())
		if err != nil {
			return nil, fmt.Errorf("connection %s>%s: %w", local, remote, err)
		}
		end := marker.End{
			Local: local.String(), Remote: remote.String(),
			SndUna:   stream.GetOutqSeq() - stream.GetOutqLen(),
			WriteSeq: stream.GetOutqSeq(),
			RcvNxt:   stream.GetInqSeq(),
			Unsent:   stream.GetUnsqLen(),
		}
		switch sk.GetState() {
		case TCPCloseWait, TCPClosing, TCPLastAck:
			end.Ended = true
		}
		switch sk.GetState() {
		case TCPFinWait1, TCPClosing, TCPLastAck:
			end.SndUna--
			if end.Unsent > 0 { // and then the FIN, which soccr takes off as well
				end.Unsent++
			}
		}
		ends = append(ends, end)
	}
	return ends, nil
}

// connected says whether a socket is one end of a channel.
func connected(sk *sk_inet.InetSkEntry) bool {
	if sk.GetProto() != unix.IPPROTO_TCP || sk.GetType() != unix.SOCK_STREAM || sk.GetDstPort() == 0 {
		return false
	}
	switch sk.GetState() {
	case TCPEstablished, TCPFinWait1, TCPFinWait2, TCPCloseWait, TCPLastAck, TCPClosing:
		return true
	}
	return false
}

// connecting says whether a socket waits for an answer to its SYN.
func connecting(sk *sk_inet.InetSkEntry) bool {
	return sk.GetProto() == unix.IPPROTO_TCP && sk.GetType() == unix.SOCK_STREAM && sk.GetDstPort() != 0 && sk.GetState() == TCPSynSent
}

func listening(sk *sk_inet.InetSkEntry) bool {
	return sk.GetProto() == unix.IPPROTO_TCP && sk.GetType() == unix.SOCK_STREAM && sk.GetState() == TCPListen
}

// readFiles reads what the processes of the images in dir have open. Of many connections this is long, so one operation reads it once.
func readFiles(dir string) ([]*fdinfo.FileEntry, error) {
	return ReadAll(filepath.Join(dir, "files.img"), "files", &fdinfo.FileEntry{})
}

// InetSockets reads the IPv4 and IPv6 sockets of the images in dir, of whatever protocol.
func InetSockets(dir string) ([]*sk_inet.InetSkEntry, error) {
	files, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	return socketsOf(files)
}

// socketsOf are the IPv4 and IPv6 sockets among files that are read already.
func socketsOf(files []*fdinfo.FileEntry) ([]*sk_inet.InetSkEntry, error) {
	var sockets []*sk_inet.InetSkEntry
	for _, file := range files {
		if file.GetType() != fdinfo.FdTypes_INETSK {
			continue
		}
		if file.GetIsk() == nil {
			return nil, fmt.Errorf("image files.img: file %d is a socket without an entry", file.GetId())
		}
		sockets = append(sockets, file.GetIsk())
	}
	return sockets, nil
}

// ReadStream reads what CRIU noted of a connection and checks that the queues it speaks of are there.
func ReadStream(dir string, ino uint32) (*tcp_stream.TcpStreamEntry, error) {
	path := filepath.Join(dir, fmt.Sprintf("tcp-stream-%x.img", ino))
	entries, err := ReadAll(path, "tcp-stream", &tcp_stream.TcpStreamEntry{})
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, fmt.Errorf("image %s: %d entries instead of one", filepath.Base(path), len(entries))
	}
	if err := checkQueues(path, entries[0]); err != nil {
		return nil, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	return entries[0], nil
}

// checkQueues checks that the queues that follow a stream's entry are as long as it says.
func checkQueues(path string, entry *tcp_stream.TcpStreamEntry) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const header = 12 // two magic numbers, and the entry's length
	var size [4]byte
	if _, err := f.ReadAt(size[:], header-4); err != nil {
		return err
	}
	want := header + int64(binary.LittleEndian.Uint32(size[:])) + int64(entry.GetInqLen()) + int64(entry.GetOutqLen())
	if info.Size() != want {
		return fmt.Errorf("%d bytes instead of %d: the queues are not whole", info.Size(), want)
	}
	return nil
}

// decodeAddr makes an address of the image's words, each of which holds four bytes in network order, read as
// one little-endian number.
func decodeAddr(family uint32, words []uint32) (netip.Addr, error) {
	switch {
	case family == unix.AF_INET && len(words) >= 1:
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], words[0])
		return netip.AddrFrom4(b), nil
	case family == unix.AF_INET6 && len(words) == 4:
		var b [16]byte
		for i, w := range words {
			binary.LittleEndian.PutUint32(b[4*i:], w)
		}
		return netip.AddrFrom16(b).Unmap(), nil
	}
	return netip.Addr{}, fmt.Errorf("a socket of family %d with an address of %d words", family, len(words))
}

// encodeAddr puts addr, unmapped, into words as decodeAddr reads them. An IPv4 address in an IPv6 socket is mapped.
func encodeAddr(family uint32, addr netip.Addr) ([]uint32, error) {
	switch {
	case family == unix.AF_INET && addr.Is4():
		b := addr.As4()
		return []uint32{binary.LittleEndian.Uint32(b[:])}, nil
	case family == unix.AF_INET6:
		b := addr.As16()
		words := make([]uint32, 4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(b[4*i:])
		}
		return words, nil
	}
	return nil, fmt.Errorf("%s cannot stand in a socket of family %d", addr, family)
}

// SockAddrs are the addresses of an image of an inet socket. An error says that they are not what its family has.
func SockAddrs(sk *sk_inet.InetSkEntry) (local, remote netip.AddrPort, err error) {
	src, err1 := decodeAddr(sk.GetFamily(), sk.GetSrcAddr())
	dst, err2 := decodeAddr(sk.GetFamily(), sk.GetDstAddr())
	if err := errors.Join(err1, err2); err != nil {
		return local, remote, fmt.Errorf("image files.img: %w", err)
	}
	if sk.GetSrcPort() > 65535 || sk.GetDstPort() > 65535 {
		return local, remote, fmt.Errorf("image files.img: ports %d and %d", sk.GetSrcPort(), sk.GetDstPort())
	}
	return netip.AddrPortFrom(src, uint16(sk.GetSrcPort())), netip.AddrPortFrom(dst, uint16(sk.GetDstPort())), nil
}

// moveSocket replaces the socket's addresses that have moved, and says whether there were any.
func moveSocket(sk *sk_inet.InetSkEntry, moved map[netip.Addr]netip.Addr) (bool, error) {
	src, err := moveAddr(sk.GetFamily(), sk.SrcAddr, moved)
	if err != nil {
		return false, err
	}
	dst, err := moveAddr(sk.GetFamily(), sk.DstAddr, moved)
	if err != nil {
		return false, err
	}
	changed := !slices.Equal(src, sk.SrcAddr) || !slices.Equal(dst, sk.DstAddr)
	sk.SrcAddr, sk.DstAddr = src, dst
	return changed, nil
}

func moveAddr(family uint32, words []uint32, moved map[netip.Addr]netip.Addr) ([]uint32, error) {
	old, err := decodeAddr(family, words)
	if err != nil {
		return nil, fmt.Errorf("image files.img: %w", err)
	}
	to, ok := moved[old]
	if !ok {
		return words, nil
	}
	if to.Is4() != old.Is4() {
		return nil, fmt.Errorf("%s cannot move to %s: one is IPv4 and one IPv6, and a connection is of one kind", old, to)
	}
	return encodeAddr(family, to)
}
