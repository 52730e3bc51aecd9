// shared LOG LOSE: fills 16 MiB, shares them with a child, and writes "check" to LOG. With LOSE = 1 it goes on: over and over, a child that shares the
// pages says that it does not need them (MADV_FREE) and ends, the kernel is asked to take back what nobody needs (MADV_PAGEOUT), and all
// pages must be there still. A page that is not gives a line "BAD ...".
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define P 4096ul
#define N 4096ul
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static int out;
static void say(const char *what, unsigned long n) { char l[100]; int k = snprintf(l, sizeof l, "%s %lu\n", what, n); if (write(out, l, k) != k) _exit(9); }

int main(int argc, char **argv) {
	if (argc < 3) return 2;
	out = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
	char *a = mmap(0, N * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a == MAP_FAILED) return 3;
	for (unsigned long n = 1;; n++) {
		for (unsigned long i = 0; i < N; i++) a[i * P] = 7;
		int holder = fork();
		if (holder == 0) for (;;) pause(); // shares the pages
		if (holder < 0) return 4;
		if (argv[2][0] == '0') { say("check", n); for (;;) pause(); }
		usleep(60000); // they are read
		kill(holder, 9);
		waitpid(holder, 0, 0);
		int other = fork();
		if (other == 0) { madvise(a, N * P, MADV_FREE); _exit(0); }
		waitpid(other, 0, 0);
		madvise(a, N * P, MADV_PAGEOUT);
		for (unsigned long i = 0; i < N; i++)
			if (a[i * P] != 7) { say("BAD page", i); _exit(5); }
		say("check", n);
	}
}
