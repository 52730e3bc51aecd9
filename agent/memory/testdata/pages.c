// pages MIB PART LOG: fills MIB of memory and writes "check 0" to LOG. For each SIGUSR1 it writes one page of each PART, changes what they hold, and then
// writes "check N".
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	long size = atol(argv[1]) << 20, part = atol(argv[2]);
	int out = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0600), sig;
	unsigned char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (out < 0 || at == MAP_FAILED) return 2;
	for (long i = 0; i < size; i++) at[i] = i * 31 + (i >> 12);
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigprocmask(SIG_BLOCK, &s, 0);
	for (long n = 0;; n++) {
		if (dprintf(out, "check %ld\n", n) < 0) return 3;
		if (sigwait(&s, &sig)) return 4;
		for (long i = 4096 * n; i < size; i += 4096 * part) at[i] += 7;
	}
}
