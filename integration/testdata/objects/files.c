// Files that a member has open, in every way that matters to a cut.
#include "objects.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(struct object *o, int fd, uint64_t value, off_t at) {
	if (pwrite(fd, &value, sizeof value, at) != sizeof value)
		fail(o, "write: %s", strerror(errno));
}

static uint64_t get(struct object *o, int fd, off_t at) {
	uint64_t value = ~0ull;
	if (pread(fd, &value, sizeof value, at) != sizeof value)
		fail(o, "read at %lld: %s", (long long)at, strerror(errno));
	return value;
}

static void expect(struct object *o, uint64_t got, uint64_t want, const char *what) {
	if (got != want)
		fail(o, "%s is %llu, want %llu", what, (unsigned long long)got, (unsigned long long)want);
}

// has_name says whether a path leads to the file that is open. It looks twice: a process that is recorded between the two calls and moved finds another
// number at the second.
int has_name(int fd, const char *path) {
	struct stat a, b;
	for (int attempt = 0; attempt < 2; attempt++)
		if (!fstat(fd, &a) && !stat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
			return 1;
	return 0;
}

// same checks that a path leads to the file that is open.
static void same(struct object *o, int fd, const char *path) {
	errno = 0;
	if (!has_name(fd, path))
		fail(o, "%s is another file than the open one: %s", path, strerror(errno));
}

static int open_or_die(struct object *o, const char *path, int flags) {
	int fd = open(path, flags | O_CLOEXEC, 0644);
	must(o, fd >= 0, path);
	return fd;
}

// append PATH: lines "ID NUMBER", which other members may mix with their own.
#define LINE 24
static void append_make(struct object *o) { o->fd = open_or_die(o, o->arg[0], O_WRONLY | O_APPEND | O_CREAT); }

static void append_tick(struct object *o) {
	char line[LINE + 1];
	snprintf(line, sizeof line, "%-12.12s %010llu\n", o->id, (unsigned long long)o->n++);
	if (write(o->fd, line, LINE) != LINE)
		fail(o, "append: %s", strerror(errno));
}

// lines checks that the lines of one writer are there, in order, from the first. It returns how many.
static uint64_t lines(struct object *o, const char *path, const char *writer) {
	FILE *f = fopen(path, "re");
	if (!f) {
		fail(o, "open %s: %s", path, strerror(errno));
		return 0;
	}
	char line[200], who[40];
	unsigned long long n;
	uint64_t next = 0, at = 0;
	for (; fgets(line, sizeof line, f); at++) {
		if (strlen(line) != LINE || sscanf(line, "%39s %llu", who, &n) != 2)
			fail(o, "line %llu is torn: %.60s", (unsigned long long)at, line);
		else if (!strcmp(who, writer) && n != next++)
			fail(o, "line %llu has number %llu, want %llu", (unsigned long long)at, n, (unsigned long long)next - 1);
	}
	fclose(f);
	return next;
}

static void append_check(struct object *o) {
	same(o, o->fd, o->arg[0]);
	expect(o, lines(o, o->arg[0], o->id), o->n, "number of lines");
}

// tail PATH WRITER: read-only beside an append of another member, which has it under the id WRITER.
static void tail_make(struct object *o) { o->fd = open_or_die(o, o->arg[0], O_RDONLY | O_CREAT); }

static void tail_tick(struct object *o) {
	char line[LINE + 1] = "", who[40];
	unsigned long long n;
	for (int i = 0; i < 100; i++) {
		ssize_t got = pread(o->fd, line, LINE, o->m);
		if (got != LINE)
			return; // not yet
		o->m += LINE;
		if (sscanf(line, "%39s %llu", who, &n) != 2)
			fail(o, "torn line at %llu: %.30s", (unsigned long long)o->m, line);
		else if (!strcmp(who, o->arg[1])) {
			expect(o, n, o->n++, "line that was read");
			o->alive++;
		}
	}
}

static void tail_check(struct object *o) {
	uint64_t before = o->alive, until = now_ms() + 15000;
	same(o, o->fd, o->arg[0]);
	while (o->alive == before && !o->failure[0] && now_ms() < until) {
		tail_tick(o);
		pause_ms(1);
	}
	if (o->alive == before)
		fail(o, "nothing more comes after %llu lines", (unsigned long long)o->n);
}

// inplace PATH: header and body say the same.
#define BODY 8192
static void inplace_make(struct object *o) { o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT); }

static void inplace_tick(struct object *o) {
	o->n++;
	put(o, o->fd, o->n, 0);
	put(o, o->fd, o->n, BODY);
}

static void inplace_check(struct object *o) {
	same(o, o->fd, o->arg[0]);
	expect(o, get(o, o->fd, 0), o->n, "header");
	expect(o, get(o, o->fd, BODY), o->n, "body");
}

// region PATH SLOT: members of one host write to places of one file.
static void region_tick(struct object *o) {
	o->n++;
	put(o, o->fd, o->n, 4096 * number(o, 1));
}

static void region_check(struct object *o) {
	same(o, o->fd, o->arg[0]);
	expect(o, get(o, o->fd, 4096 * number(o, 1)), o->n, "region");
}

// both PATH: one descriptor appends records, another writes the number of them into the header.
static void both_make(struct object *o) {
	o->fd2 = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	put(o, o->fd2, 0, 0);
	o->fd = open_or_die(o, o->arg[0], O_WRONLY | O_APPEND);
}

static void both_tick(struct object *o) {
	o->n++;
	if (write(o->fd, &o->n, sizeof o->n) != sizeof o->n)
		fail(o, "append: %s", strerror(errno));
	put(o, o->fd2, o->n, 0);
}

static void both_check(struct object *o) {
	struct stat st;
	same(o, o->fd, o->arg[0]);
	same(o, o->fd2, o->arg[0]);
	expect(o, get(o, o->fd2, 0), o->n, "header");
	fstat(o->fd, &st);
	expect(o, st.st_size, 8 * (o->n + 1), "size");
	for (uint64_t i = 1; i <= o->n; i += 1 + o->n / 50)
		expect(o, get(o, o->fd2, 8 * i), i, "record");
}

// deleted PATH: open and without a name.
static void deleted_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	put(o, o->fd, 77, 65528);
	must(o, unlink(o->arg[0]) == 0, "unlink");
}

static void deleted_tick(struct object *o) { put(o, o->fd, ++o->n, 0); }

static void deleted_check(struct object *o) {
	struct stat st;
	fstat(o->fd, &st);
	expect(o, st.st_nlink, 0, "number of links");
	expect(o, get(o, o->fd, 0), o->n, "content");
	expect(o, get(o, o->fd, 65528), 77, "end");
}

// linked PATH OTHER: made as PATH, linked as OTHER, and PATH unlinked, as editors and spoolers do.
static void linked_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	must(o, link(o->arg[0], o->arg[1]) == 0, "link");
	must(o, unlink(o->arg[0]) == 0, "unlink");
}

static void linked_check(struct object *o) {
	same(o, o->fd, o->arg[1]);
	expect(o, get(o, o->fd, 0), o->n, "content");
}

// hard PATH OTHER: two descriptors on two names of one file.
static void hard_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	must(o, link(o->arg[0], o->arg[1]) == 0, "link");
	o->fd2 = open_or_die(o, o->arg[1], O_RDWR);
}

static void hard_check(struct object *o) {
	same(o, o->fd, o->arg[0]);
	same(o, o->fd2, o->arg[1]);
	same(o, o->fd, o->arg[1]);
	expect(o, get(o, o->fd2, 0), o->n, "content by the other name");
}

// mode PATH OCTAL: special bits.
static void mode_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	put(o, o->fd, 5, 0);
	must(o, fchmod(o->fd, strtol(o->arg[1], 0, 8)) == 0, "chmod");
}

static void mode_check(struct object *o) {
	struct stat st;
	same(o, o->fd, o->arg[0]);
	fstat(o->fd, &st);
	expect(o, st.st_mode & 07777, strtol(o->arg[1], 0, 8), "mode");
	expect(o, get(o, o->fd, 0), 5, "content");
}

// sparse PATH MIB
static void sparse_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	must(o, ftruncate(o->fd, (off_t)number(o, 1) << 20) == 0, "truncate");
}

static void sparse_tick(struct object *o) {
	o->n++;
	put(o, o->fd, o->n, 0);
	put(o, o->fd, o->n, ((off_t)number(o, 1) << 20) - 4096);
}

static void sparse_check(struct object *o) {
	struct stat st;
	same(o, o->fd, o->arg[0]);
	fstat(o->fd, &st);
	expect(o, st.st_size, (uint64_t)number(o, 1) << 20, "size");
	if (st.st_blocks * 512 > 4 << 20)
		fail(o, "it takes %lld bytes", (long long)st.st_blocks * 512);
	expect(o, get(o, o->fd, 0), o->n, "begin");
	expect(o, get(o, o->fd, ((off_t)number(o, 1) << 20) - 4096), o->n, "end");
}

// mapped PATH: mapped shared and writable, its descriptor closed.
static void mapped_make(struct object *o) {
	int fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	o->size = 64 << 10;
	must(o, ftruncate(fd, o->size) == 0, "truncate");
	o->mem = mmap(0, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(o, o->mem != MAP_FAILED, "mmap");
	close(fd);
}

static void mapped_tick(struct object *o) {
	o->n++;
	((volatile uint64_t *)o->mem)[0] = o->n;
	((volatile uint64_t *)o->mem)[5120] = o->n;
}

static void mapped_check(struct object *o) {
	int fd = open(o->arg[0], O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fail(o, "open %s: %s", o->arg[0], strerror(errno));
		return;
	}
	expect(o, ((volatile uint64_t *)o->mem)[0], o->n, "memory");
	expect(o, ((volatile uint64_t *)o->mem)[5120], o->n, "memory further on");
	expect(o, get(o, fd, 0), o->n, "file");
	expect(o, get(o, fd, 40960), o->n, "file further on");
	close(fd);
}

// locked PATH: locked with flock(2).
static void locked_make(struct object *o) {
	o->fd = open_or_die(o, o->arg[0], O_RDWR | O_CREAT);
	must(o, flock(o->fd, LOCK_EX | LOCK_NB) == 0, "flock");
}

static void locked_check(struct object *o) {
	same(o, o->fd, o->arg[0]);
	expect(o, get(o, o->fd, 0), o->n, "content");
	int fd = open(o->arg[0], O_RDWR | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		fail(o, "the lock is gone");
	close(fd);
}

const struct kind file_kinds[] = {
	{"append", append_make, append_tick, append_check},
	{"tail", tail_make, tail_tick, tail_check},
	{"inplace", inplace_make, inplace_tick, inplace_check},
	{"region", inplace_make, region_tick, region_check},
	{"both", both_make, both_tick, both_check},
	{"deleted", deleted_make, deleted_tick, deleted_check},
	{"linked", linked_make, deleted_tick, linked_check},
	{"hard", hard_make, deleted_tick, hard_check},
	{"mode", mode_make, 0, mode_check},
	{"sparse", sparse_make, sparse_tick, sparse_check},
	{"mapped", mapped_make, mapped_tick, mapped_check},
	{"locked", locked_make, deleted_tick, locked_check},
	{0},
};
