// Sockets, and what lies in their queues.
#include "zoo.h"
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int a, b, c, d;

// multicast_if: the interface that multicast goes out by, given as an address.
static void multicast_if_make(void) {
	struct in_addr lo = {htonl(INADDR_LOOPBACK)};
	a = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	must(setsockopt(a, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo), "IP_MULTICAST_IF");
}
static void multicast_if_check(void) {
	struct in_addr now = {0};
	socklen_t size = sizeof now;
	expect(!getsockopt(a, IPPROTO_IP, IP_MULTICAST_IF, &now, &size), "getsockopt: %m");
	expect(now.s_addr == htonl(INADDR_LOOPBACK), "IP_MULTICAST_IF was 127.0.0.1 and is %s", inet_ntoa(now));
}

// multicast_ifindex: the same, given as an interface. A datagram that is sent to a group arrives there.
static void multicast_ifindex_make(void) {
	struct ip_mreqn lo = {.imr_ifindex = 1};
	struct ip_mreqn group = {.imr_ifindex = 1, .imr_multiaddr.s_addr = inet_addr("239.7.7.7")};
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7412)};
	a = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	must(setsockopt(a, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo), "IP_MULTICAST_IF");
	b = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	must(bind(b, (void *)&at, sizeof at), "bind");
	must(setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group), "IP_ADD_MEMBERSHIP");
}
static void multicast_ifindex_check(void) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7412), .sin_addr.s_addr = inet_addr("239.7.7.7")};
	struct pollfd p = {b, POLLIN, 0};
	char got;
	expect(sendto(a, "m", 1, 0, (void *)&to, sizeof to) == 1, "sendto: %m");
	expect(poll(&p, 1, 5000) == 1 && recv(b, &got, 1, 0) == 1 && got == 'm', "what was sent to the group did not arrive");
}

// three fills a queue, and drain reads it once.
static int drained;
static void three(int fd, const char *prefix) {
	char text[20];
	for (int i = 0; i < 3; i++) {
		int n = snprintf(text, sizeof text, "%s%d", prefix, i);
		must(send(fd, text, n, 0), "send");
	}
}
static void drain(int fd, const char *prefix) {
	char text[20], got[20];
	if (drained++)
		return;
	for (int i = 0; i < 3; i++) {
		int n = snprintf(text, sizeof text, "%s%d", prefix, i);
		ssize_t r = recv(fd, got, sizeof got, MSG_DONTWAIT);
		expect(r == n && !memcmp(got, text, n), "datagram %d: %zd bytes, %s", i, r, r < 0 ? strerror(errno) : "other ones");
	}
	expect(recv(fd, got, sizeof got, MSG_DONTWAIT) < 0, "a datagram came twice");
}

// udp_queue: datagrams that nobody has read.
static void udp_queue_make(void) {
	struct sockaddr_in to = loopback(7401);
	a = bound(SOCK_DGRAM, 7401);
	b = bound(SOCK_DGRAM, 7402);
	for (int i = 0; i < 3; i++) {
		char text[4] = {'u', 'd', '0' + i};
		must(sendto(b, text, 3, 0, (void *)&to, sizeof to), "sendto");
	}
}
static void udp_queue_check(void) {
	if (drained++)
		return;
	for (int i = 0; i < 3; i++) {
		char got[10];
		struct sockaddr_in from;
		socklen_t size = sizeof from;
		ssize_t n = recvfrom(a, got, sizeof got, MSG_DONTWAIT, (void *)&from, &size);
		expect(n == 3 && got[2] == '0' + i, "datagram %d: %zd bytes, %s", i, n, n < 0 ? strerror(errno) : "other ones");
		expect(n != 3 || ntohs(from.sin_port) == 7402, "datagram %d is from port %d", i, ntohs(from.sin_port));
	}
}

static void unix_dgram_queue_make(void) {
	int s[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), "socketpair");
	a = s[0], b = s[1];
	three(a, "dg");
}
static void unix_dgram_queue_check(void) { drain(b, "dg"); }

static void unix_seqpacket_queue_make(void) {
	int s[2];
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), "socketpair");
	a = s[0], b = s[1];
	three(a, "seq");
}
static void unix_seqpacket_queue_check(void) { drain(b, "seq"); }

// unix_stream_queue: bytes both ways.
static void unix_stream_queue_make(void) {
	int s[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	a = s[0], b = s[1];
	must(write(a, "there", 5), "write");
	must(write(b, "back", 4), "write");
}
static void unix_stream_queue_check(void) {
	char got[10];
	if (drained++)
		return;
	expect(recv(b, got, 10, MSG_DONTWAIT) == 5 && !memcmp(got, "there", 5), "there");
	expect(recv(a, got, 10, MSG_DONTWAIT) == 4 && !memcmp(got, "back", 4), "back");
}

static struct sockaddr_un name_of(const char *name) {
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	snprintf(u.sun_path, sizeof u.sun_path, "%s", name);
	return u;
}

// unix_named_queue: datagrams of a client with a name, to a server with a name.
static void unix_named_queue_make(void) {
	struct sockaddr_un server = name_of(in_folder("server")), client = name_of(in_folder("client"));
	unlink(server.sun_path), unlink(client.sun_path);
	a = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	b = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(bind(a, (void *)&server, sizeof server), "bind");
	must(bind(b, (void *)&client, sizeof client), "bind");
	must(connect(b, (void *)&server, sizeof server), "connect");
	three(b, "nm");
}
static void unix_named_queue_check(void) {
	drain(a, "nm");
	char got[4];
	expect(send(b, "x", 1, 0) == 1 && recv(a, got, 4, MSG_DONTWAIT) == 1, "it is not connected: %m");
}

// unix_abstract: a listener with an abstract name takes a connection.
static struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0zoo-abstract"};
static const socklen_t abstract_size = sizeof(sa_family_t) + 13;
static void unix_abstract_make(void) {
	a = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	must(bind(a, (void *)&abstract, abstract_size), "bind");
	must(listen(a, 3), "listen");
}
static void unix_abstract_check(void) {
	char got;
	int client = socket(AF_UNIX, SOCK_STREAM, 0);
	expect(!connect(client, (void *)&abstract, abstract_size), "connect: %m");
	int taken = accept(a, 0, 0);
	expect(write(client, "a", 1) == 1 && read(taken, &got, 1) == 1, "nothing flows");
	close(client), close(taken);
}

// unix_shutdown: one direction of a pair is over.
static void unix_shutdown_make(void) {
	int s[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	a = s[0], b = s[1];
	must(shutdown(a, SHUT_WR), "shutdown");
}
static void unix_shutdown_check(void) {
	char got;
	expect(recv(b, &got, 1, MSG_DONTWAIT) == 0, "the end is not there: %m");
	expect(send(a, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "it can be written");
	expect(send(b, "x", 1, 0) == 1 && recv(a, &got, 1, MSG_DONTWAIT) == 1, "the other direction");
}

// unix_passcred: each datagram carries credentials.
static void unix_passcred_make(void) {
	int s[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), "socketpair");
	a = s[0], b = s[1];
	set(b, SOL_SOCKET, SO_PASSCRED, 1);
}
static void unix_passcred_check(void) {
	char got, control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec v = {&got, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	expect(send(a, "c", 1, 0) == 1 && recvmsg(b, &m, MSG_DONTWAIT) == 1, "nothing flows: %m");
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	expect(h && h->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(h))->pid == getpid(), "no credentials");
}

static void pass(int over, int fd) {
	char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(h), &fd, sizeof fd);
	must(sendmsg(over, &m, 0), "sendmsg");
}

// unix_rights: a descriptor of a pipe on its way, and kept as well.
static void unix_rights_make(void) {
	int s[2], p[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	must(pipe(p), "pipe");
	a = s[0], b = s[1], c = p[0], d = p[1];
	pass(a, c);
}
static void unix_rights_check(void) {
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	if (drained++)
		return;
	expect(recvmsg(b, &m, MSG_DONTWAIT) == 1, "recvmsg: %m");
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	expect(h && h->cmsg_type == SCM_RIGHTS, "no descriptor came");
	if (!h)
		return;
	int fd;
	memcpy(&fd, CMSG_DATA(h), sizeof fd);
	expect(write(d, "p", 1) == 1 && read(fd, &byte, 1) == 1 && byte == 'p', "the pipe that came does not work");
}

// udp_connected: two datagram sockets of one member that are connected to one another over loopback.
static void udp_connected_make(void) {
	struct sockaddr_in to_a = loopback(7403), to_b = loopback(7404);
	a = bound(SOCK_DGRAM, 7403);
	b = bound(SOCK_DGRAM, 7404);
	must(connect(a, (void *)&to_b, sizeof to_b), "connect");
	must(connect(b, (void *)&to_a, sizeof to_a), "connect");
}
static void udp_connected_check(void) {
	char got[4];
	struct pollfd p = {b, POLLIN, 0};
	expect(send(a, "x", 1, 0) == 1, "send: %m");
	expect(poll(&p, 1, 5000) == 1 && recv(b, got, 4, 0) == 1, "nothing flows");
}

// udp6, udplite, raw, ping, packet: sockets that are bound and nothing else.
static void udp6_make(void) {
	struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(7405), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	a = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
	set(a, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set(a, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	must(bind(a, (void *)&at, sizeof at), "bind");
}
static void udp6_check(void) {
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(7405), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	char got[4];
	has(a, IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY");
	has(a, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO");
	expect(sendto(a, "6", 1, 0, (void *)&to, sizeof to) == 1 && recv(a, got, 4, MSG_DONTWAIT) == 1, "nothing flows: %m");
}

static void raw_make(void) { a = must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "socket"); }
static void raw_check(void) { has(a, SOL_SOCKET, SO_PROTOCOL, IPPROTO_ICMP, "SO_PROTOCOL"); }

static void packet_make(void) {
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = 1};
	a = must(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), "socket");
	must(bind(a, (void *)&at, sizeof at), "bind");
}
static void packet_check(void) {
	struct sockaddr_ll at = {0};
	socklen_t size = sizeof at;
	expect(!getsockname(a, (void *)&at, &size) && at.sll_ifindex == 1, "it is bound to interface %d", at.sll_ifindex);
}

static void netlink_make(void) {
	struct sockaddr_nl at = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	a = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
	must(bind(a, (void *)&at, sizeof at), "bind");
}
static void netlink_check(void) {
	struct sockaddr_nl at = {0};
	socklen_t size = sizeof at;
	expect(!getsockname(a, (void *)&at, &size) && at.nl_groups == RTMGRP_LINK, "it is in the groups %#x", at.nl_groups);
}

// tcp_listen: a listener with options takes a connection.
static void tcp_listen_make(void) {
	a = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	struct sockaddr_in at = loopback(7406);
	set(a, SOL_SOCKET, SO_REUSEADDR, 1);
	set(a, IPPROTO_TCP, TCP_DEFER_ACCEPT, 4);
	set(a, SOL_SOCKET, SO_KEEPALIVE, 1);
	must(bind(a, (void *)&at, sizeof at), "bind");
	must(listen(a, 17), "listen");
}
static void tcp_listen_check(void) {
	struct sockaddr_in to = loopback(7406);
	int client = socket(AF_INET, SOCK_STREAM, 0);
	char got;
	has(a, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
	expect(!connect(client, (void *)&to, sizeof to) && write(client, "t", 1) == 1, "connect: %m");
	int taken = accept(a, 0, 0);
	expect(read(taken, &got, 1) == 1, "nothing flows: %m");
	close(taken), close(client);
}

// tcp_own: a connection of the member with itself, with bytes under way in both directions.
static void own_connection(int port) { // a port for each mode: they are made at once
	struct sockaddr_in at = loopback(port);
	int listener = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	must(bind(listener, (void *)&at, sizeof at), "bind");
	must(listen(listener, 3), "listen");
	a = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(a, (void *)&at, sizeof at), "connect");
	b = must(accept(listener, 0, 0), "accept");
	close(listener);
	must(write(a, "12345", 5), "write");
	must(write(b, "678", 3), "write");
}
static void tcp_own_make(void) { own_connection(7407); }
static void tcp_own_check(void) {
	char got[8];
	if (drained++)
		return;
	struct pollfd p[] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
	poll(p, 1, 5000), poll(p + 1, 1, 5000);
	expect(recv(b, got, 8, MSG_DONTWAIT) == 5 && !memcmp(got, "12345", 5), "there");
	expect(recv(a, got, 8, MSG_DONTWAIT) == 3 && !memcmp(got, "678", 3), "back");
}

// tcp_oob: an urgent byte that has been read already.
static void tcp_oob_make(void) {
	own_connection(7408);
	char got[8];
	struct pollfd p = {b, POLLPRI, 0};
	must(send(a, "!", 1, MSG_OOB), "send");
	poll(&p, 1, 5000);
	must(recv(b, got, 1, MSG_OOB), "recv");
}

// epoll: watches several descriptors, one of which is ready, and one of which is edge-triggered and told already.
static void epoll_make(void) {
	a = must(epoll_create1(0), "epoll");
	b = must(eventfd(1, 0), "eventfd");
	c = must(eventfd(1, 0), "eventfd");
	struct epoll_event e = {EPOLLIN, {.u64 = 0x1111222233334444}}, edge = {EPOLLIN | EPOLLET, {.u64 = 2}};
	must(epoll_ctl(a, EPOLL_CTL_ADD, b, &e), "epoll_ctl");
	must(epoll_ctl(a, EPOLL_CTL_ADD, c, &edge), "epoll_ctl");
}
static void epoll_check(void) {
	struct epoll_event got[4];
	int n = epoll_wait(a, got, 4, 0), found = 0;
	for (int i = 0; i < n; i++)
		found |= got[i].data.u64 == 0x1111222233334444;
	expect(found, "what is ready is not told");
}

// epoll_dup: the descriptor that was added is closed, another one of the same file is open.
static void epoll_dup_make(void) {
	a = must(epoll_create1(0), "epoll");
	b = must(eventfd(1, 0), "eventfd");
	struct epoll_event e = {EPOLLIN, {.u64 = 77}};
	c = must(dup(b), "dup");
	must(epoll_ctl(a, EPOLL_CTL_ADD, c, &e), "epoll_ctl");
	close(c);
}
static void epoll_dup_check(void) {
	struct epoll_event got;
	expect(epoll_wait(a, &got, 1, 0) == 1 && got.data.u64 == 77, "what is ready is not told");
}

// efd_semaphore: each read takes one. efd_count: a read takes all.
static void efd_semaphore_make(void) { a = must(eventfd(1000, EFD_SEMAPHORE | EFD_NONBLOCK), "eventfd"); }
static void efd_semaphore_check(void) {
	uint64_t n = 0;
	expect(read(a, &n, 8) == 8 && n == 1, "a read took %llu", (unsigned long long)n);
}
static void efd_large_make(void) { uint64_t n = 1ull << 40; a = must(eventfd(5, EFD_NONBLOCK), "eventfd"); expect(write(a, &n, 8) == 8, "write"); }
static void efd_large_check(void) {
	uint64_t n = 0;
	expect(read(a, &n, 8) == 8 && n == (1ull << 40) + 5, "a read took %llu", (unsigned long long)n);
}
static void efd_count_make(void) { a = must(eventfd(41, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"); }
static void efd_count_check(void) {
	uint64_t n = 0;
	expect(read(a, &n, 8) == 8 && n == 41 && write(a, &n, 8) == 8, "a read took %llu", (unsigned long long)n);
	expect(fcntl(a, F_GETFD) == FD_CLOEXEC, "it is not close-on-exec any more");
}

const struct mode socket_modes[] = {
	{"multicast_if", multicast_if_make, multicast_if_check},
	{"multicast_ifindex", multicast_ifindex_make, multicast_ifindex_check},
	{"udp_queue", udp_queue_make, udp_queue_check},
	{"unix_dgram_queue", unix_dgram_queue_make, unix_dgram_queue_check},
	{"unix_seqpacket_queue", unix_seqpacket_queue_make, unix_seqpacket_queue_check},
	{"unix_stream_queue", unix_stream_queue_make, unix_stream_queue_check},
	{"unix_named_queue", unix_named_queue_make, unix_named_queue_check},
	{"unix_abstract", unix_abstract_make, unix_abstract_check},
	{"unix_shutdown", unix_shutdown_make, unix_shutdown_check},
	{"unix_passcred", unix_passcred_make, unix_passcred_check},
	{"unix_rights", unix_rights_make, unix_rights_check},
	{"udp_connected", udp_connected_make, udp_connected_check},
	{"udp6", udp6_make, udp6_check},
	{"raw", raw_make, raw_check},
	{"packet", packet_make, packet_check},
	{"netlink", netlink_make, netlink_check},
	{"tcp_listen", tcp_listen_make, tcp_listen_check},
	{"tcp_own", tcp_own_make, tcp_own_check},
	{"tcp_oob", tcp_oob_make, 0},
	{"epoll", epoll_make, epoll_check},
	{"epoll_dup", epoll_dup_make, epoll_dup_check},
	{"efd_semaphore", efd_semaphore_make, efd_semaphore_check},
	{"efd_large", efd_large_make, efd_large_check},
	{"efd_count", efd_count_make, efd_count_check},
	{0},
};
