package gate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages of nfnetlink_queue, from include/uapi/linux/netfilter/nfnetlink_queue.h.
const (
	nfqMsgPacket       = unix.NFNL_SUBSYS_QUEUE << 8 // NFQNL_MSG_PACKET is 0
	nfqMsgVerdict      = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	nfqMsgConfig       = unix.NFNL_SUBSYS_QUEUE<<8 | 2
	nfqMsgVerdictBatch = unix.NFNL_SUBSYS_QUEUE<<8 | 3

	nfqaPacketHdr  = 1
	nfqaVerdictHdr = 2
	nfqaPayload    = 10

	nfqaCfgCmd    = 1
	nfqaCfgParams = 2
	nfqaCfgMaxLen = 3
	nfqaCfgMask   = 4
	nfqaCfgFlags  = 5

	nfqCmdBind   = 1
	nfqCmdUnbind = 2

	nfqCopyPacket = 2
	// NFQA_CFG_F_FAIL_OPEN: let pass what does not fit into the queue.
	nfqFlagFailOpen = 1 << 0
	// NFQA_CFG_F_GSO: hand packets over unsegmented, with checksums still to be done.
	nfqFlagGSO = 1 << 2

	nfDrop   = 0
	nfAccept = 1
)

const (
	// copyRange is how much of each packet is looked at: the largest IPv4 and TCP headers, or IPv6 with some extensions.
	copyRange = 128
	// maxQueued is how many packets a gate holds before the kernel drops more.
	maxQueued = 1 << 17
	// queueBuffer is the receive buffer for news of packets. Each takes about 1 KiB of it until it is read, which is at once.
	queueBuffer = 32 << 20
)

// errQueueTaken says that another socket listens to the queue.
var errQueueTaken = errors.New("queue is taken")

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// nfqMessage makes a request about the queue num.
func nfqMessage(typ netlink.HeaderType, flags netlink.HeaderFlags, num uint16, attrs ...netlink.Attribute) netlink.Message {
	// struct nfgenmsg: family, version, resource id.
	data := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(num >> 8), byte(num)}
	for _, a := range attrs {
		data = binary.NativeEndian.AppendUint16(data, uint16(4+len(a.Data)))
		data = binary.NativeEndian.AppendUint16(data, a.Type)
		data = append(data, a.Data...)
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
	}
	return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: data}
}

func bindMessage(num uint16) netlink.Message {
	return nfqMessage(nfqMsgConfig, netlink.Acknowledge, num,
		netlink.Attribute{Type: nfqaCfgCmd, Data: []byte{nfqCmdBind, 0, 0, 0}},
		netlink.Attribute{Type: nfqaCfgParams, Data: append(be32(copyRange), nfqCopyPacket)},
		netlink.Attribute{Type: nfqaCfgMaxLen, Data: be32(maxQueued)},
		netlink.Attribute{Type: nfqaCfgMask, Data: be32(nfqFlagGSO | nfqFlagFailOpen)},
		netlink.Attribute{Type: nfqaCfgFlags, Data: be32(nfqFlagGSO)},
	)
}

func unbindMessage(num uint16) netlink.Message {
	return nfqMessage(nfqMsgConfig, netlink.Acknowledge, num,
		netlink.Attribute{Type: nfqaCfgCmd, Data: []byte{nfqCmdUnbind, 0, 0, 0}})
}

// syncMessage changes nothing; its acknowledgement comes after the news of every packet queued before.
func syncMessage(num uint16) netlink.Message {
	return nfqMessage(nfqMsgConfig, netlink.Acknowledge, num)
}

// failOpenMessage says whether packets that do not fit into the queue pass (or are dropped, as while a gate is closed).
func failOpenMessage(num uint16, pass bool) netlink.Message {
	flags := uint32(0)
	if pass {
		flags = nfqFlagFailOpen
	}
	return nfqMessage(nfqMsgConfig, 0, num,
		netlink.Attribute{Type: nfqaCfgMask, Data: be32(nfqFlagFailOpen)},
		netlink.Attribute{Type: nfqaCfgFlags, Data: be32(flags)})
}

// maxLenMessage says how many packets fit into the queue.
func maxLenMessage(num uint16, packets uint32) netlink.Message {
	return nfqMessage(nfqMsgConfig, 0, num, netlink.Attribute{Type: nfqaCfgMaxLen, Data: be32(packets)})
}

// verdictMessage decides about one packet, or, with batch, about all packets up to and including id.
func verdictMessage(num uint16, id, verdict uint32, batch bool) netlink.Message {
	typ := netlink.HeaderType(nfqMsgVerdict)
	if batch {
		typ = nfqMsgVerdictBatch
	}
	return nfqMessage(typ, 0, num, netlink.Attribute{Type: nfqaVerdictHdr, Data: append(be32(verdict), be32(id)...)})
}

// packet is a packet that waits for its verdict.
type packet struct {
	id        uint32
	handshake bool // SYN or SYN-ACK
}

func parsePacket(m netlink.Message) (packet, error) {
	if len(m.Data) < 4 {
		return packet{}, fmt.Errorf("packet message of %d bytes", len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return packet{}, fmt.Errorf("packet message: %w", err)
	}
	var p packet
	found := false
	for ad.Next() {
		switch ad.Type() {
		case nfqaPacketHdr:
			if b := ad.Bytes(); len(b) >= 4 {
				p.id, found = binary.BigEndian.Uint32(b), true
			}
		case nfqaPayload:
			p.handshake = isHandshake(ad.Bytes())
		}
	}
	if err := ad.Err(); err != nil {
		return packet{}, fmt.Errorf("packet message: %w", err)
	}
	if !found {
		return packet{}, errors.New("packet message without a packet id")
	}
	return p, nil
}

// isHandshake says whether an IP packet, of which b is the beginning, is a TCP segment with SYN.
func isHandshake(b []byte) bool {
	const tcpFlags, syn = 13, 0x02 // RFC 9293, 3.1
	tcp := tcpHeader(b)
	return len(tcp) > tcpFlags && tcp[tcpFlags]&syn != 0
}

// tcpHeader returns what follows the IP headers of b, or nil where that is not a TCP header.
func tcpHeader(b []byte) []byte {
	if len(b) < 20 {
		return nil
	}
	switch b[0] >> 4 {
	case 4:
		if n := int(b[0]&15) * 4; b[9] == unix.IPPROTO_TCP && n <= len(b) {
			return b[n:]
		}
	case 6:
		return afterIPv6(b)
	}
	return nil
}

// afterIPv6 skips the extension headers that a host may receive in front of TCP (RFC 8200, 4).
func afterIPv6(b []byte) []byte {
	if len(b) < 40 {
		return nil
	}
	next, rest := b[6], b[40:]
	for len(rest) >= 8 {
		var n int
		switch next {
		case unix.IPPROTO_TCP:
			return rest
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			n = (int(rest[1]) + 1) * 8
		case unix.IPPROTO_FRAGMENT:
			n = 8
		case unix.IPPROTO_AH: // RFC 4302, 2.2: in units of four bytes
			n = (int(rest[1]) + 2) * 4
		default:
			return nil
		}
		if n > len(rest) {
			return nil
		}
		next, rest = rest[0], rest[n:]
	}
	return nil
}
