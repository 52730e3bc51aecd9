// What has a name outside the member: shared memory, semaphores, FIFOs, sockets in folders, watches, terminals.
#include "objects.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

// shm NAME SLOT SLOTS: POSIX shared memory, the descriptor closed; each member of the host moves its own slot.
static void shm_make(struct object *o) {
	int fd = shm_open(o->arg[0], O_RDWR | O_CREAT, 0666);
	must(o, fd >= 0, "shm_open");
	o->size = 8192;
	must(o, ftruncate(fd, o->size) == 0, "truncate");
	o->mem = mmap(0, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(o, o->mem != MAP_FAILED, "mmap");
	close(fd);
}

static void shm_tick(struct object *o) { ((_Atomic uint64_t *)o->mem)[number(o, 1)] = ++o->n; }

static void shm_check(struct object *o) {
	_Atomic uint64_t *slots = o->mem;
	int fd = shm_open(o->arg[0], O_RDWR, 0);
	if (fd < 0) {
		fail(o, "shm_open: %s", strerror(errno));
		return;
	}
	_Atomic uint64_t *again = mmap(0, o->size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (slots[number(o, 1)] != o->n || again[number(o, 1)] != o->n)
		fail(o, "own slot has %llu, by its name %llu, want %llu", (unsigned long long)slots[number(o, 1)],
		     (unsigned long long)again[number(o, 1)], (unsigned long long)o->n);
	munmap((void *)again, o->size);
	for (int i = 0; i < number(o, 2); i++)
		if (i != number(o, 1))
			moves(o, &slots[i], "another member's slot");
}

// sem NAME: a named semaphore.
static void sem_make(struct object *o) {
	o->mem = sem_open(o->arg[0], O_CREAT, 0666, 3);
	must(o, o->mem != SEM_FAILED, "sem_open");
}

static void sem_tick(struct object *o) {
	if (sem_wait(o->mem) || sem_post(o->mem))
		fail(o, "sem: %s", strerror(errno));
}

static void sem_check(struct object *o) {
	char path[256];
	int value = -1;
	uint32_t before = 0, after = 0;
	snprintf(path, sizeof path, "/dev/shm/sem.%s", o->arg[0] + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &before, 4, 0) != 4 || sem_post(o->mem) || pread(fd, &after, 4, 0) != 4)
		fail(o, "%s: %s", path, strerror(errno));
	else if (after != before + 1)
		fail(o, "%s is another semaphore than the one that is held: %u and then %u", path, before, after);
	close(fd);
	if (sem_trywait(o->mem) || sem_getvalue(o->mem, &value) || value != 3)
		fail(o, "its value is %d, want 3", value);
}

// fifo PATH: a FIFO with unread numbers in it.
static void fifo_make(struct object *o) {
	must(o, mkfifo(o->arg[0], 0644) == 0, "mkfifo");
	o->fd = open(o->arg[0], O_RDWR | O_NONBLOCK | O_CLOEXEC);
	must(o, o->fd >= 0, "open");
}

static void fifo_take(struct object *o) {
	uint64_t got = 0;
	if (read(o->fd, &got, sizeof got) != sizeof got)
		fail(o, "read: %s", strerror(errno));
	else if (got != o->m++)
		fail(o, "it gave %llu, want %llu", (unsigned long long)got, (unsigned long long)o->m - 1);
}

static void fifo_tick(struct object *o) {
	if (write(o->fd, &o->n, sizeof o->n) != sizeof o->n)
		fail(o, "write: %s", strerror(errno));
	if (++o->n - o->m > 20)
		fifo_take(o);
}

static void fifo_check(struct object *o) {
	if (!has_name(o->fd, o->arg[0]))
		fail(o, "%s is another FIFO than the open one", o->arg[0]);
	while (o->m < o->n && !o->failure[0])
		fifo_take(o);
}

// unix PATH: a bound and listening socket, and a connection through it with unread numbers.
static int unix_connect(struct object *o) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, o->arg[0], sizeof a.sun_path - 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
		fail(o, "connect to %s: %s", o->arg[0], strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

static void unix_make(struct object *o) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, o->arg[0], sizeof a.sun_path - 1);
	o->fd3 = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(o, bind(o->fd3, (struct sockaddr *)&a, sizeof a) == 0 && listen(o->fd3, 5) == 0, "bind");
	o->fd2 = unix_connect(o);
	must(o, o->fd2 >= 0, "connect");
	o->fd = accept4(o->fd3, 0, 0, SOCK_CLOEXEC);
	must(o, o->fd >= 0, "accept");
}

static void unix_tick(struct object *o) {
	if (send(o->fd2, &o->n, sizeof o->n, MSG_DONTWAIT) != sizeof o->n)
		fail(o, "send: %s", strerror(errno));
	if (++o->n - o->m > 20)
		fifo_take(o);
}

static void unix_check(struct object *o) {
	while (o->m < o->n && !o->failure[0])
		fifo_take(o);
	int client = unix_connect(o);
	if (client >= 0 && readable(o, o->fd3, "listener")) {
		int server = accept4(o->fd3, 0, 0, SOCK_CLOEXEC);
		char c = 'x';
		if (server < 0 || write(client, &c, 1) != 1 || read(server, &c, 1) != 1)
			fail(o, "a new connection: %s", strerror(errno));
		close(server);
	}
	close(client);
}

// inotify DIR: a watched folder.
static void inotify_make(struct object *o) {
	o->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	must(o, inotify_add_watch(o->fd, o->arg[0], IN_CREATE) >= 0, o->arg[0]);
}

static void inotify_check(struct object *o) {
	char path[256], event[512];
	snprintf(path, sizeof path, "%s/%llu", o->arg[0], (unsigned long long)o->n++);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	if (fd < 0)
		fail(o, "%s: %s", path, strerror(errno));
	else if (readable(o, o->fd, "watch") && read(o->fd, event, sizeof event) <= 0)
		fail(o, "read: %s", strerror(errno));
	unlink(path);
}

// pty: a terminal, both of its ends.
static void pty_make(struct object *o) {
	o->fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	must(o, o->fd >= 0 && grantpt(o->fd) == 0 && unlockpt(o->fd) == 0, "posix_openpt");
	o->fd2 = open(ptsname(o->fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;
	must(o, o->fd2 >= 0 && tcgetattr(o->fd2, &t) == 0, "open");
	cfmakeraw(&t);
	struct winsize w = {.ws_row = 37, .ws_col = 91};
	must(o, tcsetattr(o->fd2, TCSANOW, &t) == 0 && ioctl(o->fd, TIOCSWINSZ, &w) == 0, "set");
}

static void pty_pass(struct object *o, int from, int to, const char *way) {
	char in[6] = "hello", out[6] = "";
	int n = 0;
	if (write(from, in, 5) != 5)
		fail(o, "%s: write: %s", way, strerror(errno));
	while (n < 5 && !o->failure[0] && readable(o, to, way)) {
		int got = read(to, out + n, 5 - n);
		if (got <= 0)
			fail(o, "%s: read: %s", way, strerror(errno));
		n += got;
	}
	if (memcmp(in, out, 5))
		fail(o, "%s: got %.5s", way, out);
}

static void pty_check(struct object *o) {
	struct winsize w = {0};
	struct termios t;
	pty_pass(o, o->fd, o->fd2, "to the terminal");
	pty_pass(o, o->fd2, o->fd, "from the terminal");
	if (ioctl(o->fd2, TIOCGWINSZ, &w) || w.ws_row != 37 || w.ws_col != 91)
		fail(o, "its window is %d × %d", w.ws_row, w.ws_col);
	if (tcgetattr(o->fd2, &t) || (t.c_lflag & ECHO))
		fail(o, "it is not raw any more");
}

const struct kind name_kinds[] = {
	{"shm", shm_make, shm_tick, shm_check},
	{"sem", sem_make, sem_tick, sem_check},
	{"fifo", fifo_make, fifo_tick, fifo_check},
	{"unix", unix_make, unix_tick, unix_check},
	{"inotify", inotify_make, 0, inotify_check},
	{"pty", pty_make, 0, pty_check},
	{0},
};
