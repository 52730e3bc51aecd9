/*
 * racee FOLDER: holds d/f (in place), d/a (appended) and d/r (read-only) below FOLDER, which is its user's, while others exchange their names. It opens
 * them until it has its own regular files, and then reports "progress N". A byte of a file that is not its own is "FAIL: ...".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int own(const char *path, int flags)
{
	for (;;) {
		struct stat st;
		int fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK, 0600);

		if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == getuid())
			return fd;
		if (fd >= 0)
			close(fd);
	}
}

static void look(const char *what, int fd)
{
	char buf[4096];
	struct stat st;

	if (fstat(fd, &st) || st.st_uid != getuid()) {
		printf("FAIL: the descriptor of %s is of a file of user %d\n", what, st.st_uid);
		fflush(stdout);
	}
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = 0;
	if (strstr(buf, "SECRET")) {
		printf("FAIL: it can read a secret through %s\n", what);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]))
		return 2;
	mkdir("d", 0755);
	int f = own("d/f", O_RDWR | O_CREAT), a = own("d/a", O_RDWR | O_CREAT | O_APPEND), r;
	if (access("d/r", F_OK)) {
		int w = own("d/r", O_RDWR | O_CREAT);
		pwrite(w, "PUBLIC\n", 7, 0);
		close(w);
	}
	r = own("d/r", O_RDONLY);
	for (long n = 1;; n++) {
		struct timespec pause = { 0, 2000000 };

		look("d/f", f);
		look("d/a", a);
		look("d/r", r);
		pwrite(f, &n, sizeof(n), 0);
		write(a, &n, sizeof(n));
		if (n % 20 == 0) {
			printf("progress %ld\n", n);
			fflush(stdout);
		}
		nanosleep(&pause, NULL);
	}
}
