// Listeners, and connections between members.
#include "objects.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in address(struct object *o, const char *ip, int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	must(o, inet_pton(AF_INET, ip, &a.sin_addr) == 1, ip);
	return a;
}

static int listener(struct object *o, int reuse) {
	struct sockaddr_in a = address(o, o->arg[0], number(o, 1));
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(o, fd >= 0, "socket");
	if (reuse)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	must(o, bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 16) == 0, "listen");
	return fd;
}

// listen ADDR PORT reuse|plain client|server: who closes a connection first.
static void listen_make(struct object *o) { o->fd = listener(o, !strcmp(o->arg[2], "reuse")); }

static void listen_check(struct object *o) {
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	char c = 'x';
	if (getsockname(o->fd, (struct sockaddr *)&a, &size)) {
		fail(o, "getsockname: %s", strerror(errno));
		return;
	}
	if (a.sin_addr.s_addr == INADDR_ANY)
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), server = -1;
	if (connect(client, (struct sockaddr *)&a, sizeof a))
		fail(o, "connect: %s", strerror(errno));
	else if (readable(o, o->fd, "listener")) {
		server = accept4(o->fd, 0, 0, SOCK_CLOEXEC);
		if (server < 0 || write(client, &c, 1) != 1 || read(server, &c, 1) != 1)
			fail(o, "a new connection: %s", strerror(errno));
	}
	int first = !strcmp(o->arg[3], "server") ? server : client, second = first == server ? client : server;
	shutdown(first, SHUT_WR);
	if (second >= 0 && server >= 0 && read(second, &c, 1) != 0)
		fail(o, "no end: %s", strerror(errno));
	close(second);
	if (first >= 0 && server >= 0 && read(first, &c, 1) != 0)
		fail(o, "no end of the other: %s", strerror(errno));
	close(first);
}

// A stream's end sends the numbers from 0 on and expects them. Some ends are slow readers, so that much is in transit.
struct end {
	struct object *o;
	int fd;
	_Atomic uint64_t sent, received;
	int slow;
};

static void *writer(void *arg) {
	struct end *e = arg;
	uint64_t burst[64];
	for (;;) {
		int n = 1 + e->sent % 64;
		for (int i = 0; i < n; i++)
			burst[i] = e->sent + i;
		for (size_t done = 0, want = n * sizeof *burst; done < want;) {
			ssize_t put = write(e->fd, (char *)burst + done, want - done);
			if (put <= 0) {
				fail(e->o, "write after %llu words: %s", (unsigned long long)e->sent, strerror(errno));
				return 0;
			}
			done += put;
		}
		e->sent += n;
		pause_ms(e->slow ? 1 : 3);
	}
}

static void *reader(void *arg) {
	struct end *e = arg;
	unsigned char buf[4096];
	size_t have = 0;
	for (;;) {
		ssize_t got = read(e->fd, buf + have, (e->slow ? 256 : sizeof buf) - have);
		if (got <= 0) {
			fail(e->o, "read after %llu words: %s", (unsigned long long)e->received, got ? strerror(errno) : "end");
			return 0;
		}
		have += got;
		size_t at = 0;
		for (; at + 8 <= have; at += 8) {
			uint64_t word;
			memcpy(&word, buf + at, 8);
			if (word != e->received) {
				fail(e->o, "word %llu arrived, want %llu", (unsigned long long)word, (unsigned long long)e->received);
				return 0;
			}
			e->received++;
		}
		memmove(buf, buf + at, have -= at);
		if (e->slow)
			pause_ms(5);
	}
}

static struct end ends[64];
static _Atomic int used;

static void stream(struct object *o, int fd, int slow) {
	int one = 1;
	struct end *e = &ends[used++];
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	e->o = o, e->fd = fd, e->slow = slow;
	start(writer, e);
	start(reader, e);
}

static void streams_check(struct object *o) {
	for (int i = 0; i < used; i++)
		if (ends[i].o == o) {
			moves(o, &ends[i].sent, "sending");
			moves(o, &ends[i].received, "receiving");
		}
}

// serve ADDR PORT reuse|plain COUNT keep|close slow|fast: accepts connections; then the listener may go.
static void *acceptor(void *arg) {
	struct object *o = arg;
	for (int i = 0; i < number(o, 3); i++) {
		int fd = accept4(o->fd, 0, 0, SOCK_CLOEXEC);
		if (fd < 0) {
			fail(o, "accept: %s", strerror(errno));
			return 0;
		}
		stream(o, fd, !strcmp(o->arg[5], "slow"));
		o->m++;
	}
	if (!strcmp(o->arg[4], "close"))
		close(o->fd);
	o->alive = 1;
	for (;;)
		pause_ms(1000000); // a thread that has ended would not be there to be restored
	return 0;
}

static void serve_make(struct object *o) {
	o->fd = listener(o, !strcmp(o->arg[2], "reuse"));
	start(acceptor, o);
}

static void serve_check(struct object *o) {
	for (uint64_t until = now_ms() + 30000; !o->alive && now_ms() < until && !o->failure[0];)
		pause_ms(1);
	if (!o->alive)
		fail(o, "%llu of %d connections came", (unsigned long long)o->m, number(o, 3));
	streams_check(o);
}

// connect ADDR PORT slow|fast
static void connect_make(struct object *o) {
	struct sockaddr_in a = address(o, o->arg[0], number(o, 1));
	for (uint64_t until = now_ms() + 30000;; pause_ms(10)) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
			stream(o, fd, !strcmp(o->arg[2], "slow"));
			return;
		}
		must(o, errno == ECONNREFUSED && now_ms() < until, "connect");
		close(fd);
	}
}

// left ADDR PORT: a connection whose other end, a leave, has been closed; the member holds its own, with a word unread.
static void *left_acceptor(void *arg) {
	struct object *o = arg;
	o->fd2 = accept4(o->fd, 0, 0, SOCK_CLOEXEC);
	if (o->fd2 < 0)
		fail(o, "accept: %s", strerror(errno));
	o->alive = 1;
	for (;;)
		pause_ms(1000000);
	return 0;
}

static void left_make(struct object *o) {
	o->fd = listener(o, 1);
	start(left_acceptor, o);
}

static void left_check(struct object *o) {
	char word[16] = "";
	for (uint64_t until = now_ms() + 30000; !o->alive && now_ms() < until;)
		pause_ms(1);
	for (int i = 0; i < 3000 && recv(o->fd2, word, sizeof word, MSG_PEEK) != 5; i++)
		pause_ms(1);
	if (strcmp(word, "hello"))
		fail(o, "it says %.5s: %s", word, strerror(errno));
	struct tcp_info info;
	socklen_t size = sizeof info;
	for (int i = 0; i < 5000; i++) {
		if (getsockopt(o->fd2, IPPROTO_TCP, TCP_INFO, &info, &size) || info.tcpi_state != 1) // not ESTABLISHED any more
			break;
		pause_ms(1);
	}
	// CLOSE-WAIT; or CLOSE, once the other host was asked about it, which knows it no more and says so.
	if (info.tcpi_state != 8 && info.tcpi_state != 7)
		fail(o, "its state is %d", info.tcpi_state);
}

// leave ADDR PORT: says a word and closes.
static void leave_make(struct object *o) {
	struct sockaddr_in a = address(o, o->arg[0], number(o, 1));
	for (uint64_t until = now_ms() + 30000;; pause_ms(10)) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
			must(o, write(fd, "hello", 5) == 5 && close(fd) == 0, "write");
			return;
		}
		must(o, errno == ECONNREFUSED && now_ms() < until, "connect");
		close(fd);
	}
}

// echo ADDR PORT: accepts without end and answers each word with the next number; for churn.
static void *answerer(void *arg) {
	int fd = (int)(intptr_t)arg;
	uint64_t word;
	while (recv(fd, &word, sizeof word, MSG_WAITALL) == sizeof word) {
		word++;
		if (write(fd, &word, sizeof word) != sizeof word)
			break;
	}
	close(fd);
	return 0;
}

static void *welcomer(void *arg) {
	struct object *o = arg;
	for (;;) {
		int fd = accept4(o->fd, 0, 0, SOCK_CLOEXEC);
		if (fd < 0 && errno == ECONNABORTED)
			continue;
		if (fd < 0) {
			fail(o, "accept: %s", strerror(errno));
			return 0;
		}
		start(answerer, (void *)(intptr_t)fd);
		o->alive++;
	}
}

static void echo_make(struct object *o) {
	o->fd = listener(o, 1);
	start(welcomer, o);
}

static void alive_check(struct object *o) { moves(o, &o->alive, "connections"); }

// churn ADDR PORT: makes one connection after the other, exchanges some words on each, and ends it. One connection stays: from it
// the program learns where its server is now.
static void churn_once(struct object *o) {
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	if (getpeername(o->fd, (struct sockaddr *)&a, &size)) {
		fail(o, "getpeername: %s", strerror(errno));
		return;
	}
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof a))
		fail(o, "connection %llu: %s", (unsigned long long)o->n, strerror(errno));
	for (int i = 0; i < 3 + (int)(o->n % 5) && !o->failure[0]; i++) {
		uint64_t word = o->n * 100 + i, got = 0;
		if (write(fd, &word, sizeof word) != sizeof word || recv(fd, &got, sizeof got, MSG_WAITALL) != sizeof got || got != word + 1)
			fail(o, "connection %llu, word %d: got %llu: %s", (unsigned long long)o->n, i, (unsigned long long)got, strerror(errno));
		pause_ms(o->n % 3);
	}
	close(fd);
	o->n++;
	o->alive++;
}

static void *churner(void *arg) {
	struct object *o = arg;
	while (!o->failure[0])
		churn_once(o);
	return 0;
}

static void churn_make(struct object *o) {
	struct sockaddr_in a = address(o, o->arg[0], number(o, 1));
	for (uint64_t until = now_ms() + 30000;; pause_ms(10)) {
		o->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(o->fd, (struct sockaddr *)&a, sizeof a) == 0)
			break;
		must(o, errno == ECONNREFUSED && now_ms() < until, "connect");
		close(o->fd);
	}
	start(churner, o);
}

// udp: a socket with unread datagrams to itself.
static void udp_make(struct object *o) {
	struct sockaddr_in a = address(o, "127.0.0.1", number(o, 0));
	o->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	must(o, bind(o->fd, (struct sockaddr *)&a, sizeof a) == 0 && connect(o->fd, (struct sockaddr *)&a, sizeof a) == 0, "bind");
}

static void udp_check(struct object *o) {
	char c = 0;
	if (send(o->fd, "u", 1, 0) != 1 || !readable(o, o->fd, "datagram") || recv(o->fd, &c, 1, MSG_DONTWAIT) != 1 || c != 'u')
		fail(o, "a datagram to itself: %s", strerror(errno));
}

const struct kind net_kinds[] = {
	{"listen", listen_make, 0, listen_check},
	{"serve", serve_make, 0, serve_check},
	{"connect", connect_make, 0, streams_check},
	{"left", left_make, 0, left_check},
	{"leave", leave_make, 0, 0},
	{"echo", echo_make, 0, alive_check},
	{"churn", churn_make, 0, alive_check},
	{"udp", udp_make, 0, udp_check},
	{0},
};
