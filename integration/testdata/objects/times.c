// Timers and waits with a deadline.
#include "objects.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

// timerfd MS read|unread: periodic.
static void timerfd_make(struct object *o) {
	struct itimerspec t = {0};
	o->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	t.it_interval.tv_nsec = t.it_value.tv_nsec = number(o, 0) * 1000000l;
	must(o, o->fd >= 0 && timerfd_settime(o->fd, 0, &t, 0) == 0, "timerfd");
}

static void timerfd_tick(struct object *o) {
	uint64_t n = 0;
	if (!strcmp(o->arg[1], "read") && read(o->fd, &n, sizeof n) == sizeof n)
		o->n += n;
}

static void timerfd_check(struct object *o) {
	for (int i = 0; i < 3; i++) {
		uint64_t n = 0;
		if (!readable(o, o->fd, i ? "timer, once more" : "timer"))
			return;
		if (read(o->fd, &n, sizeof n) != sizeof n || !n)
			fail(o, "read: %s", strerror(errno));
	}
}

// itimer MS: one for each process.
static _Atomic uint64_t alarms;
static void on_alarm(int sig) {
	(void)sig;
	alarms++;
}

static void itimer_make(struct object *o) {
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval t = {{0, number(o, 0) * 1000}, {0, number(o, 0) * 1000}};
	must(o, sigaction(SIGALRM, &sa, 0) == 0 && setitimer(ITIMER_REAL, &t, 0) == 0, "setitimer");
}

static void itimer_check(struct object *o) { moves(o, &alarms, "alarm"); }

// wait CALL MS: a thread that waits again and again, each time until its deadline: nothing else may end a wait, and none may be short.
static int wait_once(struct object *o, long ms) {
	const char *call = o->arg[0];
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	if (!strcmp(call, "nanosleep"))
		return nanosleep(&t, 0);
	if (!strcmp(call, "clock_nanosleep")) {
		struct timespec at;
		clock_gettime(CLOCK_MONOTONIC, &at);
		at.tv_nsec += t.tv_nsec;
		at.tv_sec += t.tv_sec + at.tv_nsec / 1000000000;
		at.tv_nsec %= 1000000000;
		return errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0);
	}
	if (!strcmp(call, "poll"))
		return poll(0, 0, ms);
	if (!strcmp(call, "ppoll"))
		return ppoll(0, 0, &t, 0);
	if (!strcmp(call, "select")) {
		struct timeval tv = {ms / 1000, ms % 1000 * 1000};
		return select(0, 0, 0, 0, &tv);
	}
	if (!strcmp(call, "epoll_wait")) {
		struct epoll_event e;
		return epoll_wait(o->fd, &e, 1, ms);
	}
	if (!strcmp(call, "futex")) {
		uint32_t word = 0;
		int r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, 0, 0);
		return r < 0 && errno == ETIMEDOUT ? 0 : r < 0 ? r : 1;
	}
	if (!strcmp(call, "sigtimedwait")) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		int r = sigtimedwait(&set, 0, &t);
		return r < 0 && errno == EAGAIN ? 0 : r < 0 ? r : 1;
	}
	errno = ENOSYS;
	return -1;
}

static void *waiter(void *arg) {
	struct object *o = arg;
	long ms = number(o, 1);
	for (;;) {
		uint64_t began = now_ms();
		errno = 0;
		int r = wait_once(o, ms);
		uint64_t took = now_ms() - began;
		if (r != 0)
			fail(o, "it ended with %d, %s, after %llu of %ld ms", r, strerror(errno), (unsigned long long)took, ms);
		else if (took + 2 < (uint64_t)ms)
			fail(o, "it ended after %llu of %ld ms", (unsigned long long)took, ms);
		o->alive++;
	}
	return 0;
}

static void wait_make(struct object *o) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, 0);
	if (!strcmp(o->arg[0], "epoll_wait"))
		must(o, (o->fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll");
	start(waiter, o);
}

static void wait_check(struct object *o) { moves(o, &o->alive, "wait"); }

const struct kind time_kinds[] = {
	{"timerfd", timerfd_make, timerfd_tick, timerfd_check},
	{"itimer", itimer_make, 0, itimer_check},
	{"wait", wait_make, 0, wait_check},
	{0},
};
