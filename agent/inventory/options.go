package inventory

import (
	"slices"

	"golang.org/x/sys/unix"
)

// option is a socket option that can be read and set through a duplicate of the socket. Names are those of the headers, so that
// what is stored says what it is; numbers are those of Linux.
type option struct {
	name        string
	level, code int
	size        int // bytes of its value; 0 for a text
}

// Options that golang.org/x/sys/unix does not name (include/uapi).
const (
	soPreferBusyPoll = 69
	soTxRehash       = 74
	soRcvMark        = 75
	soPassPidfd      = 76
	soRcvPriority    = 82
	soPassRights     = 83

	ipRecverrRFC4884 = 26
	ipCheckSum       = 23
	ipLocalPortRange = 51

	ipv6MulticastAll = 29
	ipv6FlowinfoSend = 33

	ipv6PktInfo2292        = 2
	ipv6HopOpts2292        = 3
	ipv6DstOpts2292        = 4
	ipv6RtHdr2292          = 5
	ipv6HopLimit2292       = 8
	ipv6FlowInfo           = 11
	ipv6RouterAlertIsolate = 30
	ipv6RecverrRFC4884     = 31

	solNetlink            = 270
	netlinkPktinfo        = 3
	netlinkBroadcastError = 4
	netlinkNoEnobufs      = 5
	netlinkListenAllNSID  = 8
	netlinkCapAck         = 10
	netlinkExtAck         = 11
	netlinkGetStrictChk   = 12
	solPacket             = 263
	packetTxHasOff        = 19
	packetQdiscBypass     = 20
	packetIgnoreOutgoing  = 23

	tcpTxDelay   = 37
	tcpRTOMax    = 44
	tcpRTOMin    = 45
	tcpDelackMax = 46

	udpEncap = 100

	udpSegment   = 103
	udpGRO       = 104
	udpNoCheckTX = 101
	udpNoCheckRX = 102
)

// Options are left out that change by themselves (SO_INCOMING_CPU, TCP_QUICKACK), that CRIU restores by means of their own (buffers, filters,
// time limits, SO_BINDTODEVICE), and that cannot be set on what is connected or bound.
var (
	socketOptions = []option{
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 4}, // CRIU sets both to bind, and may leave them set
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 4},
		{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, 4},
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 4},
		{"SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 4},
		{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE, 4},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4},
		{"SO_RCVLOWAT", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4},
		{"SO_DONTROUTE", unix.SOL_SOCKET, unix.SO_DONTROUTE, 4},
		{"SO_NO_CHECK", unix.SOL_SOCKET, unix.SO_NO_CHECK, 4},
		{"SO_LINGER", unix.SOL_SOCKET, unix.SO_LINGER, 8},
		{"SO_RXQ_OVFL", unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4},
		{"SO_BUSY_POLL", unix.SOL_SOCKET, unix.SO_BUSY_POLL, 4},
		{"SO_PREFER_BUSY_POLL", unix.SOL_SOCKET, soPreferBusyPoll, 4},
		{"SO_SELECT_ERR_QUEUE", unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, 4},
		{"SO_MAX_PACING_RATE", unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 8},
		{"SO_ZEROCOPY", unix.SOL_SOCKET, unix.SO_ZEROCOPY, 4},
		{"SO_TXREHASH", unix.SOL_SOCKET, soTxRehash, 4},
		{"SO_RCVMARK", unix.SOL_SOCKET, soRcvMark, 4},
		{"SO_RCVPRIORITY", unix.SOL_SOCKET, soRcvPriority, 4},
		{"SO_WIFI_STATUS", unix.SOL_SOCKET, unix.SO_WIFI_STATUS, 4},
		{"SO_NOFCS", unix.SOL_SOCKET, unix.SO_NOFCS, 4},
		{"SO_DEBUG", unix.SOL_SOCKET, unix.SO_DEBUG, 4},
		{"SO_LOCK_FILTER", unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 4},
		{"SO_PEEK_OFF", unix.SOL_SOCKET, unix.SO_PEEK_OFF, 4},
		{"SO_TIMESTAMP", unix.SOL_SOCKET, unix.SO_TIMESTAMP, 4},
		{"SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 4},
		{"SO_TIMESTAMP_NEW", unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, 4},
		{"SO_TIMESTAMPNS_NEW", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 4},
		{"SO_TIMESTAMPING", unix.SOL_SOCKET, unix.SO_TIMESTAMPING, 4},
		{"SO_TIMESTAMPING_NEW", unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, 4},
	}
	netlinkOptions = []option{
		{"NETLINK_PKTINFO", solNetlink, netlinkPktinfo, 4},
		{"NETLINK_BROADCAST_ERROR", solNetlink, netlinkBroadcastError, 4},
		{"NETLINK_NO_ENOBUFS", solNetlink, netlinkNoEnobufs, 4},
		{"NETLINK_LISTEN_ALL_NSID", solNetlink, netlinkListenAllNSID, 4},
		{"NETLINK_CAP_ACK", solNetlink, netlinkCapAck, 4},
		{"NETLINK_EXT_ACK", solNetlink, netlinkExtAck, 4},
		{"NETLINK_GET_STRICT_CHK", solNetlink, netlinkGetStrictChk, 4},
	}
	packetOptions = []option{
		{"PACKET_TX_HAS_OFF", solPacket, packetTxHasOff, 4},
		{"PACKET_QDISC_BYPASS", solPacket, packetQdiscBypass, 4},
		{"PACKET_IGNORE_OUTGOING", solPacket, packetIgnoreOutgoing, 4},
	}
	unixOptions = []option{
		{"SO_PASSRIGHTS", unix.SOL_SOCKET, soPassRights, 4},
		{"SO_PASSCRED", unix.SOL_SOCKET, unix.SO_PASSCRED, 4},
		{"SO_PASSSEC", unix.SOL_SOCKET, unix.SO_PASSSEC, 4},
		{"SO_PASSPIDFD", unix.SOL_SOCKET, soPassPidfd, 4},
	}
	ipOptions = []option{
		{"IP_TOS", unix.SOL_IP, unix.IP_TOS, 4},
		{"IP_TTL", unix.SOL_IP, unix.IP_TTL, 4},
		{"IP_MTU_DISCOVER", unix.SOL_IP, unix.IP_MTU_DISCOVER, 4},
		{"IP_RECVERR", unix.SOL_IP, unix.IP_RECVERR, 4},
		{"IP_RECVERR_RFC4884", unix.SOL_IP, ipRecverrRFC4884, 4},
		{"IP_MINTTL", unix.SOL_IP, unix.IP_MINTTL, 4},
		{"IP_FREEBIND", unix.SOL_IP, unix.IP_FREEBIND, 4},
		{"IP_TRANSPARENT", unix.SOL_IP, unix.IP_TRANSPARENT, 4},
		{"IP_ROUTER_ALERT", unix.SOL_IP, unix.IP_ROUTER_ALERT, 4}, // of raw sockets
		{"IP_NODEFRAG", unix.SOL_IP, unix.IP_NODEFRAG, 4},
		{"IP_PKTINFO", unix.SOL_IP, unix.IP_PKTINFO, 4},
		{"IP_RECVTTL", unix.SOL_IP, unix.IP_RECVTTL, 4},
		{"IP_RECVTOS", unix.SOL_IP, unix.IP_RECVTOS, 4},
		{"IP_RECVOPTS", unix.SOL_IP, unix.IP_RECVOPTS, 4},
		{"IP_RETOPTS", unix.SOL_IP, unix.IP_RETOPTS, 4},
		{"IP_RECVORIGDSTADDR", unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 4},
		{"IP_RECVFRAGSIZE", unix.SOL_IP, unix.IP_RECVFRAGSIZE, 4},
		{"IP_CHECKSUM", unix.SOL_IP, ipCheckSum, 4},
		{"IP_PASSSEC", unix.SOL_IP, unix.IP_PASSSEC, 4},
		{"IP_BIND_ADDRESS_NO_PORT", unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 4},
		{"IP_MULTICAST_LOOP", unix.SOL_IP, unix.IP_MULTICAST_LOOP, 4},
		{"IP_MULTICAST_ALL", unix.SOL_IP, unix.IP_MULTICAST_ALL, 4},
		{"IP_LOCAL_PORT_RANGE", unix.SOL_IP, ipLocalPortRange, 4},
	}
	ipv6Options = []option{
		{"IPV6_TCLASS", unix.SOL_IPV6, unix.IPV6_TCLASS, 4},
		{"IPV6_UNICAST_HOPS", unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 4},
		{"IPV6_MTU_DISCOVER", unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, 4},
		{"IPV6_RECVERR", unix.SOL_IPV6, unix.IPV6_RECVERR, 4},
		{"IPV6_MINHOPCOUNT", unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT, 4},
		{"IPV6_FREEBIND", unix.SOL_IPV6, unix.IPV6_FREEBIND, 4},
		{"IPV6_TRANSPARENT", unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 4},
		{"IPV6_DONTFRAG", unix.SOL_IPV6, unix.IPV6_DONTFRAG, 4},
		{"IPV6_AUTOFLOWLABEL", unix.SOL_IPV6, unix.IPV6_AUTOFLOWLABEL, 4},
		{"IPV6_FLOWINFO_SEND", unix.SOL_IPV6, ipv6FlowinfoSend, 4},
		{"IPV6_ADDR_PREFERENCES", unix.SOL_IPV6, unix.IPV6_ADDR_PREFERENCES, 4},
		{"IPV6_RECVPKTINFO", unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 4},
		{"IPV6_RECVHOPLIMIT", unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 4},
		{"IPV6_RECVTCLASS", unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 4},
		{"IPV6_RECVRTHDR", unix.SOL_IPV6, unix.IPV6_RECVRTHDR, 4},
		{"IPV6_RECVHOPOPTS", unix.SOL_IPV6, unix.IPV6_RECVHOPOPTS, 4},
		{"IPV6_RECVDSTOPTS", unix.SOL_IPV6, unix.IPV6_RECVDSTOPTS, 4},
		{"IPV6_RECVPATHMTU", unix.SOL_IPV6, unix.IPV6_RECVPATHMTU, 4},
		{"IPV6_RECVORIGDSTADDR", unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 4},
		{"IPV6_RECVFRAGSIZE", unix.SOL_IPV6, unix.IPV6_RECVFRAGSIZE, 4},
		{"IPV6_MULTICAST_LOOP", unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 4},
		{"IPV6_MULTICAST_ALL", unix.SOL_IPV6, ipv6MulticastAll, 4},
		{"IPV6_2292PKTINFO", unix.SOL_IPV6, ipv6PktInfo2292, 4},
		{"IPV6_2292HOPOPTS", unix.SOL_IPV6, ipv6HopOpts2292, 4},
		{"IPV6_2292DSTOPTS", unix.SOL_IPV6, ipv6DstOpts2292, 4},
		{"IPV6_2292RTHDR", unix.SOL_IPV6, ipv6RtHdr2292, 4},
		{"IPV6_2292HOPLIMIT", unix.SOL_IPV6, ipv6HopLimit2292, 4},
		{"IPV6_FLOWINFO", unix.SOL_IPV6, ipv6FlowInfo, 4},
		{"IPV6_ROUTER_ALERT_ISOLATE", unix.SOL_IPV6, ipv6RouterAlertIsolate, 4},
		{"IPV6_RECVERR_RFC4884", unix.SOL_IPV6, ipv6RecverrRFC4884, 4},
	}
	// An accepted TCP connection keeps its first packet's lifetime and interface where others keep these (net/ipv4/tcp_ipv4.c), so they are asked of
	// other sockets only.
	multicast4 = []option{
		{"IP_MULTICAST_TTL", unix.SOL_IP, unix.IP_MULTICAST_TTL, 4},
	}
	multicast6 = []option{
		{"IPV6_MULTICAST_HOPS", unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 4},
	}
	tcpOptions = []option{
		{"TCP_CONGESTION", unix.SOL_TCP, unix.TCP_CONGESTION, 0},
		{"TCP_NODELAY", unix.SOL_TCP, unix.TCP_NODELAY, 4},
		{"TCP_KEEPIDLE", unix.SOL_TCP, unix.TCP_KEEPIDLE, 4},
		{"TCP_KEEPINTVL", unix.SOL_TCP, unix.TCP_KEEPINTVL, 4},
		{"TCP_KEEPCNT", unix.SOL_TCP, unix.TCP_KEEPCNT, 4},
		{"TCP_SYNCNT", unix.SOL_TCP, unix.TCP_SYNCNT, 4},
		{"TCP_LINGER2", unix.SOL_TCP, unix.TCP_LINGER2, 4},
		{"TCP_DEFER_ACCEPT", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 4},
		{"TCP_USER_TIMEOUT", unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 4},
		{"TCP_NOTSENT_LOWAT", unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 4},
		{"TCP_THIN_LINEAR_TIMEOUTS", unix.SOL_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, 4},
		{"TCP_FASTOPEN", unix.SOL_TCP, unix.TCP_FASTOPEN, 4},
		{"TCP_FASTOPEN_NO_COOKIE", unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 4},
		{"TCP_SAVE_SYN", unix.SOL_TCP, unix.TCP_SAVE_SYN, 4},
		{"TCP_INQ", unix.SOL_TCP, unix.TCP_INQ, 4},
		{"TCP_TX_DELAY", unix.SOL_TCP, tcpTxDelay, 4},
		{"TCP_RTO_MAX_MS", unix.SOL_TCP, tcpRTOMax, 4},
		{"TCP_RTO_MIN_US", unix.SOL_TCP, tcpRTOMin, 4},
		{"TCP_DELACK_MAX_US", unix.SOL_TCP, tcpDelackMax, 4},
	}
	udpOptions = []option{
		{"UDP_ENCAP", unix.SOL_UDP, udpEncap, 4},
		{"UDP_SEGMENT", unix.SOL_UDP, udpSegment, 4},
		{"UDP_GRO", unix.SOL_UDP, udpGRO, 4},
		{"UDP_NO_CHECK6_TX", unix.SOL_UDP, udpNoCheckTX, 4},
		{"UDP_NO_CHECK6_RX", unix.SOL_UDP, udpNoCheckRX, 4},
	}
)

// optionsOf lists the options that a socket of the kind has. A kernel may lack some of them.
func optionsOf(family, protocol int) []option {
	lists := [][]option{socketOptions}
	switch family {
	case unix.AF_UNIX:
		lists = append(lists, unixOptions)
	case unix.AF_NETLINK:
		lists = append(lists, netlinkOptions)
	case unix.AF_PACKET:
		lists = append(lists, packetOptions)
	case unix.AF_INET:
		lists = append(lists, ipOptions)
	case unix.AF_INET6:
		lists = append(lists, ipOptions, ipv6Options)
	}
	switch {
	case family != unix.AF_INET && family != unix.AF_INET6:
	case protocol == unix.IPPROTO_TCP:
		lists = append(lists, tcpOptions)
	default:
		lists = append(lists, multicast4, udpOptions)
		if family == unix.AF_INET6 {
			lists = append(lists, multicast6)
		}
	}
	return slices.Concat(lists...)
}

// byName finds an option of the kind of socket.
func byName(family, protocol int, name string) (option, bool) {
	for _, o := range optionsOf(family, protocol) {
		if o.name == name {
			return o, true
		}
	}
	return option{}, false
}
