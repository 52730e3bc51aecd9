/*
 * conns KIND IP PORT [ARGUMENT...]: makes, answers and ends TCP connections, checks all that comes over them, and reports on standard
 * output: "progress N", or "FAIL: ..." and its end.
 *
 *   conns serve IP PORT MS one|many   answers each word with the next number. A connection waits MS before its first answer; with
 *                                     "one", all others wait meanwhile, and are not accepted
 *   conns knock IP PORT               connects, however long that takes, and asks from then on
 *   conns churn IP PORT RATE HOW      makes RATE connections a second, each of which asks three times and ends by HOW: "close",
 *                                     "reset", "shutdown"; with "http" it asks a web server once, and reads to the end
 *   conns listen IP PORT              connects and says nothing until it has been greeted: for "greet"
 *   conns greet IP PORT MS            greets one connection after the other, MS apart, and answers then
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in where;
static long delay, rate;
static const char *how = "";
static _Atomic unsigned long done;

static void fail(const char *format, ...)
{
	va_list args;

	printf("FAIL: ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

/* Waits up to an instant of its own: an interrupted wait must not count. */
static void pause_ms(long ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
}

static void start(void *(*run)(void *), intptr_t arg)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&small, 64 << 10);
	if ((errno = pthread_create(&thread, &small, run, (void *)arg)))
		fail("a thread: %s", strerror(errno));
}

/* ask sends a word and expects the next number. */
static void ask(int fd, uint64_t word)
{
	uint64_t got = 0;
	ssize_t n;

	if (write(fd, &word, sizeof word) != sizeof word)
		fail("question %lu: %s", (unsigned long)word, strerror(errno));
	n = recv(fd, &got, sizeof got, MSG_WAITALL);
	if (n != sizeof got)
		fail("answer to %lu: %s", (unsigned long)word, n < 0 ? strerror(errno) : "the connection has ended");
	if (got != word + 1)
		fail("%lu was answered with %lu", (unsigned long)word, (unsigned long)got);
}

static int dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&where, sizeof where))
		fail("connect: %s", strerror(errno));
	return fd;
}

static void answer_all(int fd)
{
	uint64_t word;

	while (recv(fd, &word, sizeof word, MSG_WAITALL) == sizeof word) {
		word++;
		if (write(fd, &word, sizeof word) != sizeof word)
			break;
	}
	close(fd);
	done++;
}

static void *answer(void *arg)
{
	if (strcmp(how, "one"))
		pause_ms(delay);
	answer_all((intptr_t)arg);
	return NULL;
}

static int listener(void)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&where, sizeof where) || listen(fd, 512))
		fail("listen: %s", strerror(errno));
	return fd;
}

static void *serve(void *arg)
{
	for (;;) {
		int fd = accept4((intptr_t)arg, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			fail("accept: %s", strerror(errno));
		if (!strcmp(how, "one"))
			pause_ms(delay);
		start(answer, fd);
	}
	return NULL;
}

static void *greet(void *arg)
{
	for (;;) {
		uint64_t hello = 42;
		int fd = accept4((intptr_t)arg, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 || write(fd, &hello, sizeof hello) != sizeof hello)
			fail("greet: %s", strerror(errno));
		start(answer, fd);
		pause_ms(delay);
	}
	return NULL;
}

static void *knock(void *arg)
{
	int fd;

	printf("knocking\n");
	fflush(stdout);
	fd = dial();
	printf("answered\n");
	fflush(stdout);
	for (uint64_t n = 0;; n += 2) {
		ask(fd, n);
		pause_ms(20);
	}
	return arg;
}

/* await_greeting makes a connection, and says nothing until it has been greeted. */
static void *await_greeting(void *arg)
{
	uint64_t hello = 0;
	int fd = dial();

	if (recv(fd, &hello, sizeof hello, MSG_WAITALL) != sizeof hello || hello != 42)
		fail("greeting: %s", strerror(errno));
	for (uint64_t n = 0; n < 20; n++)
		ask(fd, n);
	close(fd);
	done++;
	return arg;
}

/* fetch asks for a page, and reads until the server closes. */
static void fetch(int fd)
{
	static const char question[] = "GET / HTTP/1.0\r\n\r\n";
	char page[4096] = "";
	size_t have = 0;
	ssize_t n;

	if (write(fd, question, sizeof question - 1) != sizeof question - 1)
		fail("ask for a page: %s", strerror(errno));
	while ((n = recv(fd, page + have, sizeof page - 1 - have, 0)) > 0)
		have += n;
	if (n < 0 || !strstr(page, "hello from nginx"))
		fail("the page: %s: %s", n < 0 ? strerror(errno) : "it has ended", page);
}

static void *churn_once(void *arg)
{
	uint64_t n = (intptr_t)arg;
	int fd = dial();
	char c;

	if (!strcmp(how, "http")) {
		fetch(fd);
		close(fd);
		done++;
		return NULL;
	}

	for (int i = 0; i < 3; i++)
		ask(fd, 10 * n + i);
	if (!strcmp(how, "reset")) {
		struct linger off = { .l_onoff = 1 };
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
	} else if (!strcmp(how, "shutdown")) {
		shutdown(fd, SHUT_WR);
		if (recv(fd, &c, 1, 0) != 0)
			fail("the end of connection %lu: %s", (unsigned long)n, strerror(errno));
	}
	close(fd);
	done++;
	return NULL;
}

static void *churn(void *arg)
{
	for (intptr_t n = 1;; n++) {
		start(churn_once, n);
		pause_ms(1000 / rate);
	}
	return arg;
}

static void *listen_long(void *arg)
{
	for (;;) {
		start(await_greeting, 0);
		pause_ms(delay);
	}
	return arg;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 3 ? argv[1] : "";

	signal(SIGPIPE, SIG_IGN); /* a write to a connection that was reset is reported, as a read is */
	where.sin_family = AF_INET;
	if (argc < 4 || inet_pton(AF_INET, argv[2], &where.sin_addr) != 1)
		fail("usage: conns KIND IP PORT ...");
	where.sin_port = htons(atoi(argv[3]));
	delay = rate = argc > 4 ? atol(argv[4]) : 0;
	how = argc > 5 ? argv[5] : "";
	if (!strcmp(kind, "serve"))
		start(serve, listener());
	else if (!strcmp(kind, "greet"))
		start(greet, listener());
	else if (!strcmp(kind, "knock"))
		start(knock, 0);
	else if (!strcmp(kind, "churn"))
		start(churn, 0);
	else if (!strcmp(kind, "listen"))
		start(listen_long, 0);
	else
		fail("%s: not a kind", kind);
	for (long n = 1;; n++) {
		printf("progress %ld %lu\n", n, done);
		fflush(stdout);
		pause_ms(100);
	}
}
