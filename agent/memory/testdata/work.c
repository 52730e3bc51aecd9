// work MIB HUGE COUNTS: holds MIB of memory, in huge pages if HUGE is 1, writes each page of it once a second, and computes for the rest of the time. COUNTS is a file
// whose first 8 bytes count what it has computed. For each SIGUSR1 it writes each page twice instead, and appends the nanoseconds of both rounds to COUNTS.log.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t asked;
static void on(int s) { (void)s; asked++; }

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	long size = atol(argv[1]) << 20;
	unsigned char *at = mmap(0, size + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) return 2;
	at = (unsigned char *)(((uintptr_t)at + (2 << 20) - 1) & ~((uintptr_t)(2 << 20) - 1));
	madvise(at, size, atoi(argv[2]) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (long i = 0; i < size; i += 4096) at[i] = i >> 12;
	int fd = open(argv[3], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 4096)) return 2;
	volatile uint64_t *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char name[4096];
	snprintf(name, sizeof name, "%s.log", argv[3]);
	int log = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (count == MAP_FAILED || log < 0) return 2;
	signal(SIGUSR1, on);
	static unsigned char small[4096];
	uint64_t x = 1;
	int64_t next = now();
	for (;;) {
		if (asked) {
			asked--;
			int64_t t[3];
			for (int i = 0; i < 3; i++) {
				t[i] = now();
				for (long j = 0; j < size && i < 2; j += 4096) at[j]++;
			}
			dprintf(log, "passes %lld %lld\n", (long long)(t[1] - t[0]), (long long)(t[2] - t[1]));
		}
		if (now() >= next) {
			for (long i = 0; i < size; i += 4096) at[i]++;
			next += 1000000000;
			if (next < now()) next = now(); // it stood still
		}
		for (int i = 0; i < 4096; i++) {
			x = x * 6364136223846793005u + small[i];
			small[i] = x >> 56;
		}
		++*count;
	}
}
