/*
 * states client|server IP PORT STOP CASE...: brings one connection for each CASE into a state, with the same program on the other side, and holds all of them. When
 * the file STOP is there, it reads what each has to say, and prints "PASS", or "FAIL: ..." and the case.
 *
 * A CASE is a list of steps, each a side (C or S) and what it does: w writes some words, f writes until nothing more fits, s ends its direction (shutdown),
 * c closes, r resets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in where;
static char side;
static const char *now = "start";

/* pair is one case: its connection, and one on which both sides tell each other of their steps. */
struct pair {
	const char *steps;
	int fd, control;
	uint64_t wrote, theirs; /* bytes */
	int ended, gone;        /* our direction; our end */
	int theirs_gone, lost;  /* their end; whether a reset may have taken bytes */
};

static void fail(const char *what)
{
	printf("FAIL: %s: %s: %s\n", now, what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void must(int ok, const char *what)
{
	if (!ok)
		fail(what);
}

/* write_some writes the bytes 0, 1, 2 and so on, up to most, or as many as fit. */
static void write_some(struct pair *p, uint64_t most)
{
	unsigned char buf[4096];
	ssize_t n;

	for (uint64_t done = 0; done < most; done += n) {
		size_t want = most - done < sizeof buf ? most - done : sizeof buf;

		for (size_t i = 0; i < want; i++)
			buf[i] = (p->wrote + i) % 251;
		n = send(p->fd, buf, want, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return;
		must(n > 0, "write");
		p->wrote += n;
	}
}

static void step(struct pair *p, char what)
{
	struct linger off = { .l_onoff = 1 };

	switch (what) {
	case 'w':
		write_some(p, 100);
		break;
	case 'f':
		write_some(p, 64 << 20);
		break;
	case 's':
		must(shutdown(p->fd, SHUT_WR) == 0, "shutdown");
		p->ended = 1;
		break;
	case 'r':
		setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
		/* fall through */
	case 'c':
		close(p->fd);
		p->gone = 1;
		break;
	}
}

/* play takes the steps in turn with the other side. */
static void play(struct pair *p)
{

	now = p->steps;
	for (const char *s = p->steps; *s && *s != '-'; s += 2) {
		if (*s == side) {
			step(p, s[1]);
			must(write(p->control, &p->wrote, sizeof p->wrote) == sizeof p->wrote, "tell of a step");
		} else {
			must(recv(p->control, &p->theirs, sizeof p->theirs, MSG_WAITALL) == sizeof p->theirs, "hear of a step");
			p->theirs_gone |= s[1] == 'r' || s[1] == 'c';
			p->lost |= s[1] == 'r' || (s[1] == 'c' && p->wrote > 0); /* a close with unread bytes resets */
		}
	}
}

static uint64_t drain(struct pair *p)
{
	unsigned char buf[65536];
	uint64_t got = 0;
	ssize_t n;

	while ((n = recv(p->fd, buf, sizeof buf, 0)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			errno = 0;
			must(buf[i] == (got + i) % 251, "a wrong byte");
		}
		got += n;
	}
	if (n < 0 && !(p->lost && (errno == ECONNRESET || errno == ENOTCONN || errno == EPIPE)))
		fail("read");
	return got;
}

/* conclude reads all that the other side has written. */
static void conclude(struct pair *p)
{
	uint64_t got;

	now = p->steps;
	if (p->gone)
		return;
	/* Nobody may be there any more to hear of it: then the kernel has been told so, sooner or later. */
	if (!p->ended && shutdown(p->fd, SHUT_WR) < 0 && !(p->theirs_gone && errno == ENOTCONN))
		fail("shutdown");
	got = drain(p);
	errno = 0;
	if (got != p->theirs && !p->lost) {
		printf("FAIL: %s: %lu bytes came and %lu were written\n", p->steps, (unsigned long)got, (unsigned long)p->theirs);
		fflush(stdout);
		_exit(1);
	}
}

static int dial(void)
{
	struct timespec again = { 0, 20000000 };

	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (connect(fd, (struct sockaddr *)&where, sizeof where) == 0)
			return fd;
		must(errno == ECONNREFUSED, "connect");
		close(fd);
		nanosleep(&again, NULL);
	}
}

int main(int argc, char **argv)
{
	int one = 1, listener = -1, n = argc - 5;
	struct pair *pairs = calloc(n > 0 ? n : 1, sizeof *pairs);
	struct timespec tick = { 0, 50000000 };

	must(argc > 5 && pairs, "usage: states client|server IP PORT STOP CASE...");
	side = argv[1][0] == 'c' ? 'C' : 'S';
	where.sin_family = AF_INET;
	where.sin_port = htons(atoi(argv[3]));
	must(inet_pton(AF_INET, argv[2], &where.sin_addr) == 1, "address");
	if (side == 'S') {
		listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		must(bind(listener, (struct sockaddr *)&where, sizeof where) == 0 && listen(listener, 16) == 0, "listen");
	}
	for (int i = 0; i < n; i++) {
		struct pair *p = pairs + i;

		p->steps = argv[5 + i];
		p->fd = side == 'C' ? dial() : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		p->control = side == 'C' ? dial() : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		must(p->fd >= 0 && p->control >= 0, "accept");
		play(p);
	}
	printf("holding\n");
	for (long k = 1; access(argv[4], F_OK) != 0; k++) {
		printf("progress %ld\n", k);
		fflush(stdout);
		nanosleep(&tick, NULL);
	}
	for (int i = 0; i < n; i++)
		conclude(pairs + i);
	printf("PASS %d cases\n", n);
	return 0;
}
