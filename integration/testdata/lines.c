/*
 * lines FILE append|place: writes numbered lines to FILE, at its end or each over the last one, and reports on standard output. In
 * place, it checks first that the file still holds what it has written.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec pause = { 0, 5000000 };
	int append = argc > 2 && !strcmp(argv[2], "append");
	int fd = open(argv[1], (append ? O_WRONLY | O_APPEND : O_RDWR) | O_CREAT, 0640);
	char want[64] = "", line[64], was[64];

	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	for (long n = 1;; n++) {
		int len = snprintf(line, sizeof(line), "line %012ld of user %d\n", n, getuid());

		if (!append && n > 1 && (pread(fd, was, len, 0) != len || memcmp(was, want, len))) {
			printf("FAIL: the file does not hold line %ld\n", n - 1);
			return 1;
		}
		if ((append ? write(fd, line, len) : pwrite(fd, line, len, 0)) != len) {
			perror("FAIL: write");
			return 1;
		}
		memcpy(want, line, sizeof(want));
		if (n % 20 == 0) {
			printf("progress %ld\n", n);
			fflush(stdout);
		}
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}
