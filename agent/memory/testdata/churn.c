// churn SEED STEPS PAUSE LOG: changes its memory at random, and checks it. After each check of all of it a line "check N" is written to LOG; after STEPS
// steps "done" is, and the checks go on. A page that is not as it must be gives "BAD ..." and the end. PAUSE is in microseconds between two steps.
//
// It keeps for each page of each region a version. The page is filled from address, region and version; version 0 is a page of zeros, never
// written or given back (MADV_DONTNEED).
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <errno.h>

#define P 4096ul
#define REGIONS 48
#define PAGES 256
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

struct region { char *at; unsigned n, id; int prot, file, heap; uint32_t ver[PAGES]; uint8_t guard[PAGES]; uint32_t written[PAGES]; uint8_t freed[PAGES]; unsigned moved; };
static struct region regions[REGIONS];
static uint64_t rng;
static unsigned ids;
static int out, children, generation;
static long now, born; // the step, and the one at which this process was forked
static volatile uint64_t stamps[2][64 * 512]; // what a second thread writes to all the time
static char filepath[256];

static uint64_t rnd(void) { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }
static unsigned below(unsigned n) { return rnd() % n; }
static void say(const char *fmt, long a, long b, long c) { char l[256]; int n = snprintf(l, sizeof l, fmt, a, b, c); if (write(out, l, n) != n) _exit(9); }

static void fill(uint64_t *p, unsigned id, unsigned page, uint32_t ver) {
	uint64_t x = (uint64_t)id << 40 ^ (uint64_t)page << 20 ^ ver ^ 0x9e3779b97f4a7c15ull;
	for (unsigned i = 0; i < P / 8; i++) { x = x * 6364136223846793005ull + 1442695040888963407ull; p[i] = x; }
}

static const char *file_page(unsigned page) { static uint64_t b[P / 8]; fill(b, 0xf11e, page, 1); return (char *)b; }

static void check_page(struct region *r, unsigned i, const char *when) {
	static uint64_t want[P / 8];
	if (r->guard[i] || !(r->prot & PROT_READ)) return;
	if (r->ver[i]) fill(want, r->id, i, r->ver[i]);
	else if (r->file) memcpy(want, file_page(i), P);
	else memset(want, 0, P);
	if (memcmp(want, r->at + i * P, P)) {
		uint64_t *have = (uint64_t *)(r->at + i * P);
		say("BAD page %lx version %ld generation %ld\n", (long)(r->at + i * P), r->ver[i], generation);
		say("BAD region %ld page %ld has %lx\n", r->id, i, have[0]);
		say("BAD it was written at step %ld, after MADV_FREE: %ld, and now is step %ld\n", r->written[i], r->freed[i], now);
		say("BAD its region was moved at step %ld, this process was forked at step %ld\n", r->moved, born, 0);
		(void)when;
		_exit(3);
	}
}

static void check_all(void) {
	for (int k = 0; k < REGIONS; k++)
		if (regions[k].at) for (unsigned i = 0; i < regions[k].n; i++) check_page(&regions[k], i, "all");
}

static struct region *empty(void) { for (int k = 0; k < REGIONS; k++) if (!regions[k].at) return &regions[k]; return 0; }
static struct region *some(void) { for (int t = 0; t < 20; t++) { struct region *r = &regions[below(REGIONS)]; if (r->at) return r; } return 0; }

static void die(const char *what) { say("BAD errno %ld\n", errno, 0, 0); if (write(out, what, strlen(what)) < 0) {} if (write(out, "\n", 1) < 0) {} _exit(4); }

static void fresh(struct region *r, char *at, unsigned n, int prot) {
	memset(r, 0, sizeof *r);
	r->at = at; r->n = n; r->id = ++ids; r->prot = prot;
}

static void op_map(void) {
	struct region *r = empty();
	if (!r) return;
	unsigned n = 1 + below(below(8) ? 24 : PAGES);
	char *at = mmap(0, n * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) die("mmap");
	fresh(r, at, n, PROT_READ | PROT_WRITE);
}

static void op_map_file(void) {
	struct region *r = empty();
	if (!r) return;
	int fd = open(filepath, O_RDONLY);
	unsigned n = 1 + below(16);
	char *at = mmap(0, n * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED) die("mmap file");
	close(fd);
	fresh(r, at, n, PROT_READ | PROT_WRITE);
	r->file = 1;
}

static void op_unmap(struct region *r) {
	if (r->heap) return;
	if (r->n > 2 && below(2)) { // a part of it
		unsigned from = below(r->n), n = 1 + below(r->n - from);
		if (n == r->n) { n = r->n - 1; }
		if (munmap(r->at + from * P, n * P)) die("munmap a part");
		if (from == 0) { // the tail stays, and its pages keep what they were filled from: give it back whole
			if (munmap(r->at + n * P, (r->n - n) * P)) die("munmap the tail");
			r->at = 0;
			return;
		}
		if (from + n < r->n && munmap(r->at + (from + n) * P, (r->n - from - n) * P)) die("munmap the rest");
		r->n = from;
		return;
	}
	if (munmap(r->at, r->n * P)) die("munmap");
	r->at = 0;
}

static void op_map_over(struct region *r) { // another mapping at the very same place
	if (r->heap) return;
	char *at = mmap(r->at, r->n * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (at != r->at) die("mmap over");
	fresh(r, at, r->n, PROT_READ | PROT_WRITE);
}

static void op_write(struct region *r) {
	if (!(r->prot & PROT_WRITE)) return;
	unsigned k = below(4) ? 1 + below(4) : r->n, from = below(r->n);
	for (unsigned i = from; i < r->n && k--; i++)
		if (!r->guard[i]) { uint32_t v = r->ver[i] + 1 ? r->ver[i] + 1 : 1; fill((uint64_t *)(r->at + i * P), r->id, i, v); r->ver[i] = v; r->written[i] = now; r->freed[i] = 0; }
}

static void op_read(struct region *r) { unsigned i = below(r->n); check_page(r, i, "read"); }

static void op_remap(struct region *r) {
	if (r->heap) return;
	for (unsigned i = 0; i < r->n; i++) if (r->guard[i]) return;
	unsigned n = r->n;
	switch (below(3)) {
	case 0: n = 1 + below(r->n); break;
	case 1: n = r->n + below(16); if (n > PAGES || r->file) n = r->n; break;
	}
	char *at;
	if (below(2)) { // onto the place of another mapping, which goes
		struct region *o = some();
		if (o && o != r && !o->heap && o->n >= n) {
			char *to = o->at;
			if (munmap(o->at, o->n * P)) die("munmap for mremap");
			o->at = 0;
			at = mremap(r->at, r->n * P, n * P, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		} else at = mremap(r->at, r->n * P, n * P, MREMAP_MAYMOVE);
	} else at = mremap(r->at, r->n * P, n * P, MREMAP_MAYMOVE);
	if (at == MAP_FAILED) { if (errno == EFAULT) { say("note: mremap of more than one mapping\n", 0, 0, 0); return; } die("mremap"); }
	for (unsigned i = r->n; i < n; i++) { r->ver[i] = 0; r->guard[i] = 0; }
	if (at != r->at) r->moved = now;
	r->at = at; r->n = n;
}

static void op_advise(struct region *r) {
	unsigned from = below(r->n), n = 1 + below(r->n - from);
	for (unsigned i = from; i < from + n; i++) if (r->guard[i]) return;
	switch (below(10)) {
	case 0: case 1: case 2:
		if (madvise(r->at + from * P, n * P, MADV_DONTNEED)) die("MADV_DONTNEED");
		for (unsigned i = from; i < from + n; i++) r->ver[i] = 0;
		break;
	case 3: madvise(r->at, r->n * P, MADV_HUGEPAGE); break;
	case 4: madvise(r->at, r->n * P, MADV_COLLAPSE); break;
	case 5: madvise(r->at + from * P, n * P, MADV_COLD); break;
	case 6: case 8: madvise(r->at + from * P, n * P, MADV_PAGEOUT); break;
	case 7: case 9: // given back at leisure, and written again
		if (!(r->prot & PROT_WRITE) || r->file) break;
		if (madvise(r->at + from * P, n * P, MADV_FREE)) break;
		for (unsigned i = from; i < from + n; i++) { fill((uint64_t *)(r->at + i * P), r->id, i, r->ver[i] + 1); r->ver[i]++; r->written[i] = now; r->freed[i] = 1; }
		break;
	}
}

static void op_guard(struct region *r) {
	if (r->file || r->heap) return;
	unsigned i = below(r->n);
	if (r->guard[i]) { if (madvise(r->at + i * P, P, MADV_GUARD_REMOVE)) die("MADV_GUARD_REMOVE"); r->guard[i] = 0; r->ver[i] = 0; return; }
	if (madvise(r->at + i * P, P, MADV_GUARD_INSTALL) == 0) { r->guard[i] = 1; r->ver[i] = 0; }
}

static void op_protect(struct region *r) {
	if (r->heap) return;
	static const int prots[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE};
	int prot = prots[below(5)];
	if (mprotect(r->at, r->n * P, prot)) die("mprotect");
	r->prot = prot;
}

static void op_heap(void) {
	struct region *r = &regions[0];
	if (!r->at) { r = &regions[0]; char *at = sbrk(0); at = (char *)(((uintptr_t)at + P - 1) & ~(P - 1)); if (brk(at)) die("brk"); fresh(r, at, 0, PROT_READ | PROT_WRITE); r->heap = 1; }
	unsigned n = below(PAGES / 2) + 1;
	if (brk(r->at + n * P)) die("brk");
	for (unsigned i = r->n; i < n; i++) r->ver[i] = 0;
	r->n = n;
}

static int __attribute__((noinline)) op_stack(int depth) {
	volatile char deep[P * 3];
	deep[0] = depth; deep[P] = depth + 1;
	if (depth > 0 && op_stack(depth - 1) != depth - 1) { say("BAD stack at %ld\n", depth, 0, 0); _exit(5); }
	if (deep[0] != (char)depth || deep[P] != (char)(depth + 1)) { say("BAD stack at %ld\n", depth, 0, 0); _exit(5); }
	return depth;
}

static void *stamper(void *unused) { // stamps[0][i] is never behind stamps[1][i], nor more than one ahead
	for (uint64_t n = 1;; n++) for (int i = 0; i < 64; i++) { stamps[0][i * 512] = n; __sync_synchronize(); stamps[1][i * 512] = n; if (i % 16 == 0) usleep(200); }
	return unused;
}

static void check_stamps(void) {
	for (int i = 0; i < 64; i++) {
		uint64_t b = stamps[1][i * 512]; __sync_synchronize(); uint64_t a = stamps[0][i * 512];
		if (a < b) { say("BAD stamp %ld: %ld < %ld\n", i, a, b); _exit(6); }
	}
}

// What would end the program says where that was.
static void deadly(int sig, siginfo_t *info, void *context) {
	ucontext_t *u = context;
	say("BAD signal %ld at address %lx, instruction %lx\n", sig, (long)info->si_addr, (long)u->uc_mcontext.gregs[REG_RIP]);
	say("BAD code %ld, step %ld, generation %ld\n", info->si_code, now, generation);
	for (int k = 0; k < REGIONS; k++) {
		struct region *r = &regions[k];
		if (r->at && (char *)info->si_addr >= r->at && (char *)info->si_addr < r->at + r->n * P)
			say("BAD region %ld of %ld pages, protection %ld\n", r->id, r->n, r->prot);
	}
	_exit(7);
}

static void watch_signals(void) {
	static char stack[64 * 1024];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction act = {.sa_sigaction = deadly, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
	sigaltstack(&alt, 0);
	const int all[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &act, 0);
}

static void step(void) {
	struct region *r = some();
	unsigned what = below(100);
	if (what < 10 || !r) op_map();
	else if (what < 12) op_map_file();
	else if (what < 17) op_unmap(r);
	else if (what < 21) op_map_over(r);
	else if (what < 52) op_write(r);
	else if (what < 60) op_read(r);
	else if (what < 68) op_remap(r);
	else if (what < 84) op_advise(r);
	else if (what < 88) op_protect(r);
	else if (what < 91) op_guard(r);
	else if (what < 95) op_heap();
	else if (what < 97) op_stack(1 + below(40));
	else if (what < 98 && generation < 2 && children < 2 && below(2)) {
		int pid = fork();
		if (pid < 0) die("fork");
		if (pid == 0) { generation++; children = 0; born = now; check_all(); rng ^= getpid() * 0x2545f4914f6cdd1dull; }
		else children++;
	} else if (what < 99) {
		char *args[] = {"true", 0};
		int pid = vfork();
		if (pid == 0) { execv("/bin/true", args); _exit(127); }
		int st;
		if (pid > 0 && waitpid(pid, &st, 0) < 0) die("waitpid");
	} else if (generation > 0 && below(4) == 0) _exit(0);
	while (children > 0 && waitpid(-1, 0, WNOHANG) > 0) children--;
}

int main(int argc, char **argv) {
	if (argc < 5) return 2;
	rng = strtoull(argv[1], 0, 10) * 0x9e3779b97f4a7c15ull + 1;
	long steps = atol(argv[2]), pause = atol(argv[3]);
	out = open(argv[4], O_WRONLY | O_CREAT | O_APPEND, 0600);
	snprintf(filepath, sizeof filepath, "%s.file", argv[4]);
	int f = open(filepath, O_WRONLY | O_CREAT, 0600);
	for (int i = 0; i < 16; i++) if (write(f, file_page(i), P) != (long)P) return 2;
	close(f);
	watch_signals();
	pthread_t t;
	if (pthread_create(&t, 0, stamper, 0)) return 2;
	op_heap();
	for (long n = 1;; n++) {
		now = n;
		if (n <= steps || generation > 0) step(); else usleep(1000);
		if (generation > 0 && n > steps) _exit(0);
		if (n % 200 == 0) { check_all(); check_stamps(); if (generation == 0) say("check %ld\n", n, 0, 0); }
		if (n == steps && generation == 0) say("done %ld\n", n, 0, 0);
		if (pause) usleep(pause);
	}
}
