// Waits in many system calls at once, and tells of each that returns.
//
//   waits LOG all            each call in the leader of a process of its own, and each in a thread of one more process
//   waits LOG live           likewise with the calls whose objects CRIU leaves out, or restores with more room than they had
//   waits LOG for SECONDS    each call that takes a length of time waits that long, both ways; "late" is said once half as long again has passed
//   waits LOG crowd N CALL   N threads wait in one call
//   waits LOG signal FLAGS   each call, both ways, with handlers for SIGTERM and SIGALRM that have these flags (sigaction(2))
//
// A waiting thread has a name that begins with "w:"; one whose call has returned has one that begins with "done:", and has told so in LOG.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int out;
static double length = 3000; // seconds that a timed call waits
static const char *dir;

static struct timespec seconds(double s) { return (struct timespec){(time_t)s, (long)((s - (time_t)s) * 1e9)}; }
static struct timespec span(void) { return seconds(length); }
static int millis(void) { return (int)(length * 1000); }
static struct timespec after(clockid_t c, struct timespec s) {
	struct timespec t;
	clock_gettime(c, &t);
	t.tv_sec += s.tv_sec + (t.tv_nsec + s.tv_nsec) / 1000000000;
	t.tv_nsec = (t.tv_nsec + s.tv_nsec) % 1000000000;
	return t;
}
static struct timespec at(clockid_t c) { return after(c, span()); }
static void must(int ok, const char *what) {
	if (ok) return;
	dprintf(out, "cannot: %s: %s\n", what, strerror(errno));
	_exit(1);
}
static void name(const char *prefix, const char *n) {
	char b[32];
	snprintf(b, sizeof b, "%s%s", prefix, n);
	prctl(PR_SET_NAME, b);
}
static int epoll(void) { int f = epoll_create1(0); must(f >= 0, "epoll"); return f; }
static void pair(int p[2]) { must(!socketpair(AF_UNIX, SOCK_STREAM, 0, p), "socketpair"); }
static void limit(int fd, int option) {
	struct timespec s = span();
	struct timeval v = {s.tv_sec, s.tv_nsec / 1000};
	must(!setsockopt(fd, SOL_SOCKET, option, &v, sizeof v), "SO_RCVTIMEO");
}
static int listener(int backlog) {
	struct sockaddr_un a = {AF_UNIX};
	int f = socket(AF_UNIX, SOCK_STREAM, 0);
	static int n;
	snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "waits-%d-%d-%d", getpid(), gettid(), __sync_fetch_and_add(&n, 1));
	must(f >= 0 && !bind(f, (void *)&a, sizeof a) && !listen(f, backlog), "listen");
	return f;
}
static int full(int fd) { // fills what a socket takes
	static char b[4096];
	while (send(fd, b, sizeof b, MSG_DONTWAIT) > 0);
	must(errno == EAGAIN, "fill a socket");
	return fd;
}
static sigset_t only(int sig) { sigset_t s; sigemptyset(&s); sigaddset(&s, sig); return s; }
static void path(char *b, size_t n, const char *kind) { snprintf(b, n, "%s/%s-%d-%d", dir, kind, getpid(), gettid()); }
static pid_t sleeper(void) { pid_t p = fork(); if (!p) { name("", "child"); for (;;) pause(); } return p; }

// A call is made between READY, which names the thread, and the thread's word that it has returned.
static __thread const char *self;
#define READY name("w:", self)
#define CALL(fn, ...) static long fn(void) { __VA_ARGS__ }

CALL(f_sleep, READY; return sleep(length);)
CALL(f_usleep, READY; return usleep(length * 1e6);)
CALL(f_nanosleep, struct timespec t = span(); READY; return nanosleep(&t, 0);)
CALL(f_nanosleep_rem, struct timespec t = span(), r; READY; return nanosleep(&t, &r);)
CALL(f_clock_nanosleep, struct timespec t = span(); READY; return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0);)
CALL(f_clock_boottime, struct timespec t = span(); READY; return clock_nanosleep(CLOCK_BOOTTIME, 0, &t, 0);)
CALL(f_clock_abs, struct timespec t = at(CLOCK_MONOTONIC); READY; return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);)
CALL(f_poll, READY; return poll(0, 0, millis());)
CALL(f_poll_fd, int p[2]; pair(p); struct pollfd f = {p[0], POLLIN}; READY; return poll(&f, 1, millis());)
CALL(f_ppoll, struct timespec t = span(); READY; return ppoll(0, 0, &t, 0);)
CALL(f_select, struct timespec s = span(); struct timeval t = {s.tv_sec, s.tv_nsec / 1000}; READY; return select(0, 0, 0, 0, &t);)
CALL(f_pselect, struct timespec t = span(); READY; return pselect(0, 0, 0, 0, &t, 0);)
CALL(f_epoll_wait, int e = epoll(); struct epoll_event v; READY; return epoll_wait(e, &v, 1, millis());)
CALL(f_epoll_pwait, int e = epoll(); struct epoll_event v; sigset_t s = only(SIGUSR2); READY; return epoll_pwait(e, &v, 1, millis(), &s);)
CALL(f_epoll_pwait2, int e = epoll(); struct epoll_event v; struct timespec t = span(); READY; return syscall(441, e, &v, 1, &t, 0, 0);)
CALL(f_futex_rel, int w = 0; struct timespec t = span(); READY; return syscall(SYS_futex, &w, FUTEX_WAIT_PRIVATE, 0, &t, 0, 0);)
CALL(f_futex_abs, int w = 0; struct timespec t = at(CLOCK_MONOTONIC); READY; return syscall(SYS_futex, &w, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, 0, -1);)
CALL(f_sem_timedwait, sem_t s; sem_init(&s, 0, 0); struct timespec t = at(CLOCK_MONOTONIC); READY; return sem_clockwait(&s, CLOCK_MONOTONIC, &t);)
CALL(f_cond_timedwait, pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; pthread_cond_t c = PTHREAD_COND_INITIALIZER; struct timespec t = at(CLOCK_MONOTONIC);
	pthread_mutex_lock(&m); READY; return pthread_cond_clockwait(&c, &m, CLOCK_MONOTONIC, &t);)
CALL(f_sigtimedwait, sigset_t s = only(SIGUSR1); pthread_sigmask(SIG_BLOCK, &s, 0); struct timespec t = span(); READY; return sigtimedwait(&s, 0, &t);)
CALL(f_semtimedop, int i = semget(IPC_PRIVATE, 1, 0600); struct sembuf b = {0, -1, 0}; struct timespec t = span(); must(i >= 0, "semget"); READY; return semtimedop(i, &b, 1, &t);)

CALL(f_poll_inf, READY; return poll(0, 0, -1);)
CALL(f_epoll_inf, int e = epoll(); struct epoll_event v; READY; return epoll_wait(e, &v, 1, -1);)
CALL(f_sem_wait, sem_t s; sem_init(&s, 0, 0); READY; return sem_wait(&s);)
CALL(f_sigwaitinfo, sigset_t s = only(SIGUSR1); pthread_sigmask(SIG_BLOCK, &s, 0); READY; return sigwaitinfo(&s, 0);)
CALL(f_semop, int i = semget(IPC_PRIVATE, 1, 0600); struct sembuf b = {0, -1, 0}; must(i >= 0, "semget"); READY; return semop(i, &b, 1);)
CALL(f_msgrcv, int i = msgget(IPC_PRIVATE, 0600); struct { long t; char b[8]; } m; must(i >= 0, "msgget"); READY; return msgrcv(i, &m, 8, 0, 0);)
CALL(f_pause, READY; return pause();)
CALL(f_sigsuspend, sigset_t s; sigemptyset(&s); READY; return sigsuspend(&s);)
CALL(f_read_pipe, int p[2]; char b; must(!pipe(p), "pipe"); READY; return read(p[0], &b, 1);)
CALL(f_read_eventfd, int f = eventfd(0, 0); uint64_t v; READY; return read(f, &v, sizeof v);)
CALL(f_read_timerfd, int f = timerfd_create(CLOCK_MONOTONIC, 0); struct itimerspec t = {{0, 0}, {3000, 0}}; timerfd_settime(f, 0, &t, 0); uint64_t v; READY; return read(f, &v, sizeof v);)
CALL(f_read_signalfd, sigset_t s = only(SIGUSR1); pthread_sigmask(SIG_BLOCK, &s, 0); int f = signalfd(-1, &s, 0); struct signalfd_siginfo i; READY; return read(f, &i, sizeof i);)
CALL(f_read_inotify, int f = inotify_init(); char b[512]; must(inotify_add_watch(f, "/", IN_DELETE_SELF) >= 0, "inotify"); READY; return read(f, b, sizeof b);)
CALL(f_waitpid, pid_t p = sleeper(); READY; return waitpid(p, 0, 0);)
CALL(f_waitid, pid_t p = sleeper(); siginfo_t i; READY; return waitid(P_PID, p, &i, WEXITED);)
CALL(f_fifo, char b[256]; path(b, sizeof b, "fifo"); must(!mkfifo(b, 0600), "mkfifo"); READY; return open(b, O_RDONLY);)
CALL(f_recv, int p[2]; char b; pair(p); READY; return recv(p[0], &b, 1, 0);)
CALL(f_accept, int l = listener(1); READY; return accept(l, 0, 0);)

CALL(f_recv_tmo, int p[2]; char b; pair(p); limit(p[0], SO_RCVTIMEO); READY; return recv(p[0], &b, 1, 0);)
CALL(f_read_tmo, int p[2]; char b; pair(p); limit(p[0], SO_RCVTIMEO); READY; return read(p[0], &b, 1);)
CALL(f_readv_tmo, int p[2]; char b; struct iovec v = {&b, 1}; pair(p); limit(p[0], SO_RCVTIMEO); READY; return readv(p[0], &v, 1);)
CALL(f_recvmsg_tmo, int p[2]; char b; struct iovec v = {&b, 1}; struct msghdr m = {0}; m.msg_iov = &v; m.msg_iovlen = 1; pair(p); limit(p[0], SO_RCVTIMEO); READY; return recvmsg(p[0], &m, 0);)
CALL(f_accept_tmo, int l = listener(1); limit(l, SO_RCVTIMEO); READY; return accept(l, 0, 0);)
CALL(f_send_tmo, int p[2]; char b = 0; pair(p); full(p[0]); limit(p[0], SO_SNDTIMEO); READY; return send(p[0], &b, 1, 0);)
CALL(f_write_tmo, int p[2]; char b = 0; pair(p); full(p[0]); limit(p[0], SO_SNDTIMEO); READY; return write(p[0], &b, 1);)
CALL(f_preadv2_tmo, int p[2]; char b; struct iovec v = {&b, 1}; pair(p); limit(p[0], SO_RCVTIMEO); READY; return preadv2(p[0], &v, 1, -1, 0);)
CALL(f_splice_tmo, int p[2], q[2]; must(!pipe(q), "pipe"); pair(p); limit(p[0], SO_RCVTIMEO); READY; return splice(p[0], 0, q[1], 0, 4096, 0);)
CALL(f_pwritev2_tmo, int p[2]; char b = 0; struct iovec v = {&b, 1}; pair(p); full(p[0]); limit(p[0], SO_SNDTIMEO); READY; return pwritev2(p[0], &v, 1, -1, 0);)
CALL(f_spliceout_tmo, int p[2], q[2]; must(!pipe(q) && write(q[1], "x", 1) == 1, "pipe"); pair(p); full(p[0]); limit(p[0], SO_SNDTIMEO); READY; return splice(q[0], 0, p[0], 0, 1, 0);)
CALL(f_sendfile_tmo, int p[2], f = open("/proc/self/exe", O_RDONLY); must(f >= 0, "open"); pair(p); full(p[0]); limit(p[0], SO_SNDTIMEO); READY; return sendfile(p[0], f, 0, 8);)

struct call { const char *name; long (*f)(void); int timed; int live; };
static struct call calls[] = {
	{"sleep", f_sleep, 1}, {"usleep", f_usleep, 1}, {"nanosleep", f_nanosleep, 1}, {"nanosleep_rem", f_nanosleep_rem, 1},
	{"cnanosleep", f_clock_nanosleep, 1}, {"boottime", f_clock_boottime, 1}, {"clock_abs", f_clock_abs, 1},
	{"poll", f_poll, 1}, {"poll_fd", f_poll_fd, 1}, {"ppoll", f_ppoll, 1}, {"select", f_select, 1}, {"pselect", f_pselect, 1},
	{"epoll_wait", f_epoll_wait, 1}, {"epoll_pwait", f_epoll_pwait, 1}, {"epoll_pwait2", f_epoll_pwait2, 1},
	{"futex_rel", f_futex_rel, 1}, {"futex_abs", f_futex_abs, 1}, {"sem_timed", f_sem_timedwait, 1}, {"cond_timed", f_cond_timedwait, 1},
	{"sigtimedwait", f_sigtimedwait, 1}, {"semtimedop", f_semtimedop, 1, 1},
	{"poll_inf", f_poll_inf}, {"epoll_inf", f_epoll_inf}, {"sem_wait", f_sem_wait}, {"sigwaitinfo", f_sigwaitinfo},
	{"semop", f_semop, 0, 1}, {"msgrcv", f_msgrcv, 0, 1}, {"pause", f_pause}, {"sigsuspend", f_sigsuspend},
	{"read_pipe", f_read_pipe}, {"eventfd", f_read_eventfd}, {"timerfd", f_read_timerfd}, {"signalfd", f_read_signalfd},
	{"inotify", f_read_inotify}, {"waitpid", f_waitpid}, {"waitid", f_waitid}, {"fifo", f_fifo}, {"recv", f_recv}, {"accept", f_accept},
	{"recv_tmo", f_recv_tmo}, {"read_tmo", f_read_tmo}, {"readv_tmo", f_readv_tmo}, {"recvmsg_tmo", f_recvmsg_tmo},
	{"accept_tmo", f_accept_tmo}, {"send_tmo", f_send_tmo, 0, 1}, {"write_tmo", f_write_tmo, 0, 1},
	{"preadv2_tmo", f_preadv2_tmo}, {"splice_tmo", f_splice_tmo}, {"pwritev2_tmo", f_pwritev2_tmo, 0, 1}, {"spliceout_tmo", f_spliceout_tmo, 0, 1},
	{"sendfile_tmo", f_sendfile_tmo, 0, 1},
};
#define N (sizeof calls / sizeof calls[0])

__attribute__((noreturn)) static void *runs(void *x) {
	struct call *c = x;
	struct timespec a, b;
	self = c->name;
	clock_gettime(CLOCK_MONOTONIC, &a);
	errno = 0;
	long r = c->f();
	int e = errno;
	clock_gettime(CLOCK_MONOTONIC, &b);
	name("done:", c->name);
	double took = (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9;
	dprintf(out, "%s %s returned %ld %s after %.3f%s\n", getpid() == gettid() ? "leader" : "thread", c->name, r, e ? strerrorname_np(e) : "0", took,
		length < 3000 && took < length - 0.0005 ? " EARLY" : "");
	for (;;) pause();
}

static void handler(int s) { (void)s; }

int main(int argc, char **argv) {
	must(argc >= 3, "usage");
	out = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
	must(out >= 0, argv[1]);
	char *d = strdup(argv[1]);
	*strrchr(d, '/') = 0;
	dir = d;
	int timed = !strcmp(argv[2], "for"), live = !strcmp(argv[2], "live"), sig = !strcmp(argv[2], "signal");
	if (timed) length = atof(argv[3]);
	if (sig) {
		struct sigaction a = {.sa_handler = handler, .sa_flags = (int)strtol(argv[3], 0, 0)};
		sigaction(SIGTERM, &a, 0);
		sigaction(SIGALRM, &a, 0);
	}
	if (!strcmp(argv[2], "crowd")) {
		pthread_attr_t a;
		pthread_t t;
		pthread_attr_init(&a);
		pthread_attr_setstacksize(&a, 64 << 10);
		for (size_t i = 0; i < N; i++)
			for (int n = atoi(argv[3]); n > 0 && !strcmp(calls[i].name, argv[4]); n--)
				must(!pthread_create(&t, &a, runs, &calls[i]), "thread");
		for (;;) pause();
	}
	for (size_t i = 0; i < N; i++) {
		struct call *c = &calls[i];
		if ((timed && !c->timed) || live != c->live) continue;
		if (!fork()) runs(c);
	}
	if (!fork()) {
		pthread_t t;
		for (size_t i = 0; i < N; i++) {
			struct call *c = &calls[i];
			if ((timed && !c->timed) || live != c->live) continue;
			must(!pthread_create(&t, 0, runs, c), "thread");
		}
		if (timed) { // the judge: an end, not a length
			struct timespec t = after(CLOCK_MONOTONIC, seconds(length * 1.5));
			while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == EINTR);
			dprintf(out, "late\n");
		}
		for (;;) pause();
	}
	for (;;) pause();
}
