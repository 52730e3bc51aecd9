/*
 * racer FOLDER SECRET: what a user can do to a snapshot and a restore. Below FOLDER, which is the user's, it exchanges folder d and the files
 * f, a, r in it for links into SECRET, a folder of root's with the same names in it, for FIFOs and for hard links, as fast as it can, and with
 * them each file of a name that the agent makes there. It never ends. It prints "ready" when it has begun.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void swap(const char *a, const char *b) { renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE); }

static void temporary(const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *e;
	char path[600];

	while (d && (e = readdir(d))) {
		if (strncmp(e->d_name, ".ss-", 4) && strncmp(e->d_name, "link_remap.", 11) && !strstr(e->d_name, ".ghost"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		swap(path, "link");
		swap(path, "link");
	}
	if (d)
		closedir(d);
}

int main(int argc, char **argv)
{
	char secret[600];
	static const char *const names[] = { "d/f", "d/a", "d/r" };

	if (argc != 3 || chdir(argv[1]))
		return 2;
	symlink(argv[2], "folder");
	snprintf(secret, sizeof(secret), "%s/f", argv[2]);
	symlink(secret, "link");
	mkfifo("fifo", 0600);
	close(open("other", O_RDWR | O_CREAT, 0600));
	link(secret, "hard"); /* where the kernel lets users do that */
	link("other", "hard");
	printf("ready\n");
	fflush(stdout);
	for (unsigned n = 1;; n++) {
		const char *name = names[rand() % 3];

		switch (rand() % 10) {
		case 0: swap("d", "folder"); usleep(rand() % 300); swap("d", "folder"); break;
		case 1: swap(name, "link"); usleep(rand() % 300); swap(name, "link"); break;
		case 2: swap(name, "fifo"); usleep(rand() % 300); swap(name, "fifo"); break;
		case 3: swap(name, "hard"); usleep(rand() % 300); swap(name, "hard"); break;
		case 4: temporary("d"); break;
		default: usleep(rand() % 20000); break;
		}
	}
}
