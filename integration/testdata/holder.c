/*
 * holder KIND ARGUMENT...: holds files in one way or another, checks all the time that they are what it made of them, and reports on
 * standard output: "progress N", or "FAIL: ..." and its end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

static long must(long result, const char *what)
{
	if (result < 0)
		fail("%s: %s", what, strerror(errno));
	return result;
}

/* Waits 2 ms up to a deadline of its own: an interrupted wait must not count. */
static void tick(long n)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += 2000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
	if (n % 40 == 0) {
		printf("progress %ld\n", n);
		fflush(stdout);
	}
}

static volatile sig_atomic_t broken;
static void on_break(int sig) { broken = sig; }

/* lease FILE place|append: a write lease on a file that it writes. */
static void lease(char **arg)
{
	int append = !strcmp(arg[1], "append");
	int fd = must(open(arg[0], O_RDWR | O_CREAT | (append ? O_APPEND : 0), 0644), arg[0]);
	long was;

	signal(SIGIO, on_break);
	must(fcntl(fd, F_SETLEASE, F_WRLCK), "take a lease");
	for (long n = 1;; n++) {
		if (broken || fcntl(fd, F_GETLEASE) != F_WRLCK)
			fail("the lease was broken at %ld", n);
		if (!append && n > 1 && (pread(fd, &was, sizeof(was), 0) != sizeof(was) || was != n - 1))
			fail("the file holds %ld, not %ld", was, n - 1);
		must(append ? write(fd, &n, sizeof(n)) : pwrite(fd, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

/* writeonly FILE: a write lease on a file that it can only write. */
static void writeonly(char **arg)
{
	int fd = must(open(arg[0], O_WRONLY | O_CREAT | O_APPEND, 0644), arg[0]);

	signal(SIGIO, on_break);
	must(fcntl(fd, F_SETLEASE, F_WRLCK), "take a lease");
	for (long n = 1;; n++) {
		if (broken || fcntl(fd, F_GETLEASE) != F_WRLCK)
			fail("the lease was broken at %ld", n);
		must(write(fd, &n, sizeof(n)), "write");
		tick(n);
	}
}

/* spool FOLDER: files that are opened for appending and gone a moment later. */
static void spool(char **arg)
{
	char path[4096];

	for (long n = 1;; n++) {
		snprintf(path, sizeof(path), "%s/spool.%ld", arg[0], n);
		int fd = must(open(path, O_WRONLY | O_CREAT | O_APPEND, 0644), path);
		must(write(fd, &n, sizeof(n)), "write");
		tick(n);
		must(close(fd), "close");
		/* A cut that comes here lacks the file, as nobody holds it, and it is gone when the cut is put back. */
		if (unlink(path) < 0 && errno != ENOENT)
			must(-1, path);
	}
}

/* rotate FILE: a log that gets another name and a successor now and then. */
static void rotate(char **arg)
{
	char old[4096], line[64];
	int fd = -1;

	snprintf(old, sizeof(old), "%s.1", arg[0]);
	for (long n = 1;; n++) {
		if (fd < 0 || n % 25 == 0) {
			if (fd >= 0) {
				must(rename(arg[0], old), "rename");
				must(close(fd), "close");
			}
			fd = must(open(arg[0], O_RDWR | O_CREAT | O_APPEND, 0644), arg[0]);
		}
		int len = snprintf(line, sizeof(line), "line %ld\n", n);
		must(write(fd, line, len), "write");
		char back[64];
		struct stat st;
		must(fstat(fd, &st), "fstat");
		if (pread(fd, back, len, st.st_size - len) != len || memcmp(back, line, len))
			fail("the log does not end with line %ld", n);
		tick(n);
	}
}

/* semaphore NAME: a named one, which others must find by its name. */
static void semaphore(char **arg)
{
	sem_t *s = sem_open(arg[0], O_CREAT, 0600, 1);

	if (s == SEM_FAILED)
		fail("sem_open: %s", strerror(errno));
	for (long n = 1;; n++) {
		must(sem_trywait(s), "sem_trywait");
		sem_t *other = sem_open(arg[0], 0);
		int value = -1;
		if (other == SEM_FAILED)
			fail("open it again: %s", strerror(errno));
		must(sem_getvalue(other, &value), "sem_getvalue");
		if (value != 0)
			fail("by its name it is another semaphore: %d", value);
		sem_post(other);
		must(sem_getvalue(s, &value), "sem_getvalue");
		if (value != 1)
			fail("by its name it is another semaphore: posted, and it is %d", value);
		sem_close(other);
		tick(n);
	}
}

/* has_name says whether a file has the name. It looks twice: a process that is recorded between the two calls and moved finds another number at the second. */
static int has_name(int fd, const char *name)
{
	struct stat a, b;

	for (int attempt = 0; attempt < 2; attempt++) {
		must(fstat(fd, &a), "fstat");
		must(stat(name, &b), name);
		if (a.st_ino == b.st_ino && a.st_dev == b.st_dev)
			return 1;
	}
	return 0;
}

/* linked FOLDER: a file whose first name is removed and that has another. */
static void linked(char **arg)
{
	long was;

	must(chdir(arg[0]), arg[0]);
	unlink("second");
	int fd = must(open("first", O_RDWR | O_CREAT | O_TRUNC, 0644), "first");
	must(link("first", "second"), "link");
	must(unlink("first"), "unlink");
	for (long n = 1;; n++) {
		if (!has_name(fd, "second"))
			fail("second is another file");
		if (n > 1 && (pread(fd, &was, sizeof(was), 0) != sizeof(was) || was != n - 1))
			fail("the file holds %ld, not %ld", was, n - 1);
		must(pwrite(fd, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

/* elsewhere FOLDER: a file whose first name is removed and that has another in another folder. */
static void elsewhere(char **arg)
{
	long was;

	must(chdir(arg[0]), arg[0]);
	mkdir("a", 0755);
	mkdir("b", 0755);
	unlink("b/second");
	int fd = must(open("a/first", O_RDWR | O_CREAT | O_TRUNC, 0644), "first");
	must(link("a/first", "b/second"), "link");
	must(unlink("a/first"), "unlink");
	for (long n = 1;; n++) {
		if (!has_name(fd, "b/second"))
			fail("second is another file");
		if (n > 1 && (pread(fd, &was, sizeof(was), 0) != sizeof(was) || was != n - 1))
			fail("the file holds %ld, not %ld", was, n - 1);
		must(pwrite(fd, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

/* reader FOLDER: a file that it only reads, and whose first name is removed; it has another in another folder. */
static void reader(char **arg)
{
	char c = 0;

	must(chdir(arg[0]), arg[0]);
	mkdir("a", 0755);
	mkdir("b", 0755);
	unlink("b/second");
	close(must(open("a/first", O_RDWR | O_CREAT | O_TRUNC, 0644), "first"));
	must(truncate("a/first", 100), "truncate");
	int fd = must(open("a/first", O_RDONLY), "first");
	must(link("a/first", "b/second"), "link");
	must(unlink("a/first"), "unlink");
	for (long n = 1;; n++) {
		if (pread(fd, &c, 1, 99) != 1)
			fail("the file is shorter than it was");
		tick(n);
	}
}

/* One of two members that share what has no name any more: both have it before the name goes. They count in turn, so each sees what the other writes. */
static void take_turns(volatile long *mine, volatile long *other, int first)
{
	for (long n = 1;; n++) {
		for (long waited = 0; *other != (first ? n - 1 : n); waited++) {
			if (*other > n || waited > 15000)
				fail("the other's count is %ld, and mine %ld", *other, n - 1);
			tick(1);
		}
		*mine = n;
		tick(n);
	}
}

static int shared_file(const char *path, int first)
{
	char met[4096];
	int fd;

	snprintf(met, sizeof(met), "%s.met", path);
	if (first) {
		fd = must(open(path, O_RDWR | O_CREAT | O_EXCL, 0666), path);
		must(ftruncate(fd, 8192), "ftruncate");
		while (access(met, F_OK))
			tick(1);
		must(unlink(path), path);
	} else {
		struct stat st;
		do
			tick(1);
		while ((fd = open(path, O_RDWR)) < 0 || fstat(fd, &st) || st.st_size < 8192);
		close(must(open(met, O_RDWR | O_CREAT, 0666), met));
		while (!access(path, F_OK))
			tick(1);
	}
	return fd;
}

/* share PATH one|two: memory that two members have mapped from a file which has no name, and no descriptor, any more. */
static void share(char **arg)
{
	int first = !strcmp(arg[1], "one");
	int fd = shared_file(arg[0], first);
	volatile long *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	must(close(fd), "close");
	take_turns(m + (first ? 0 : 600), m + (first ? 600 : 0), first);
}

/* both_write PATH one|two: a file without a name that two members write. */
static void both_write(char **arg)
{
	int first = !strcmp(arg[1], "one");
	int fd = shared_file(arg[0], first);
	long other = 0;

	for (long n = 1;; n++) {
		for (long waited = 0; other != (first ? n - 1 : n); waited++) {
			if (pread(fd, &other, sizeof(other), first ? 8 : 0) != sizeof(other) || other > n || waited > 15000)
				fail("the other's count is %ld, and mine %ld", other, n - 1);
			tick(1);
		}
		must(pwrite(fd, &n, sizeof(n), first ? 0 : 8), "write");
		tick(n);
	}
}

/* fifo PATH one|two: one writes numbers into a FIFO, the other reads them; some are always in it. */
static void fifo(char **arg)
{
	int first = !strcmp(arg[1], "one");
	long got, n = 0;

	if (mkfifo(arg[0], 0600) && errno != EEXIST)
		fail("mkfifo: %s", strerror(errno));
	int fd = must(open(arg[0], O_RDWR), arg[0]);
	for (;;) {
		n++;
		if (first)
			must(write(fd, &n, sizeof(n)), "write");
		else if (read(fd, &got, sizeof(got)) != sizeof(got) || got != n)
			fail("number %ld came, not %ld", got, n);
		if (first || n % 100 == 0)
			tick(n - n % 40);
	}
}

/* cutoff FILE: a log that is cut off now and then and written again (copytruncate). */
static void cutoff(char **arg)
{
	char line[64], back[64];
	int fd = must(open(arg[0], O_RDWR | O_CREAT | O_APPEND | O_TRUNC, 0644), arg[0]);

	for (long n = 1;; n++) {
		struct stat st;
		int len = snprintf(line, sizeof(line), "line %ld\n", n);
		if (n % 3 == 0)
			must(ftruncate(fd, 0), "ftruncate");
		must(write(fd, line, len), "write");
		tick(n);
		must(fstat(fd, &st), "fstat");
		if (pread(fd, back, len, st.st_size - len) != len || memcmp(back, line, len))
			fail("the log does not end with line %ld", n);
	}
}

/* hardlinks FOLDER: two descriptors on two names of one file. */
static void hardlinks(char **arg)
{
	long was;

	must(chdir(arg[0]), arg[0]);
	unlink("other");
	int a = must(open("one", O_RDWR | O_CREAT | O_TRUNC, 0644), "one");
	must(link("one", "other"), "link");
	int b = must(open("other", O_RDWR), "other");
	for (long n = 1;; n++) {
		must(pwrite(a, &n, sizeof(n), 0), "write");
		if (pread(b, &was, sizeof(was), 0) != sizeof(was) || was != n)
			fail("by its other name the file holds %ld, not %ld", was, n);
		tick(n);
	}
}

/* map FILE|shm:/NAME: state in a shared mapping whose descriptor is closed. */
static void map(char **arg)
{
	int shm = !strncmp(arg[0], "shm:", 4);
	int fd = shm ? shm_open(arg[0] + 4, O_RDWR | O_CREAT | O_TRUNC, 0600) : open(arg[0], O_RDWR | O_CREAT | O_TRUNC, 0600);

	must(fd, arg[0]);
	must(ftruncate(fd, 8192), "ftruncate");
	volatile long *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	must(close(fd), "close");
	for (long n = 1;; n++) {
		if (m[0] != n - 1 || m[600] != n - 1)
			fail("the mapping holds %ld and %ld, not %ld", m[0], m[600], n - 1);
		m[0] = m[600] = n;
		tick(n);
	}
}

/* both FILE: records are appended through one descriptor, the header counts them through another. */
static void both(char **arg)
{
	long n = 0, header = 0;

	unlink(arg[0]);
	int a = must(open(arg[0], O_RDWR | O_CREAT | O_APPEND, 0644), arg[0]);
	int b = must(open(arg[0], O_RDWR), arg[0]);
	must(write(a, &n, sizeof(n)), "write");
	for (;;) {
		struct stat st;
		must(fstat(a, &st), "fstat");
		if (pread(b, &header, sizeof(header), 0) != sizeof(header) || header != n || st.st_size != (n + 1) * 8)
			fail("header %ld, %ld bytes, and %ld records were written", header, (long)st.st_size, n);
		must(write(a, &n, sizeof(n)), "write");
		n++;
		must(pwrite(b, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

/* append FILE NAME: lines at the end of a file that others may append to as well. */
static void append(char **arg)
{
	int fd = must(open(arg[0], O_WRONLY | O_CREAT | O_APPEND, 0666), arg[0]);

	for (long n = 1;; n++) {
		dprintf(fd, "%s %ld\n", arg[1], n);
		if (!has_name(fd, arg[0]))
			fail("the file that it writes is not the one of that name any more");
		tick(n);
	}
}

/* follow FILE: reads what another one appends. */
static void follow(char **arg)
{
	char buf[4096];
	long n = 0;
	int fd;

	while ((fd = open(arg[0], O_RDONLY)) < 0)
		tick(1);
	for (;;) {
		ssize_t got = must(read(fd, buf, sizeof(buf)), "read");
		for (ssize_t i = 0; i < got; i++)
			if (buf[i] == '\n')
				n++;
		if (!has_name(fd, arg[0]))
			fail("the file that it reads is not the one of that name any more");
		if (got > 0)
			tick(n + 40 - n % 40);
		else
			tick(1);
	}
}

/* mode FILE OCTAL: a file with set-user, set-group or sticky bits. */
static void mode(char **arg)
{
	int fd = must(open(arg[0], O_RDWR | O_CREAT, 0644), arg[0]);
	mode_t want = strtol(arg[1], NULL, 8);

	must(fchmod(fd, want), "fchmod");
	for (long n = 1;; n++) {
		struct stat st;
		must(fstat(fd, &st), "fstat");
		if ((st.st_mode & 07777) != want)
			fail("mode %o, not %o", st.st_mode & 07777, want);
		if (n == 1)
			must(pwrite(fd, &n, sizeof(n), 0), "write"), must(fchmod(fd, want), "fchmod");
		tick(n);
	}
}

/* root FOLDER: changes its root, and holds a file there. */
static void root(char **arg)
{
	long was;

	must(chroot(arg[0]), arg[0]);
	must(chdir("/"), "/");
	int fd = must(open("/db", O_RDWR | O_CREAT | O_TRUNC, 0644), "/db");
	for (long n = 1;; n++) {
		if (n > 1 && (pread(fd, &was, sizeof(was), 0) != sizeof(was) || was != n - 1))
			fail("the file holds %ld, not %ld", was, n - 1);
		must(pwrite(fd, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

/* sparse FILE MIB place|append: a file that is mostly a hole. */
static void sparse(char **arg)
{
	long size = strtol(arg[1], NULL, 10) << 20;
	int fd = must(open(arg[0], O_RDWR | O_CREAT | O_TRUNC | (!strcmp(arg[2], "append") ? O_APPEND : 0), 0644), arg[0]);

	must(ftruncate(fd, size), "ftruncate");
	must(pwrite(fd, "x", 1, size / 2), "pwrite");
	for (long n = 1;; n++) {
		struct stat st;
		char c = 1;
		must(fstat(fd, &st), "fstat");
		if (st.st_size < size || st.st_blocks * 512 > 1 << 20 || pread(fd, &c, 1, size / 2 - 1) != 1 || c != 0)
			fail("%ld bytes, %ld on disk, byte %d", (long)st.st_size, (long)st.st_blocks * 512, c);
		tick(n);
	}
}

/* replaced: its own program file has been replaced by another one of that name. */
static void replaced(char **arg)
{
	char path[4096];

	(void)arg;
	for (long n = 1;; n++) {
		ssize_t len = must(readlink("/proc/self/exe", path, sizeof(path) - 1), "readlink");
		path[len] = 0;
		tick(n);
	}
}

/* unlinked FILE: a file without any name. */
static void unlinked(char **arg)
{
	long was;
	int fd = must(open(arg[0], O_RDWR | O_CREAT | O_EXCL, 0644), arg[0]);

	must(unlink(arg[0]), arg[0]);
	for (long n = 1;; n++) {
		if (n > 1 && (pread(fd, &was, sizeof(was), 0) != sizeof(was) || was != n - 1))
			fail("the file holds %ld, not %ld", was, n - 1);
		must(pwrite(fd, &n, sizeof(n), 0), "write");
		tick(n);
	}
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int args; void (*run)(char **); } kinds[] = {
		{ "lease", 2, lease }, { "writeonly", 1, writeonly }, { "spool", 1, spool }, { "rotate", 1, rotate },
		{ "semaphore", 1, semaphore }, { "linked", 1, linked }, { "elsewhere", 1, elsewhere }, { "hardlinks", 1, hardlinks },
		{ "map", 1, map }, { "both", 1, both }, { "append", 2, append }, { "follow", 1, follow }, { "mode", 2, mode },
		{ "root", 1, root }, { "sparse", 3, sparse }, { "replaced", 0, replaced }, { "unlinked", 1, unlinked },
		{ "reader", 1, reader }, { "share", 2, share }, { "both_write", 2, both_write }, { "fifo", 2, fifo }, { "cutoff", 1, cutoff },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (argc > 1 && !strcmp(argv[1], kinds[i].name) && argc == kinds[i].args + 2)
			kinds[i].run(argv + 2);
	fprintf(stderr, "usage: holder KIND ARGUMENT...\n");
	return 2;
}
