// Files, pipes, terminals, watches and folders.
#include "zoo.h"
#include <pty.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/xattr.h>
#include <termios.h>

static int a, b, c, first;

static int file(const char *name, int flags) { return must(open(in_folder(name), flags | O_CREAT, 0640), "open"); }

// inotify_pending: events that nobody has read.
static void inotify_pending_make(void) {
	a = must(inotify_init1(IN_NONBLOCK), "inotify");
	must(inotify_add_watch(a, folder, IN_CREATE | IN_DELETE), "watch");
	close(file("one", O_WRONLY));
	close(file("two", O_WRONLY));
	unlink(in_folder("one"));
}
static void inotify_pending_check(void) {
	char buf[1000] __attribute__((aligned(8)));
	if (first++)
		return;
	ssize_t n = read(a, buf, sizeof buf);
	expect(n > 0, "no event is there: %m");
	const char *want[] = {"one", "two", "one"};
	int i = 0;
	for (char *p = buf; p < buf + n; i++) {
		struct inotify_event *e = (void *)p;
		expect(i < 3 && !strcmp(e->name, want[i]), "event %d is of %s", i, e->name);
		p += sizeof *e + e->len;
	}
	expect(i == 3, "%d events", i);
}

static void inotify_make(void) {
	a = must(inotify_init1(IN_NONBLOCK), "inotify");
	b = must(inotify_add_watch(a, folder, IN_CREATE), "watch");
}
static void inotify_check(void) {
	char buf[1000] __attribute__((aligned(8)));
	unlink(in_folder("new"));
	close(file("new", O_WRONLY));
	expect(read(a, buf, sizeof buf) > 0 && ((struct inotify_event *)buf)->wd == b, "no event: %m");
}

static void offset_make(void) {
	a = file("data", O_RDWR | O_TRUNC);
	must(write(a, "0123456789", 10), "write");
	lseek(a, 4, SEEK_SET);
	b = dup(a);
	c = must(open(in_folder("data"), O_RDONLY | O_NONBLOCK | O_CLOEXEC), "open");
}
static void offset_check(void) {
	expect(lseek(a, 0, SEEK_CUR) == 4 && lseek(c, 0, SEEK_CUR) == 0, "offsets");
	lseek(b, 5, SEEK_SET);
	expect(lseek(a, 0, SEEK_CUR) == 5, "the two no longer share an offset");
	lseek(b, 4, SEEK_SET);
	expect(fcntl(c, F_GETFL) & O_NONBLOCK && fcntl(c, F_GETFD) == FD_CLOEXEC, "flags");
}

static void deleted_make(void) {
	a = file("gone", O_RDWR | O_TRUNC);
	must(write(a, "kept", 4), "write");
	unlink(in_folder("gone"));
}
static void deleted_check(void) {
	char got[5] = {0};
	expect(pread(a, got, 4, 0) == 4 && !strcmp(got, "kept"), "content %s", got);
}
static void tmpfile_make(void) {
	a = must(open(folder, O_TMPFILE | O_RDWR, 0600), "O_TMPFILE");
	must(write(a, "kept", 4), "write");
}

static int other_sees(int (*probe)(void)) { // as another process does
	int status;
	pid_t p = fork();
	if (!p)
		_exit(probe());
	waitpid(p, &status, 0);
	return WEXITSTATUS(status);
}
static int flock_taken(void) {
	int fd = open(in_folder("locked"), O_RDWR);
	return flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
}
static void flock_make(void) {
	a = file("locked", O_RDWR);
	must(flock(a, LOCK_EX), "flock");
}
static void flock_check(void) { expect(other_sees(flock_taken), "it is not locked any more"); }

static int range_taken(void) {
	struct flock l = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
	int fd = open(in_folder("locked"), O_RDWR);
	fcntl(fd, F_GETLK, &l);
	return l.l_type == F_WRLCK && l.l_start == 10 && l.l_len == 5;
}
static void lock_range(int command) {
	struct flock l = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
	a = file("locked", O_RDWR);
	must(fcntl(a, command, &l), "lock");
}
static void posix_lock_make(void) { lock_range(F_SETLK); }
static void ofd_lock_make(void) { lock_range(F_OFD_SETLK); }
static void lock_check(void) { expect(other_sees(range_taken), "it is not locked any more"); }

static void owner_make(void) { // who gets SIGIO
	int p[2];
	must(pipe(p), "pipe");
	a = p[0];
	must(fcntl(a, F_SETOWN, getpid()), "F_SETOWN");
	must(fcntl(a, F_SETSIG, SIGRTMIN + 5), "F_SETSIG");
}
static void owner_check(void) {
	expect(fcntl(a, F_GETOWN) == getpid(), "owner %d", fcntl(a, F_GETOWN));
	expect(fcntl(a, F_GETSIG) == SIGRTMIN + 5, "signal %d", fcntl(a, F_GETSIG));
}

static void pipe_make(void) {
	int p[2];
	must(pipe2(p, O_NONBLOCK), "pipe");
	a = p[0], b = p[1];
	must(fcntl(a, F_SETPIPE_SZ, 1 << 18), "F_SETPIPE_SZ");
	char *full = calloc(1, 100000);
	must(write(b, full, 100000), "write");
}
static void pipe_check(void) {
	int waiting = 0;
	expect(!ioctl(a, FIONREAD, &waiting) && waiting == 100000, "%d bytes wait", waiting);
	expect(fcntl(a, F_GETPIPE_SZ) == 1 << 18, "it holds %d", fcntl(a, F_GETPIPE_SZ));
}
static void pipe_closed_make(void) {
	int p[2];
	must(pipe(p), "pipe");
	a = p[0];
	must(write(p[1], "last", 4), "write");
	close(p[1]);
}
static void pipe_closed_check(void) {
	char got[5];
	if (first++)
		return;
	expect(read(a, got, 5) == 4 && read(a, got, 5) == 0, "the last bytes, and the end");
}

static void fifo_make(void) {
	mkfifo(in_folder("fifo"), 0640);
	a = must(open(in_folder("fifo"), O_RDWR), "open");
	must(write(a, "waits", 5), "write");
}
static void fifo_check(void) {
	int waiting = 0;
	expect(!ioctl(a, FIONREAD, &waiting) && waiting == 5, "%d bytes wait", waiting);
}

static void cwd_make(void) {
	mkdir(in_folder("below"), 0755);
	must(chdir(in_folder("below")), "chdir");
	a = must(open("..", O_RDONLY | O_DIRECTORY), "open");
	b = must(open(".", O_PATH), "open");
}
static void cwd_check(void) {
	char now[200];
	expect(getcwd(now, sizeof now) && !strcmp(now, in_folder("below")), "it works in %s", now);
	expect(faccessat(a, "below", F_OK, 0) == 0, "the folder's descriptor");
}

static void pty_make(void) {
	struct termios t;
	struct winsize w = {33, 77};
	must(openpty(&a, &b, 0, 0, &w), "openpty");
	tcgetattr(b, &t);
	cfmakeraw(&t);
	tcsetattr(b, TCSANOW, &t);
	must(write(a, "typed", 5), "write");
}
static void pty_check(void) {
	struct termios t;
	struct winsize w;
	int waiting = 0;
	expect(!tcgetattr(b, &t) && !(t.c_lflag & ICANON), "it is not raw any more");
	expect(!ioctl(b, TIOCGWINSZ, &w) && w.ws_row == 33 && w.ws_col == 77, "another size");
	expect(!ioctl(b, FIONREAD, &waiting) && waiting == 5, "%d bytes wait", waiting);
}

static void msg_make(void) {
	struct { long type; char text[10]; } one = {3, "three"}, two = {4, "four"};
	a = must(msgget(IPC_PRIVATE, 0600), "msgget");
	must(msgsnd(a, &one, 10, 0), "msgsnd");
	must(msgsnd(a, &two, 10, 0), "msgsnd");
}
static void msg_check(void) {
	struct { long type; char text[10]; } got;
	if (first++)
		return;
	expect(msgrcv(a, &got, 10, 4, IPC_NOWAIT) == 10 && !strcmp(got.text, "four"), "message of type 4: %m");
	expect(msgrcv(a, &got, 10, 0, IPC_NOWAIT) == 10 && !strcmp(got.text, "three"), "message of type 3: %m");
}
static void sem_make(void) {
	unsigned short values[] = {1, 2, 3};
	a = must(semget(IPC_PRIVATE, 3, 0600), "semget");
	must(semctl(a, 0, SETALL, values), "SETALL");
}
static void sem_check(void) { expect(semctl(a, 2, GETVAL) == 3 && semctl(a, 0, GETVAL) == 1, "other values"); }

static void devices_make(void) {
	a = must(open("/dev/null", O_WRONLY), "null");
	b = must(open("/dev/zero", O_RDONLY), "zero");
	c = must(open("/dev/urandom", O_RDONLY), "urandom");
}
static void devices_check(void) {
	char got;
	expect(write(a, "x", 1) == 1 && read(b, &got, 1) == 1 && !got && read(c, &got, 1) == 1, "they do not work");
}
static void proc_make(void) {
	a = must(open("/proc/self/status", O_RDONLY), "status");
	b = must(open("/proc/self/fd", O_RDONLY | O_DIRECTORY), "fd");
}
static void proc_check(void) {
	char got[8];
	expect(pread(a, got, 5, 0) == 5 && !memcmp(got, "Name:", 5), "status");
}

// kept: a file that is written, with times, attributes, another name and holes.
static void kept_make(void) {
	struct timespec then[2] = {{1000000000, 0}, {1000000001, 0}};
	unlink(in_folder("other name"));
	a = file("data", O_RDWR | O_TRUNC);
	must(pwrite(a, "far", 3, 8 << 20), "pwrite");
	must(fchmod(a, 0604), "chmod"), must(fchown(a, 12, 34), "chown");
	must(link(in_folder("data"), in_folder("other name")), "link");
	must(fsetxattr(a, "user.zoo", "attribute", 9, 0), "setxattr");
	must(futimens(a, then), "utimens");
}
static void kept_check(void) {
	struct stat st = {0}, link = {0};
	char got[20] = {0};
	expect(!fstat(a, &st) && st.st_mtim.tv_sec == 1000000001, "it was modified at %ld", (long)st.st_mtim.tv_sec);
	expect((st.st_mode & 07777) == 0604 && st.st_uid == 12 && st.st_gid == 34, "mode %o of %d:%d", st.st_mode, st.st_uid, st.st_gid);
	expect(st.st_blocks < 1000, "its holes are filled: %ld blocks", (long)st.st_blocks);
	if (!stat(in_folder("other name"), &link)) // elsewhere it has the names by which members have opened it
		expect(link.st_ino == st.st_ino, "its other name is another file's");
	expect(fgetxattr(a, "user.zoo", got, 20) == 9, "its attribute is gone: %m");
}

const struct mode file_modes[] = {
	{"inotify_pending", inotify_pending_make, inotify_pending_check}, {"inotify", inotify_make, inotify_check}, {"offset", offset_make, offset_check},
	{"deleted", deleted_make, deleted_check}, {"tmpfile", tmpfile_make, deleted_check}, {"flock", flock_make, flock_check},
	{"posix_lock", posix_lock_make, lock_check}, {"ofd_lock", ofd_lock_make, lock_check}, {"owner", owner_make, owner_check}, {"pipe", pipe_make, pipe_check},
	{"pipe_closed", pipe_closed_make, pipe_closed_check}, {"fifo", fifo_make, fifo_check}, {"cwd", cwd_make, cwd_check}, {"pty", pty_make, pty_check},
	{"msg", msg_make, msg_check}, {"sem", sem_make, sem_check}, {"devices", devices_make, devices_check}, {"proc", proc_make, proc_check},
	{"kept", kept_make, kept_check}, {0},
};
