// Memory, processes, threads, what has no name; what is of the member itself; and what cannot be recorded.
#include "objects.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// root DIR: the member's root is another folder from here on.
static void root_make(struct object *o) { must(o, chroot(o->arg[0]) == 0 && chdir("/") == 0, "chroot"); }

// uid N: the member is another user from here on.
static void uid_make(struct object *o) {
	int id = number(o, 0);
	must(o, setgroups(0, 0) == 0 && setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0, "setresuid");
	must(o, prctl(PR_SET_DUMPABLE, 1) == 0, "dumpable");
}

static void uid_check(struct object *o) {
	if ((int)getuid() != number(o, 0) || (int)getegid() != number(o, 0))
		fail(o, "user %d, group %d", getuid(), getegid());
}

// mem MIB SEED
static void mem_make(struct object *o) {
	o->size = (size_t)number(o, 0) << 20;
	o->mem = mmap(0, o->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(o, o->mem != MAP_FAILED, "mmap");
	for (size_t i = 0; i < o->size / 8; i += 64)
		((uint64_t *)o->mem)[i] = i * 0x9e3779b97f4a7c15ull + number(o, 1);
}

static void mem_check(struct object *o) {
	for (size_t i = 0; i < o->size / 8; i += 64)
		if (((uint64_t *)o->mem)[i] != i * 0x9e3779b97f4a7c15ull + number(o, 1)) {
			fail(o, "wrong at %zu", i);
			return;
		}
}

// child plain|session: a process that answers through pipes.
static void child_make(struct object *o) {
	int ask[2], reply[2];
	must(o, pipe2(ask, O_CLOEXEC) == 0 && pipe2(reply, O_CLOEXEC) == 0, "pipe");
	pid_t pid = fork();
	must(o, pid >= 0, "fork");
	if (pid == 0) {
		uint64_t n;
		prctl(PR_SET_NAME, "object-child");
		if (!strcmp(o->arg[0], "session"))
			setsid();
		close(ask[1]);
		close(reply[0]);
		while (read(ask[0], &n, sizeof n) == sizeof n) {
			n++;
			if (write(reply[1], &n, sizeof n) != sizeof n)
				break;
		}
		_exit(0);
	}
	close(ask[0]);
	close(reply[1]);
	o->fd = reply[0], o->fd2 = ask[1], o->m = pid;
}

static void child_check(struct object *o) {
	for (int i = 0; i < 3; i++) {
		uint64_t n = o->n, got = 0;
		if (write(o->fd2, &n, sizeof n) != sizeof n || !readable(o, o->fd, "child") || read(o->fd, &got, sizeof got) != sizeof got)
			fail(o, "no answer: %s", strerror(errno));
		else if (got != ++o->n)
			fail(o, "it answers %llu to %llu", (unsigned long long)got, (unsigned long long)n);
	}
	siginfo_t info = {0};
	if (waitid(P_PID, o->m, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid)
		fail(o, "it has ended");
	if (getsid(o->m) != (!strcmp(o->arg[0], "session") ? (pid_t)o->m : getsid(0)))
		fail(o, "its session is %d", getsid(o->m));
}

// zombie: a child that has ended and not been waited for.
static void zombie_make(struct object *o) {
	pid_t pid = fork();
	must(o, pid >= 0, "fork");
	if (pid == 0)
		_exit(7);
	siginfo_t info;
	must(o, waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0, "wait");
	o->m = pid;
}

static void zombie_check(struct object *o) {
	siginfo_t info = {0};
	if (waitid(P_PID, o->m, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid != (pid_t)o->m || info.si_status != 7)
		fail(o, "process %llu ended with %d: %s", (unsigned long long)o->m, info.si_status, strerror(errno));
}

// threads N: threads that pass a turn round.
struct turn {
	pthread_mutex_t lock;
	pthread_cond_t passed;
	int whose, count, next;
	struct object *o;
};

static void *taker(void *arg) {
	struct turn *t = arg;
	pthread_mutex_lock(&t->lock);
	int me = t->next++;
	for (;;) {
		while (t->whose != me)
			pthread_cond_wait(&t->passed, &t->lock);
		pthread_mutex_unlock(&t->lock);
		pause_ms(2);
		pthread_mutex_lock(&t->lock);
		t->whose = (me + 1) % t->count;
		t->o->alive++;
		pthread_cond_broadcast(&t->passed);
	}
	return 0;
}

static void threads_make(struct object *o) {
	struct turn *t = calloc(1, sizeof *t);
	pthread_mutex_init(&t->lock, 0);
	pthread_cond_init(&t->passed, 0);
	t->count = number(o, 0), t->o = o;
	for (int i = 0; i < t->count; i++)
		start(taker, t);
}

static void alive_check(struct object *o) { moves(o, &o->alive, "turn"); }

// pair: a pair of sockets with unread numbers.
static void pair_make(struct object *o) {
	int fds[2];
	must(o, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
	o->fd = fds[0], o->fd2 = fds[1];
}

// pipe: likewise.
static void pipe_make(struct object *o) {
	int fds[2];
	must(o, pipe2(fds, O_CLOEXEC) == 0, "pipe");
	o->fd = fds[0], o->fd2 = fds[1];
}

static void take(struct object *o) {
	uint64_t got = 0;
	if (read(o->fd, &got, sizeof got) != sizeof got || got != o->m++)
		fail(o, "it gave %llu, want %llu: %s", (unsigned long long)got, (unsigned long long)o->m - 1, strerror(errno));
}

static void pipe_tick(struct object *o) {
	if (write(o->fd2, &o->n, sizeof o->n) != sizeof o->n)
		fail(o, "write: %s", strerror(errno));
	if (++o->n - o->m > 20)
		take(o);
}

static void pipe_check(struct object *o) {
	while (o->m < o->n && !o->failure[0])
		take(o);
}

// eventfd: with a count, in an epoll set.
static void eventfd_make(struct object *o) {
	o->fd = eventfd(9, EFD_CLOEXEC | EFD_NONBLOCK);
	o->fd2 = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 4711};
	must(o, o->fd >= 0 && epoll_ctl(o->fd2, EPOLL_CTL_ADD, o->fd, &e) == 0, "eventfd");
}

static void eventfd_check(struct object *o) {
	uint64_t n = 0, nine = 9;
	struct epoll_event e = {0};
	if (epoll_wait(o->fd2, &e, 1, 0) != 1 || e.data.u64 != 4711)
		fail(o, "epoll tells of nothing");
	if (read(o->fd, &n, sizeof n) != sizeof n || n != 9 || write(o->fd, &nine, sizeof nine) != sizeof nine)
		fail(o, "its count is %llu", (unsigned long long)n);
}

// memfd: memory in a file without a name, mapped.
static void memfd_make(struct object *o) {
	o->fd = memfd_create("object", MFD_CLOEXEC);
	must(o, ftruncate(o->fd, o->size = 8192) == 0, "truncate");
	o->mem = mmap(0, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
	must(o, o->mem != MAP_FAILED, "mmap");
}

static void memfd_tick(struct object *o) { *(volatile uint64_t *)o->mem = ++o->n; }

static void memfd_check(struct object *o) {
	uint64_t n = 0;
	if (pread(o->fd, &n, sizeof n, 0) != sizeof n || n != o->n)
		fail(o, "the file says %llu, memory %llu", (unsigned long long)n, (unsigned long long)o->n);
}

// deathsig: a child that a signal is to end when its parent ends; it says which one.
static void deathsig_make(struct object *o) {
	int ask[2], reply[2];
	must(o, pipe2(ask, O_CLOEXEC) == 0 && pipe2(reply, O_CLOEXEC) == 0, "pipe");
	pid_t pid = fork();
	must(o, pid >= 0, "fork");
	if (pid == 0) {
		char c;
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		while (read(ask[0], &c, 1) == 1) {
			int sig = 0;
			prctl(PR_GET_PDEATHSIG, &sig);
			if (write(reply[1], &sig, sizeof sig) != sizeof sig)
				break;
		}
		_exit(0);
	}
	close(ask[0]);
	close(reply[1]);
	o->fd = reply[0], o->fd2 = ask[1];
}

static void deathsig_check(struct object *o) {
	int sig = 0;
	if (write(o->fd2, "?", 1) != 1 || !readable(o, o->fd, "child") || read(o->fd, &sig, sizeof sig) != sizeof sig || sig != SIGTERM)
		fail(o, "its signal is %d", sig);
}

// What cannot be recorded.

// uring: an io_uring.
static void uring_make(struct object *o) {
	char params[120] = {0};
	o->fd = syscall(425, 8, params);
	must(o, o->fd >= 0, "io_uring_setup");
}

// mptcp PORT: a listener of multipath TCP.
static void mptcp_make(struct object *o) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(number(o, 0))};
	o->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262);
	must(o, o->fd >= 0 && bind(o->fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(o->fd, 5) == 0, "mptcp");
}

// sealed: a memfd that nobody may write to any more, mapped.
static void sealed_make(struct object *o) {
	o->fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	must(o, write(o->fd, "sealed", 6) == 6 && fcntl(o->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "seal");
	o->mem = mmap(0, 4096, PROT_READ, MAP_SHARED, o->fd, 0);
	must(o, o->mem != MAP_FAILED, "mmap");
}

static void sealed_check(struct object *o) {
	if (memcmp(o->mem, "sealed", 6))
		fail(o, "it is %.6s", (char *)o->mem);
	if (fcntl(o->fd, F_GET_SEALS) != (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		fail(o, "its seals are %x", fcntl(o->fd, F_GET_SEALS));
}

const struct kind other_kinds[] = {
	{"root", root_make, 0, 0},
	{"uid", uid_make, 0, uid_check},
	{"mem", mem_make, 0, mem_check},
	{"child", child_make, 0, child_check},
	{"zombie", zombie_make, 0, zombie_check},
	{"threads", threads_make, 0, alive_check},
	{"pair", pair_make, pipe_tick, pipe_check},
	{"pipe", pipe_make, pipe_tick, pipe_check},
	{"eventfd", eventfd_make, 0, eventfd_check},
	{"memfd", memfd_make, memfd_tick, memfd_check},
	{"deathsig", deathsig_make, 0, deathsig_check},
	{"uring", uring_make, 0, 0},
	{"mptcp", mptcp_make, 0, 0},
	{"sealed", sealed_make, 0, sealed_check},
	{0},
};
