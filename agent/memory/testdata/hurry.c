// hurry MIB THREADS LOG: writes MIB of memory as fast as it can, over and over, and finds before it writes a page that the page is as the last pass has left it. After
// each pass a line "check N" is written to LOG. A page that is not as it must be, or a child that the program does not know, gives "BAD ..." and the end.
// The memory is in three parts: one like any other, one that a child would not have (MADV_DONTFORK), and one that a child would find empty (MADV_WIPEONFORK).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define P 4096ul
#define STEPS 64

static int out, threads;
static long pages;
static char *part[3];
static volatile sig_atomic_t ended; // children

static void bad(const char *what, long a, long b) {
	char l[200];
	int n = snprintf(l, sizeof l, "BAD %s: %lx %lx\n", what, a, b);
	if (write(out, l, n) != n) _exit(9);
	_exit(3);
}

static void on_child(int sig) { (void)sig; ended++; }

// page is one page: its version stands at its start and at its end.
static void pass(char *at, long n, uint64_t version) {
	for (long i = 0; i < n; i++) {
		volatile uint64_t *p = (uint64_t *)(at + i * P);
		if (version > 1 && (p[0] != version - 1 || p[P / 8 - 1] != (version - 1) * 31 + i)) bad("a page", (long)p, p[0] - version);
		p[0] = version;
		p[P / 8 - 1] = version * 31 + i;
	}
}

static void *work(void *arg) {
	long k = (long)arg, mine = pages / threads;
	int status;
	for (uint64_t version = 1;; version++) {
		for (int step = 0; step < STEPS; step++) // whatever was written last, some of each part is among it
			for (int i = 0; i < 3; i++) {
				long n = i ? mine / 16 : mine, from = n * step / STEPS, to = n * (step + 1) / STEPS;
				pass(part[i] + (k * n + from) * P, to - from, version);
			}
		if (ended) bad("a child has ended", 0, 0);
		if (waitpid(-1, &status, WNOHANG) != -1 || errno != ECHILD) bad("there is a child", 0, 0);
		if (!k && dprintf(out, "check %ld\n", (long)version) < 0) _exit(9);
	}
	return 0;
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	pages = atol(argv[1]) * 256;
	threads = atoi(argv[2]);
	out = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0600);
	struct sigaction sa = {.sa_handler = on_child};
	sigaction(SIGCHLD, &sa, 0);
	for (int i = 0; i < 3; i++) {
		long size = (i ? pages / 16 : pages) * P;
		part[i] = mmap(0, size + P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (part[i] == MAP_FAILED || munmap(part[i] + size, P)) return 2; // apart from the others
	}
	if (madvise(part[1], pages / 16 * P, MADV_DONTFORK) || madvise(part[2], pages / 16 * P, MADV_WIPEONFORK)) return 2;
	for (long k = 1; k < threads; k++) {
		pthread_t t;
		if (pthread_create(&t, 0, work, (void *)k)) return 2;
	}
	work(0);
}
