// Descriptors that tell of others, files in unusual states, and terminals.
#include "zoo.h"
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <termios.h>
#include <time.h>

static int a, b, c, first;
static pid_t child;

static int file(const char *name, int flags) { return must(open(in_folder(name), flags | O_CREAT, 0640), "open"); }
static void watch(int epoll, int fd, uint32_t events, uint64_t data) {
	struct epoll_event e = {events, {.u64 = data}};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e), "epoll_ctl");
}
static int told(int epoll, uint64_t data) {
	struct epoll_event e;
	return epoll_wait(epoll, &e, 1, 0) == 1 && e.data.u64 == data;
}
static void forever(void) {
	for (;;)
		pause();
}

static void epoll_nested_make(void) {
	a = must(epoll_create1(0), "epoll"), b = must(epoll_create1(0), "epoll"), c = must(eventfd(1, 0), "eventfd");
	watch(b, c, EPOLLIN, 1);
	watch(a, b, EPOLLIN, 2);
}
static void epoll_nested_check(void) { expect(told(a, 2) && told(b, 1), "what is ready is not told"); }

// epoll_oneshot: it has told once, and tells no more until it is armed again.
static void epoll_oneshot_make(void) {
	a = must(epoll_create1(0), "epoll"), b = must(eventfd(1, 0), "eventfd");
	watch(a, b, EPOLLIN | EPOLLONESHOT, 3);
	must(told(a, 3) - 1, "epoll_wait");
}
static void epoll_oneshot_check(void) {
	struct epoll_event e = {EPOLLIN | EPOLLONESHOT, {.u64 = 3}};
	expect(!told(a, 3), "it tells what it has told");
	expect(!epoll_ctl(a, EPOLL_CTL_MOD, b, &e) && told(a, 3), "it cannot be armed");
}
static void epoll_exclusive_make(void) {
	a = must(epoll_create1(0), "epoll"), b = must(eventfd(1, 0), "eventfd");
	watch(a, b, EPOLLIN | EPOLLEXCLUSIVE, 4);
}
static void epoll_exclusive_check(void) { expect(told(a, 4), "what is ready is not told"); }

// epoll_inherited: a child has closed what the epoll watches, and its parent has not.
static void epoll_inherited_make(void) {
	a = must(epoll_create1(0), "epoll"), b = must(eventfd(1, 0), "eventfd");
	watch(a, b, EPOLLIN, 8);
	child = must(fork(), "fork");
	if (!child) {
		close(b);
		forever();
	}
}
static void epoll_inherited_check(void) { expect(told(a, 8), "what is ready is not told"); }

static void epoll_pipe_make(void) {
	int p[2];
	must(pipe(p), "pipe");
	a = must(epoll_create1(0), "epoll"), b = p[0], c = p[1];
	watch(a, b, EPOLLIN | EPOLLRDHUP, 5);
	watch(a, c, EPOLLERR, 6);
}
static void epoll_pipe_check(void) {
	char byte;
	expect(!told(a, 5), "it is not ready");
	expect(write(c, "x", 1) == 1 && told(a, 5) && read(b, &byte, 1) == 1, "what is ready is not told");
}
static void epoll_timer_make(void) {
	struct itimerspec t = {{0}, {0, 1}};
	a = must(epoll_create1(0), "epoll"), b = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd");
	must(timerfd_settime(b, 0, &t, 0), "settime");
	watch(a, b, EPOLLIN, 8);
	struct pollfd p = {a, POLLIN, 0};
	must(poll(&p, 1, 5000), "poll");
}
static void epoll_timer_check(void) { expect(told(a, 8), "that the timer has run out is not told"); }

static void timerfd_expired_make(void) {
	struct itimerspec t = {{3000}, {0, 1}};
	a = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd");
	must(timerfd_settime(a, 0, &t, 0), "settime");
	struct pollfd p = {a, POLLIN, 0};
	must(poll(&p, 1, 5000), "poll");
}
static void timerfd_expired_check(void) {
	uint64_t n = 0;
	struct itimerspec t;
	if (!first++)
		expect(read(a, &n, 8) == 8 && n == 1, "it has run out %llu times", (unsigned long long)n);
	expect(!timerfd_gettime(a, &t) && t.it_interval.tv_sec == 3000 && t.it_value.tv_sec > 2000, "%ld every %ld s", t.it_value.tv_sec, t.it_interval.tv_sec);
}
static void timerfd_cancel_make(void) {
	struct itimerspec t = {{0}, {time(0) + 5000}};
	a = must(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), "timerfd");
	must(timerfd_settime(a, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &t, 0), "settime");
}
static void timerfd_cancel_check(void) {
	char path[50];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", a);
	expect(number_of(path, "settime flags") == 03, "its flags are %#o", number_of(path, "settime flags"));
}

static void inotify_many_make(void) {
	mkdir(in_folder("one"), 0755), mkdir(in_folder("two"), 0755);
	close(file("two/file", O_WRONLY));
	a = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify");
	must(inotify_add_watch(a, in_folder("one"), IN_CREATE | IN_ONLYDIR), "watch");
	must(inotify_rm_watch(a, 1), "rm_watch");
	b = must(inotify_add_watch(a, in_folder("two"), IN_ATTRIB), "watch");
	c = must(inotify_add_watch(a, in_folder("one"), IN_CREATE), "watch");
	char buf[1000]; // that a watch was removed
	must(read(a, buf, sizeof buf), "read");
}
static void inotify_many_check(void) {
	char buf[1000] __attribute__((aligned(8)));
	must(chmod(in_folder("two/file"), first++ % 2 ? 0644 : 0600), "chmod");
	expect(read(a, buf, sizeof buf) > 0 && ((struct inotify_event *)buf)->wd == b, "no event of watch %d: %m", b);
	unlink(in_folder("one/new"));
	close(file("one/new", O_WRONLY));
	expect(read(a, buf, sizeof buf) > 0 && ((struct inotify_event *)buf)->wd == c, "no event of watch %d: %m", c);
}

static void fanotify_make(void) {
	a = must(fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY), "fanotify_init");
	must(fanotify_mark(a, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, folder), "fanotify_mark");
}
static void fanotify_check(void) {
	struct fanotify_event_metadata m;
	close(file("opened", O_WRONLY));
	expect(read(a, &m, sizeof m) == sizeof m && m.mask & FAN_OPEN, "no event: %m");
	close(m.fd);
}
static void fanotify_pending_make(void) {
	fanotify_make();
	close(file("opened", O_WRONLY));
}
static void fanotify_pending_check(void) { // nobody reads them
	struct pollfd p = {a, POLLIN, 0};
	expect(poll(&p, 1, 0) == 1, "the event is lost");
}
// dnotify: fcntl(F_NOTIFY) of a folder.
static void dnotify_make(void) {
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 8);
	sigprocmask(SIG_BLOCK, &s, 0);
	a = must(open(folder, O_RDONLY | O_DIRECTORY), "open");
	must(fcntl(a, F_SETSIG, SIGRTMIN + 8), "F_SETSIG");
	must(fcntl(a, F_NOTIFY, DN_CREATE | DN_MULTISHOT), "F_NOTIFY");
}
static void dnotify_check(void) {
	sigset_t s;
	siginfo_t i;
	struct timespec soon = {1, 0};
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 8);
	unlink(in_folder("new"));
	close(file("new", O_WRONLY));
	expect(sigtimedwait(&s, &i, &soon) > 0, "no signal of a new file");
}

static void lease(int kind) {
	close(file("leased", O_WRONLY));
	a = must(open(in_folder("leased"), O_RDONLY), "open");
	must(fcntl(a, F_SETLEASE, b = kind), "F_SETLEASE");
}
static void lease_read_make(void) { lease(F_RDLCK); }
static void lease_write_make(void) { lease(F_WRLCK); }
static void lease_check(void) { expect(fcntl(a, F_GETLEASE) == b, "the lease is %d", fcntl(a, F_GETLEASE)); }

static void pidfd_dead_make(void) {
	child = must(fork(), "fork");
	if (!child)
		_exit(0);
	a = must(syscall(SYS_pidfd_open, child, 0), "pidfd_open");
	waitpid(child, 0, 0);
}
static void pidfd_dead_check(void) {
	struct pollfd p = {a, POLLIN, 0};
	expect(poll(&p, 1, 0) == 1 && syscall(SYS_pidfd_send_signal, a, 0, 0, 0) < 0 && errno == ESRCH, "it is not of a process that has ended: %m");
}

// Files of /proc.
static void proc_net_make(void) { a = must(open("/proc/self/net/dev", O_RDONLY), "open"); }
static void proc_net_check(void) {
	char got[5];
	expect(pread(a, got, 5, 0) == 5, "it cannot be read: %m");
}
static void proc_ns_make(void) { a = must(open("/proc/self/ns/net", O_RDONLY), "open"); }
static void proc_ns_check(void) {
	struct stat here, held;
	expect(!fstat(a, &held) && !stat("/proc/self/ns/net", &here) && here.st_ino == held.st_ino, "it is of another network namespace");
}
static int kept = 77;
static void proc_mem_make(void) { a = must(open("/proc/self/mem", O_RDWR), "open"); }
static void proc_mem_check(void) {
	int now = 0;
	expect(pread(a, &now, sizeof now, (off_t)(uintptr_t)&kept) == sizeof now && now == 77, "it is other memory: %m");
}
static void proc_dead_make(void) {
	char path[50];
	child = must(fork(), "fork");
	if (!child)
		forever();
	snprintf(path, sizeof path, "/proc/%d/stat", child);
	a = must(open(path, O_RDONLY), "open");
	kill(child, SIGKILL), waitpid(child, 0, 0);
}
static void proc_dead_check(void) {
	char got;
	expect(pread(a, &got, 1, 0) < 0 && errno == ESRCH, "it is of a process that lives");
}
static void sysfs_make(void) { a = must(open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY), "open"); }
static void sysfs_check(void) {
	char got;
	expect(pread(a, &got, 1, 0) == 1, "it cannot be read: %m");
}

static void flags_make(void) { a = file("data", O_WRONLY | O_APPEND | O_SYNC | O_NOATIME | O_NONBLOCK | O_CLOEXEC | O_TRUNC); }
static void flags_check(void) {
	int want = O_WRONLY | O_APPEND | O_SYNC | O_NOATIME | O_NONBLOCK, now = fcntl(a, F_GETFL) & ~0100000; // O_LARGEFILE
	expect(now == want, "they were %#o and are %#o", want, now);
}
static void path_symlink_make(void) {
	unlink(in_folder("link"));
	must(symlink("/nowhere", in_folder("link")), "symlink");
	a = must(open(in_folder("link"), O_PATH | O_NOFOLLOW), "open");
}
static void path_symlink_check(void) {
	char got[20] = {0};
	expect(readlinkat(a, "", got, 19) > 0 && !strcmp(got, "/nowhere"), "it leads to %s: %m", got);
}
static void far_offset_make(void) {
	a = file("far", O_RDWR | O_TRUNC);
	must(lseek(a, 1L << 40, SEEK_SET) < 0 ? -1 : 0, "lseek");
}
static void far_offset_check(void) { expect(lseek(a, 0, SEEK_CUR) == 1L << 40, "it is %ld", (long)lseek(a, 0, SEEK_CUR)); }
static void renamed_make(void) {
	a = file("old name", O_RDWR | O_TRUNC);
	must(write(a, "kept", 4), "write");
	must(rename(in_folder("old name"), in_folder("new name")), "rename");
}
static void renamed_check(void) {
	struct stat here = {0}, held = {1};
	expect(!stat(in_folder("new name"), &here) && !fstat(a, &held) && here.st_ino == held.st_ino, "it is not the file of that name: %m");
}
static void linked_make(void) {
	unlink(in_folder("second"));
	a = file("first", O_RDWR | O_TRUNC);
	must(write(a, "kept", 4), "write");
	must(link(in_folder("first"), in_folder("second")), "link");
	must(unlink(in_folder("first")), "unlink");
}
static void linked_check(void) {
	struct stat here = {0}, held = {1};
	expect(!stat(in_folder("second"), &here) && !fstat(a, &held) && here.st_ino == held.st_ino, "it is not the file of that name: %m");
}
static void gone_folder_make(void) {
	mkdir(in_folder("gone"), 0755);
	a = must(open(in_folder("gone"), O_RDONLY | O_DIRECTORY), "open");
	must(rmdir(in_folder("gone")), "rmdir");
}
static void gone_folder_check(void) {
	expect(openat(a, "x", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT, "files can be made there");
	expect(access(in_folder("gone"), F_OK) < 0, "it is there again");
}
static void gone_cwd_make(void) {
	mkdir(in_folder("gone"), 0755);
	must(chdir(in_folder("gone")), "chdir");
	must(rmdir(in_folder("gone")), "rmdir");
}
static void gone_cwd_check(void) {
	char now[200];
	expect(!getcwd(now, sizeof now) && errno == ENOENT, "it works in %s", now);
}
static void flock_shared_make(void) {
	a = file("locked", O_RDWR);
	must(flock(a, LOCK_SH), "flock");
	if (!must(fork(), "fork")) {
		b = open(in_folder("locked"), O_RDWR);
		must(flock(b, LOCK_SH), "flock");
		forever();
	}
}
static void flock_shared_check(void) {
	int fd = open(in_folder("locked"), O_RDWR);
	expect(flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK, "nobody has it");
	expect(!flock(fd, LOCK_SH | LOCK_NB), "it is locked for others");
	close(fd);
}
// lock_wait: a child waits for a lock.
static void lock_wait_make(void) {
	int p[2];
	struct flock l = {.l_type = F_WRLCK};
	a = file("locked", O_RDWR);
	must(fcntl(a, F_SETLK, &l), "F_SETLK");
	must(pipe(p), "pipe");
	b = p[0];
	if (!must(fork(), "fork")) {
		struct flock wanted = {.l_type = F_WRLCK};
		while (fcntl(a, F_SETLKW, &wanted))
			;
		write(p[1], "l", 1) == 1 ? forever() : abort();
	}
}
static void lock_wait_check(void) {
	struct flock none = {.l_type = F_UNLCK};
	struct pollfd p = {b, POLLIN, 0};
	if (!first++)
		expect(!poll(&p, 1, 0), "it has the lock already");
	fcntl(a, F_SETLK, &none);
	expect(poll(&p, 1, 5000) == 1, "it does not get the lock");
}

static void pipe_broken_make(void) {
	int p[2];
	must(pipe(p), "pipe");
	close(p[0]);
	a = p[1];
}
static void pipe_broken_check(void) {
	signal(SIGPIPE, SIG_IGN);
	expect(write(a, "x", 1) < 0 && errno == EPIPE, "it can be written");
}
static void pipe_child_make(void) {
	int there[2], back[2];
	must(pipe(there), "pipe"), must(pipe(back), "pipe");
	a = there[1], b = back[0];
	if (!must(fork(), "fork"))
		for (char byte; read(there[0], &byte, 1) == 1;)
			must(write(back[1], &byte, 1), "write");
}
static void pipe_child_check(void) {
	char byte = 0;
	expect(write(a, "z", 1) == 1 && read(b, &byte, 1) == 1 && byte == 'z', "the child does not answer");
}
static void pipe_vmspliced_make(void) {
	int p[2];
	static char page[4096] __attribute__((aligned(4096))) = "given";
	struct iovec v = {page, sizeof page};
	must(pipe(p), "pipe");
	a = p[0], b = p[1];
	must(vmsplice(b, &v, 1, 0), "vmsplice");
}
static void pipe_vmspliced_check(void) {
	char got[4096];
	if (!first++)
		expect(read(a, got, sizeof got) == sizeof got && !strcmp(got, "given"), "other bytes");
}
static void fifo_deleted_make(void) {
	mkfifo(in_folder("gone"), 0600);
	a = must(open(in_folder("gone"), O_RDWR), "open");
	must(write(a, "waits", 5), "write");
	must(unlink(in_folder("gone")), "unlink");
}
static void fifo_deleted_check(void) {
	int waiting = 0;
	expect(!ioctl(a, FIONREAD, &waiting) && waiting == 5, "%d bytes wait", waiting);
}

// Terminals.
static void pty_session_make(void) { // a child leads a session whose terminal it is
	child = must(forkpty(&a, 0, 0, 0), "forkpty");
	if (!child)
		for (char line[10]; read(0, line, sizeof line) > 0;)
			must(write(1, "answer", 6), "write");
	struct termios t;
	tcgetattr(a, &t);
	t.c_lflag &= ~ECHO;
	tcsetattr(a, TCSANOW, &t);
}
static void pty_session_check(void) {
	char got[20];
	pid_t group = 0;
	expect(!ioctl(a, TIOCGPGRP, &group) && group == child, "group %d is in the foreground, and not %d", group, child);
	struct pollfd p = {a, POLLIN, 0};
	expect(write(a, "ask\n", 4) == 4 && poll(&p, 1, 5000) == 1 && read(a, got, sizeof got) > 0, "the child does not answer");
}
static void pty_unread_make(void) {
	must(openpty(&a, &b, 0, 0, 0), "openpty");
	must(write(b, "shown", 5), "write");
}
static void pty_unread_check(void) {
	int waiting = 0;
	expect(!ioctl(a, FIONREAD, &waiting) && waiting == 5, "%d bytes wait", waiting);
}
static void pty_alone_make(void) { // nobody has its other end
	must(openpty(&a, &b, 0, 0, 0), "openpty");
	close(b);
}
static void pty_alone_check(void) {
	char path[30], byte = 0;
	int n = -1;
	expect(!ioctl(a, TIOCGPTN, &n), "it is no terminal: %m");
	snprintf(path, sizeof path, "/dev/pts/%d", n);
	int fd = open(path, O_RDWR | O_NOCTTY);
	expect(fd >= 0 && write(fd, "x", 1) == 1 && read(a, &byte, 1) == 1 && byte == 'x', "its other end cannot be opened: %m");
	close(fd);
}
static void tty_closed_make(void) { // the end that is a terminal, of one whose master is closed
	must(openpty(&b, &a, 0, 0, 0), "openpty");
	close(b);
}
static void tty_closed_check(void) {
	char byte;
	expect(isatty(a) == 0 && errno == EIO, "it is a terminal that works: %m");
	expect(read(a, &byte, 1) == 0, "it has something to read");
}

const struct mode watch_modes[] = {
	{"epoll_nested", epoll_nested_make, epoll_nested_check}, {"epoll_oneshot", epoll_oneshot_make, epoll_oneshot_check},
	{"epoll_exclusive", epoll_exclusive_make, epoll_exclusive_check},
	{"epoll_inherited", epoll_inherited_make, epoll_inherited_check}, {"epoll_pipe", epoll_pipe_make, epoll_pipe_check},
	{"epoll_timer", epoll_timer_make, epoll_timer_check}, {"timerfd_expired", timerfd_expired_make, timerfd_expired_check},
	{"timerfd_cancel", timerfd_cancel_make, timerfd_cancel_check}, {"inotify_many", inotify_many_make, inotify_many_check},
	{"fanotify", fanotify_make, fanotify_check}, {"fanotify_pending", fanotify_pending_make, fanotify_pending_check}, {"dnotify", dnotify_make, dnotify_check},
	{"lease_read", lease_read_make, lease_check}, {"lease_write", lease_write_make, lease_check}, {"pidfd_dead", pidfd_dead_make, pidfd_dead_check},
	{"proc_net", proc_net_make, proc_net_check}, {"proc_ns", proc_ns_make, proc_ns_check}, {"proc_mem", proc_mem_make, proc_mem_check},
	{"proc_dead", proc_dead_make, proc_dead_check}, {"sysfs", sysfs_make, sysfs_check},
	{"flags", flags_make, flags_check}, {"path_symlink", path_symlink_make, path_symlink_check}, {"far_offset", far_offset_make, far_offset_check},
	{"renamed", renamed_make, renamed_check}, {"linked", linked_make, linked_check}, {"gone_folder", gone_folder_make, gone_folder_check},
	{"gone_cwd", gone_cwd_make, gone_cwd_check}, {"flock_shared", flock_shared_make, flock_shared_check}, {"lock_wait", lock_wait_make, lock_wait_check},
	{"pipe_broken", pipe_broken_make, pipe_broken_check}, {"pipe_child", pipe_child_make, pipe_child_check},
	{"pipe_vmspliced", pipe_vmspliced_make, pipe_vmspliced_check}, {"fifo_deleted", fifo_deleted_make, fifo_deleted_check},
	{"pty_session", pty_session_make, pty_session_check}, {"pty_unread", pty_unread_make, pty_unread_check}, {"pty_alone", pty_alone_make, pty_alone_check},
	{"tty_closed", tty_closed_make, tty_closed_check}, {0},
};
