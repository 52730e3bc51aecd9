// turn MIB RATE LOG: holds MIB of memory in pages of 4 KiB, and writes RATE MiB of it in each second, in turn. It makes the file LOG when it has begun.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	long size = atol(argv[1]) << 20, huge = 2 << 20, at = 0;
	unsigned char *m = mmap(0, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED) return 2;
	m = (unsigned char *)(((uintptr_t)m + huge - 1) & ~((uintptr_t)huge - 1));
	// Huge pages are there sooner. Each is split then.
	madvise(m, size, MADV_HUGEPAGE);
	for (long i = 0; i < size; i += 4096) m[i] = 1 + i / 4096;
	madvise(m, size, MADV_NOHUGEPAGE);
	for (long i = 0; i < size; i += huge)
		if (mprotect(m + i, 4096, PROT_READ) || mprotect(m + i, 4096, PROT_READ | PROT_WRITE)) return 2;
	int fd = open(argv[3], O_WRONLY | O_CREAT, 0600);
	if (fd < 0) return 2;
	double began = now(), rate = atol(argv[2]) * 256.0;
	for (long written = 0;; usleep(10000))
		for (long want = (now() - began) * rate; written < want; written++) {
			m[at]++;
			at = (at + 4096) % size;
		}
}
