// More sockets: what is pending in them, and kinds that are seldom met.
#include "zoo.h"
#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>

static int a, b, c, first;

static struct sockaddr_un at(const char *name) {
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	snprintf(u.sun_path, sizeof u.sun_path, "%s", in_folder(name));
	return u;
}
static int unix_at(int type, const char *name) {
	struct sockaddr_un u = at(name);
	unlink(u.sun_path);
	int fd = must(socket(AF_UNIX, type, 0), "socket");
	must(bind(fd, (void *)&u, sizeof u), "bind");
	return fd;
}
static int unix_to(int type, const char *name) {
	struct sockaddr_un u = at(name);
	int fd = must(socket(AF_UNIX, type, 0), "socket");
	must(connect(fd, (void *)&u, sizeof u), "connect");
	return fd;
}
static void pair(int type) {
	int s[2];
	must(socketpair(AF_UNIX, type, 0, s), "socketpair");
	a = s[0], b = s[1];
}
static void flows(int from, int to) {
	char got;
	struct pollfd p = {to, POLLIN, 0};
	expect(write(from, "f", 1) == 1 && poll(&p, 1, 5000) == 1 && read(to, &got, 1) == 1 && got == 'f', "nothing flows: %m");
}

static void unix_ended_make(void) { // its other end is closed, and bytes wait
	pair(SOCK_STREAM);
	must(write(b, "last", 4), "write");
	close(b);
}
static void unix_ended_check(void) {
	char got[5];
	if (!first++)
		expect(read(a, got, 5) == 4 && read(a, got, 5) == 0, "the last bytes, and the end");
}
static void unix_backlog_make(void) { // a connection that nobody has accepted, with bytes
	a = unix_at(SOCK_STREAM, "socket");
	must(listen(a, 5), "listen");
	b = unix_to(SOCK_STREAM, "socket");
	must(write(b, "early", 5), "write");
}
static void unix_backlog_check(void) {
	char got[6];
	if (first++)
		return;
	c = accept(a, 0, 0);
	expect(c >= 0 && read(c, got, 6) == 5, "the connection is gone: %m");
	flows(c, b);
}
static void unix_accepted_make(void) {
	a = unix_at(SOCK_SEQPACKET, "socket");
	must(listen(a, 5), "listen");
	b = unix_to(SOCK_SEQPACKET, "socket");
	c = must(accept(a, 0, 0), "accept");
}
static void unix_accepted_check(void) {
	flows(b, c), flows(c, b);
	int d = unix_to(SOCK_SEQPACKET, "socket"), e = accept(a, 0, 0);
	flows(d, e);
	close(d), close(e);
}
static void unix_cred_make(void) {
	pair(SOCK_STREAM);
}
static void unix_cred_check(void) {
	struct ucred u = {0};
	socklen_t size = sizeof u;
	expect(!getsockopt(a, SOL_SOCKET, SO_PEERCRED, &u, &size) && u.pid == getpid() && u.uid == getuid(), "its peer is process %d of user %d", u.pid, u.uid);
}
static void unix_unlinked_make(void) {
	a = unix_at(SOCK_DGRAM, "socket");
	b = unix_to(SOCK_DGRAM, "socket");
	must(unlink(in_folder("socket")), "unlink");
}
static void unix_unlinked_check(void) {
	flows(b, a);
	expect(access(in_folder("socket"), F_OK) < 0, "its name is there again");
}
static void unix_mode_make(void) { // owner and mode of its name
	a = unix_at(SOCK_DGRAM, "socket");
	must(chmod(in_folder("socket"), 0620), "chmod");
	must(chown(in_folder("socket"), 12, 34), "chown");
}
static void unix_mode_check(void) {
	struct stat st = {0};
	expect(!stat(in_folder("socket"), &st) && (st.st_mode & 07777) == 0620 && st.st_uid == 12 && st.st_gid == 34, "mode %o of %d:%d", st.st_mode, st.st_uid, st.st_gid);
}
static void unix_relative_make(void) { // bound by a name that is relative to its folder
	struct sockaddr_un u = {.sun_family = AF_UNIX, .sun_path = "relative"};
	must(chdir(folder), "chdir");
	unlink(u.sun_path);
	a = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(bind(a, (void *)&u, sizeof u), "bind");
}
static void unix_relative_check(void) {
	b = unix_to(SOCK_DGRAM, "relative");
	flows(b, a);
	close(b);
}
static void unix_abstract_dgram_make(void) {
	struct sockaddr_un u = {.sun_family = AF_UNIX, .sun_path = "\0zoo-dgram"};
	a = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(bind(a, (void *)&u, sizeof(sa_family_t) + 10), "bind");
	b = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(connect(b, (void *)&u, sizeof(sa_family_t) + 10), "connect");
}
static void unix_abstract_dgram_check(void) { flows(b, a); }
static void unix_oob_make(void) {
	pair(SOCK_STREAM);
	must(write(a, "ab", 2), "write");
	must(send(a, "!", 1, MSG_OOB), "send");
}
static void unix_oob_check(void) {
	char got = 0;
	if (!first++)
		expect(recv(b, &got, 1, MSG_OOB | MSG_DONTWAIT) == 1 && got == '!', "the urgent byte is gone: %m");
}
static void unix_memfd_make(void) { // a memfd on its way
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	pair(SOCK_DGRAM);
	int fd = must(memfd_create("sent", 0), "memfd_create");
	must(write(fd, "content", 7), "write");
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(h), &fd, sizeof fd);
	must(sendmsg(a, &m, 0), "sendmsg");
	close(fd);
}
static void unix_memfd_check(void) {
	char byte, got[8] = {0}, control[CMSG_SPACE(sizeof(int))];
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	if (first++)
		return;
	expect(recvmsg(b, &m, MSG_DONTWAIT) == 1, "recvmsg: %m");
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int fd = -1;
	if (h)
		memcpy(&fd, CMSG_DATA(h), sizeof fd);
	expect(pread(fd, got, 7, 0) == 7 && !strcmp(got, "content"), "content %s: %m", got);
}

static void netlink_of(int protocol) { a = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, b = protocol), "socket"); }
static void netlink_generic_make(void) { netlink_of(NETLINK_GENERIC); }
static void filter(int fd) { // lets datagrams of one byte pass
	struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 9, 0, 1), BPF_STMT(BPF_RET | BPF_K, 100), BPF_STMT(BPF_RET | BPF_K, 0)};
	struct sock_fprog p = {4, f};
	must(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), "SO_ATTACH_FILTER");
}
static void netlink_uevent_make(void) {
	struct sockaddr_nl all = {.nl_family = AF_NETLINK, .nl_groups = 1};
	netlink_of(NETLINK_KOBJECT_UEVENT);
	filter(a); // the machine's devices come and go, and an event that nobody has read cannot be dumped
	must(bind(a, (void *)&all, sizeof all), "bind");
}
static void netlink_diag_make(void) { netlink_of(NETLINK_SOCK_DIAG); }
static void netlink_check(void) { has(a, SOL_SOCKET, SO_PROTOCOL, b, "SO_PROTOCOL"); }

static void udp_filter_make(void) {
	a = bound(SOCK_DGRAM, 7460), b = bound(SOCK_DGRAM, 7461);
	struct sockaddr_in to = loopback(7460);
	must(connect(b, (void *)&to, sizeof to), "connect");
	filter(a);
}
static void udp_filter_check(void) {
	char got[4];
	expect(write(b, "no", 2) == 2 && write(b, "y", 1) == 1 && read(a, got, 4) == 1 && *got == 'y', "the filter is gone: %m");
}
static void packet_filter_make(void) {
	a = must(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)), "socket");
	filter(a);
}
static void packet_filter_check(void) {
	struct sock_filter f[10];
	socklen_t n = 10;
	expect(!getsockopt(a, SOL_SOCKET, SO_ATTACH_FILTER, f, &n) && n == 4, "the filter is gone: %m");
}
static void packet_member_make(void) {
	struct packet_mreq m = {.mr_ifindex = 1, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 94, 1, 1, 7}};
	a = must(socket(AF_PACKET, SOCK_RAW, 0), "socket");
	must(setsockopt(a, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m), "PACKET_ADD_MEMBERSHIP");
	set(a, SOL_PACKET, PACKET_AUXDATA, 1);
}
static void packet_member_check(void) { has(a, SOL_PACKET, PACKET_AUXDATA, 1, "PACKET_AUXDATA"); }

static void raw6_make(void) { a = must(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6), "socket"); }
static void raw6_check(void) { has(a, SOL_SOCKET, SO_PROTOCOL, IPPROTO_ICMPV6, "SO_PROTOCOL"); }
static void raw_header_make(void) {
	struct sockaddr_in here = loopback(0);
	a = must(socket(AF_INET, SOCK_RAW, IPPROTO_RAW), "socket");
	must(bind(a, (void *)&here, sizeof here), "bind");
}
static void raw_header_check(void) { has(a, IPPROTO_IP, IP_HDRINCL, 1, "IP_HDRINCL"); }

static void echo(int fd) { // an echo of this host through a socket for ICMP datagrams
	struct icmphdr h = {.type = ICMP_ECHO, .un.echo.sequence = htons(5)}, got;
	struct sockaddr_in to = loopback(0);
	struct pollfd p = {fd, POLLIN, 0};
	expect(sendto(fd, &h, sizeof h, 0, (void *)&to, sizeof to) == sizeof h, "sendto: %m");
	expect(poll(&p, 1, 5000) == 1 && recv(fd, &got, sizeof got, 0) == sizeof got && got.type == ICMP_ECHOREPLY && ntohs(got.un.echo.sequence) == 5, "no answer");
}
static void icmp_make(void) {
	a = must(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), "socket");
	struct sockaddr_in here = {.sin_family = AF_INET};
	must(bind(a, (void *)&here, sizeof here), "bind");
	echo(a);
}
static void icmp_check(void) { echo(a); }

static void udplite_make(void) {
	struct sockaddr_in here = loopback(7462);
	a = must(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE), "socket");
	must(bind(a, (void *)&here, sizeof here), "bind");
}
static void udplite_check(void) { has(a, SOL_SOCKET, SO_PROTOCOL, IPPROTO_UDPLITE, "SO_PROTOCOL"); }

static int reuse(int port) {
	struct sockaddr_in here = loopback(port);
	int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	must(bind(fd, (void *)&here, sizeof here), "bind");
	return fd;
}
static void udp_reuseport_make(void) { a = reuse(7463), b = reuse(7463); }
static void udp_reuseport_check(void) {
	has(a, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT"), has(b, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
	c = reuse(7463);
	close(c);
}
static void udp_mapped_make(void) { // IPv4 over a socket of IPv6
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(7464)};
	a = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
	must(bind(a, (void *)&here, sizeof here), "bind");
}
static void udp_mapped_check(void) {
	struct sockaddr_in to = loopback(7464);
	b = socket(AF_INET, SOCK_DGRAM, 0);
	expect(!connect(b, (void *)&to, sizeof to), "connect: %m");
	flows(b, a);
	close(b);
}
static void udp_shutdown_make(void) {
	struct sockaddr_in to = loopback(7466);
	a = bound(SOCK_DGRAM, 7465), b = bound(SOCK_DGRAM, 7466);
	must(connect(a, (void *)&to, sizeof to), "connect");
	must(shutdown(a, SHUT_WR), "shutdown");
}
static void udp_shutdown_check(void) { expect(send(a, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "it can be written"); }
static void udp_nobody_make(void) { // connected to a port that nobody has
	struct sockaddr_in to = loopback(7469);
	a = bound(SOCK_DGRAM, 7467);
	must(connect(a, (void *)&to, sizeof to), "connect");
}
static void udp_nobody_check(void) {
	struct sockaddr_in to = {0};
	socklen_t size = sizeof to;
	expect(!getpeername(a, (void *)&to, &size) && ntohs(to.sin_port) == 7469, "its peer is port %d", ntohs(to.sin_port));
}
static void udp_sources_make(void) { // a multicast group, from one source only
	struct ip_mreq_source m = {.imr_multiaddr.s_addr = inet_addr("232.1.1.7"), .imr_interface.s_addr = htonl(INADDR_LOOPBACK), .imr_sourceaddr.s_addr = inet_addr("192.0.2.9")};
	a = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	must(setsockopt(a, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &m, sizeof m), "IP_ADD_SOURCE_MEMBERSHIP");
}
static void udp_sources_check(void) {
	struct ip_mreq_source m = {.imr_multiaddr.s_addr = inet_addr("232.1.1.7"), .imr_interface.s_addr = htonl(INADDR_LOOPBACK), .imr_sourceaddr.s_addr = inet_addr("192.0.2.9")};
	expect(setsockopt(a, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &m, sizeof m) < 0 && errno == EADDRNOTAVAIL, "the source is no source of it any more: %m");
}

static void tcp_fresh_make(void) {
	a = must(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
	set(a, IPPROTO_TCP, TCP_NODELAY, 1);
}
static void tcp_fresh_check(void) {
	has(a, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
	expect(fcntl(a, F_GETFL) & O_NONBLOCK && fcntl(a, F_GETFD) == FD_CLOEXEC, "its flags");
}
static void tcp_bound_make(void) { a = bound(SOCK_STREAM, 7470); }
static void tcp_bound_check(void) {
	struct sockaddr_in here = loopback(7470);
	b = socket(AF_INET, SOCK_STREAM, 0);
	expect(bind(b, (void *)&here, sizeof here) < 0 && errno == EADDRINUSE, "its port is free");
	close(b);
}
static int listening(int family, int port, int backlog) {
	int fd = must(socket(family, SOCK_STREAM, 0), "socket");
	struct sockaddr_in here = loopback(port);
	struct sockaddr_in6 all = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	must(family == AF_INET ? bind(fd, (void *)&here, sizeof here) : bind(fd, (void *)&all, sizeof all), "bind");
	must(listen(fd, backlog), "listen");
	return fd;
}
static int dial(int port) {
	struct sockaddr_in to = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	expect(!connect(fd, (void *)&to, sizeof to), "connect: %m");
	return fd;
}
static void tcp_dual_make(void) { a = listening(AF_INET6, 7471, 5); } // takes IPv4 too
static void tcp_dual_check(void) {
	b = dial(7471), c = accept(a, 0, 0);
	flows(b, c);
	close(b), close(c);
}
static void tcp_mapped_make(void) { // a connection with IPv4 addresses over sockets of IPv6
	a = listening(AF_INET6, 7472, 5), b = dial(7472), c = must(accept(a, 0, 0), "accept");
	close(a);
}
static void tcp_mapped_check(void) { flows(b, c), flows(c, b); }
static void tcp_reuseport_make(void) { a = listening(AF_INET, 7473, 5), b = listening(AF_INET, 7473, 5); }
static void tcp_reuseport_check(void) {
	for (int i = 0; i < 8; i++) {
		struct pollfd p[] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
		int d = dial(7473);
		expect(poll(p, 2, 5000) == 1, "nobody is told of a connection");
		c = accept(p[0].revents ? a : b, 0, 0);
		flows(d, c);
		close(c), close(d);
	}
}
static void tcp_stopped_make(void) { // a listener that was shut down
	a = listening(AF_INET, 7474, 5);
	must(shutdown(a, SHUT_RD), "shutdown");
}
static void tcp_stopped_check(void) {
	struct sockaddr_in to = loopback(7474);
	b = socket(AF_INET, SOCK_STREAM, 0);
	expect(connect(b, (void *)&to, sizeof to) < 0 && errno == ECONNREFUSED, "it listens");
	close(b);
}
static void tcp_failed_make(void) { // a connect that was refused, and whose error nobody has taken
	struct sockaddr_in to = loopback(7475);
	a = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
	connect(a, (void *)&to, sizeof to);
	struct pollfd p = {a, POLLOUT, 0};
	must(poll(&p, 1, 5000), "poll");
}
static void tcp_failed_check(void) {
	if (!first++)
		has(a, SOL_SOCKET, SO_ERROR, ECONNREFUSED, "SO_ERROR");
}
static void tcp_corked_make(void) { // bytes that are held back until there are more
	a = listening(AF_INET, 7476, 5), b = dial(7476), c = must(accept(a, 0, 0), "accept");
	set(b, IPPROTO_TCP, TCP_CORK, 1);
	must(write(b, "half", 4), "write");
}
static void tcp_corked_check(void) {
	char got[5];
	struct pollfd p = {c, POLLIN, 0};
	has(b, IPPROTO_TCP, TCP_CORK, 1, "TCP_CORK");
	if (!first++)
		expect(poll(&p, 1, 5000) == 1 && read(c, got, 5) == 4, "what was held back is lost");
}
static void tcp_full_make(void) { // what is sent does not fit into the receiver's window
	char some[65536] = {0};
	a = listening(AF_INET, 7477, 5), b = dial(7477), c = must(accept(a, 0, 0), "accept");
	fcntl(b, F_SETFL, O_NONBLOCK);
	for (ssize_t n; (n = write(b, some, sizeof some)) > 0;)
		first += n;
}
static void tcp_full_check(void) {
	char some[65536];
	struct pollfd p = {c, POLLIN, 0};
	while (first > 0 && poll(&p, 1, 5000) == 1)
		first -= read(c, some, sizeof some);
	expect(first == 0, "%d bytes did not come", first);
	flows(b, c);
}
static void tcp_lowat_make(void) {
	a = listening(AF_INET, 7478, 5), b = dial(7478), c = must(accept(a, 0, 0), "accept");
	set(c, SOL_SOCKET, SO_RCVLOWAT, 10);
	must(write(b, "12345", 5), "write");
}
static void tcp_lowat_check(void) {
	struct pollfd p = {c, POLLIN, 0};
	if (first++)
		return;
	expect(poll(&p, 1, 50) == 0, "it is ready with 5 bytes");
	expect(write(b, "67890", 5) == 5 && poll(&p, 1, 5000) == 1, "it is not ready with 10 bytes");
}
static void tcp_child_make(void) { // held by a child alone
	a = listening(AF_INET, 7479, 5), b = dial(7479), c = must(accept(a, 0, 0), "accept");
	if (!must(fork(), "fork")) {
		close(b);
		for (char byte; read(c, &byte, 1) == 1;)
			must(write(c, &byte, 1), "write");
		pause();
	}
	close(c), close(a);
}
static void tcp_child_check(void) { flows(b, b); }
static void tcp_device_make(void) {
	a = listening(AF_INET, 7480, 5);
	must(setsockopt(a, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3), "SO_BINDTODEVICE");
}
static void tcp_device_check(void) {
	char now[16] = {0};
	socklen_t size = sizeof now;
	expect(!getsockopt(a, SOL_SOCKET, SO_BINDTODEVICE, now, &size) && !strcmp(now, "lo"), "it is bound to %s", now);
	b = dial(7480), c = accept(a, 0, 0);
	flows(b, c);
	close(b), close(c);
}

const struct mode queue_modes[] = {
	{"unix_ended", unix_ended_make, unix_ended_check}, {"unix_backlog", unix_backlog_make, unix_backlog_check},
	{"unix_accepted", unix_accepted_make, unix_accepted_check}, {"unix_cred", unix_cred_make, unix_cred_check},
	{"unix_unlinked", unix_unlinked_make, unix_unlinked_check}, {"unix_mode", unix_mode_make, unix_mode_check},
	{"unix_relative", unix_relative_make, unix_relative_check}, {"unix_abstract_dgram", unix_abstract_dgram_make, unix_abstract_dgram_check},
	{"unix_oob", unix_oob_make, unix_oob_check}, {"unix_memfd", unix_memfd_make, unix_memfd_check},
	{"netlink_generic", netlink_generic_make, netlink_check}, {"netlink_uevent", netlink_uevent_make, netlink_check},
	{"netlink_diag", netlink_diag_make, netlink_check}, {"udp_filter", udp_filter_make, udp_filter_check},
	{"packet_filter", packet_filter_make, packet_filter_check}, {"packet_member", packet_member_make, packet_member_check}, {"raw6", raw6_make, raw6_check},
	{"raw_header", raw_header_make, raw_header_check}, {"icmp", icmp_make, icmp_check}, {"udplite", udplite_make, udplite_check},
	{"udp_reuseport", udp_reuseport_make, udp_reuseport_check}, {"udp_mapped", udp_mapped_make, udp_mapped_check},
	{"udp_shutdown", udp_shutdown_make, udp_shutdown_check}, {"udp_nobody", udp_nobody_make, udp_nobody_check},
	{"udp_sources", udp_sources_make, udp_sources_check}, {"tcp_fresh", tcp_fresh_make, tcp_fresh_check}, {"tcp_bound", tcp_bound_make, tcp_bound_check},
	{"tcp_dual", tcp_dual_make, tcp_dual_check}, {"tcp_mapped", tcp_mapped_make, tcp_mapped_check}, {"tcp_reuseport", tcp_reuseport_make, tcp_reuseport_check},
	{"tcp_stopped", tcp_stopped_make, tcp_stopped_check}, {"tcp_failed", tcp_failed_make, tcp_failed_check}, {"tcp_corked", tcp_corked_make, tcp_corked_check},
	{"tcp_full", tcp_full_make, tcp_full_check}, {"tcp_lowat", tcp_lowat_make, tcp_lowat_check}, {"tcp_child", tcp_child_make, tcp_child_check},
	{"tcp_device", tcp_device_make, tcp_device_check}, {0},
};
