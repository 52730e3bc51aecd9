// usage: objects SPEC NAME
//
// SPEC is a file with one object a line: ID KIND ARG…. Two kinds are of the member itself and come first: "root DIR" and "uid N".
// On SIGUSR1 the program prints "NAME done ok" or "NAME done FAIL ID KIND: …", in one write. Whatever it prints is one write each, as
// several members may share a log.
#include "objects.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OBJECTS_MAX 64
#define PATIENCE_MS 15000 // how long something that goes on may need; the machine may be busy

static struct object objects[OBJECTS_MAX];
static const struct kind *kinds[OBJECTS_MAX];
static int count;
static const char *name;
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; // ticks and checks

static void say(const char *format, ...) {
	char line[1024];
	int n = snprintf(line, sizeof line, "%s ", name);
	va_list args;
	va_start(args, format);
	n += vsnprintf(line + n, sizeof line - n - 1, format, args);
	va_end(args);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	if (write(1, line, n) != n)
		_exit(3);
}

void fail(struct object *o, const char *format, ...) {
	if (o->failure[0])
		return;
	char text[sizeof o->failure];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	memcpy(o->failure, text, sizeof text);
}

void must(struct object *o, int ok, const char *what) {
	if (ok)
		return;
	say("FAIL %s %s: cannot be made: %s: %s", o->id, o->kind, what, strerror(errno));
	_exit(1);
}

uint64_t now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

void pause_ms(long ms) {
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	nanosleep(&t, 0);
}

void moves(struct object *o, _Atomic uint64_t *counter, const char *what) {
	uint64_t before = *counter, until = now_ms() + PATIENCE_MS;
	while (*counter == before && !o->failure[0])
		if (now_ms() > until) {
			fail(o, "%s stands still at %llu", what, (unsigned long long)before);
			return;
		} else
			pause_ms(1);
}

int readable(struct object *o, int fd, const char *what) {
	struct pollfd p = {fd, POLLIN, 0};
	int n;
	while ((n = poll(&p, 1, PATIENCE_MS)) < 0 && errno == EINTR)
		;
	if (n <= 0)
		fail(o, "%s: nothing to read", what);
	return n > 0;
}

void start(void *(*run)(void *), void *arg) {
	struct object o = {.id = "-", .kind = "thread"};
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	must(&o, (errno = pthread_create(&thread, &attr, run, arg)) == 0, "thread");
	pthread_attr_destroy(&attr);
}

int number(const struct object *o, int arg) { return atoi(o->arg[arg]); }

static const struct kind *find(const char *kind) {
	const struct kind *tables[] = {file_kinds, name_kinds, time_kinds, net_kinds, other_kinds};
	for (unsigned t = 0; t < sizeof tables / sizeof *tables; t++)
		for (const struct kind *k = tables[t]; k->name; k++)
			if (!strcmp(k->name, kind))
				return k;
	return 0;
}

// read_spec reads the objects, and does what is of the member itself.
static void read_spec(const char *path) {
	struct object self = {.id = "-", .kind = "spec"};
	FILE *f = fopen(path, "re");
	must(&self, f != 0, path);
	char line[1500];
	while (fgets(line, sizeof line, f)) {
		must(&self, count < OBJECTS_MAX, "number of objects");
		struct object *o = &objects[count];
		memset(o, 0, sizeof *o);
		o->fd = o->fd2 = o->fd3 = -1;
		if (sscanf(line, "%31s %23s %199s %199s %199s %199s %199s %199s", o->id, o->kind, o->arg[0], o->arg[1], o->arg[2], o->arg[3], o->arg[4], o->arg[5]) < 2)
			continue;
		must(o, (kinds[count++] = find(o->kind)) != 0, "kind");
	}
	fclose(f);
}

static void *ticker(void *unused) {
	(void)unused;
	sigset_t alarm;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &alarm, 0);
	for (;;) {
		pthread_mutex_lock(&busy);
		for (int i = 0; i < count; i++)
			if (kinds[i]->tick && !objects[i].failure[0])
				kinds[i]->tick(&objects[i]);
		pthread_mutex_unlock(&busy);
		pause_ms(5);
	}
	return 0;
}

static void answer(void) {
	pthread_mutex_lock(&busy);
	int failed = 0;
	for (int i = 0; i < count; i++) {
		if (kinds[i]->check && !objects[i].failure[0])
			kinds[i]->check(&objects[i]);
		if (objects[i].failure[0] && !failed++)
			say("done FAIL %s %s: %s", objects[i].id, objects[i].kind, objects[i].failure);
	}
	pthread_mutex_unlock(&busy);
	if (!failed)
		say("done ok");
}

int main(int argc, char **argv) {
	if (argc != 3)
		return 2;
	name = argv[2];
	sigset_t mine;
	sigemptyset(&mine);
	sigaddset(&mine, SIGUSR1);
	sigaddset(&mine, SIGALRM);
	sigprocmask(SIG_BLOCK, &mine, 0);
	signal(SIGPIPE, SIG_IGN);
	umask(0);
	read_spec(argv[1]);
	for (int i = 0; i < count; i++)
		kinds[i]->make(&objects[i]);
	start(ticker, 0);
	say("ready");
	sigdelset(&mine, SIGALRM);
	for (;;) {
		int got = sigwaitinfo(&mine, 0);
		if (got == SIGUSR1)
			answer();
	}
}
