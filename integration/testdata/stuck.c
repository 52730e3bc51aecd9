/*
 * stuck vfork: a child that does not call exec until FILE is there, and its parent, which the kernel lets wait for that.
 * stuck fuse FOLDER: serves a FUSE file system at FOLDER, and answers nothing but its first request until it gets SIGTERM.
 * stuck ask FOLDER: asks for the folder's attributes, again and again, and says so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("FAIL: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void say(const char *line)
{
	must(write(1, line, strlen(line)) == (ssize_t)strlen(line), "write");
}

static void vforked(const char *file)
{
	if (!vfork()) {
		say("stuck\n");
		while (access(file, F_OK))
			usleep(1000);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	for (;;) {
		say("progress 1\n");
		usleep(10000);
	}
}

static void fuse(const char *folder)
{
	static char request[1 << 17];
	struct { struct fuse_out_header head; struct fuse_init_out init; } answer;
	struct fuse_in_header *in = (void *)request;
	char options[100];
	int device = open("/dev/fuse", O_RDWR);

	must(device >= 0, "/dev/fuse");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	must(!mount("stuck", folder, "fuse", 0, options), "mount");
	must(read(device, request, sizeof(request)) > 0 && in->opcode == FUSE_INIT, "the first request");
	memset(&answer, 0, sizeof(answer));
	answer.head.len = sizeof(answer);
	answer.head.unique = in->unique;
	answer.init.major = FUSE_KERNEL_VERSION;
	answer.init.minor = FUSE_KERNEL_MINOR_VERSION;
	answer.init.max_write = 1 << 16;
	must(write(device, &answer, sizeof(answer)) == sizeof(answer), "answer");
	say("serving\n");
	while (read(device, request, sizeof(request)) > 0)
		; /* what is asked waits until this program ends */
	for (;;)
		pause();
}

static void ask(const char *folder)
{
	struct stat st;

	for (;;) {
		say("asking\n");
		stat(folder, &st);
		say("progress 1\n");
		usleep(10000);
	}
}

int main(int argc, char **argv)
{
	must(argc == 3, "usage");
	if (!strcmp(argv[1], "vfork"))
		vforked(argv[2]);
	if (!strcmp(argv[1], "fuse"))
		fuse(argv[2]);
	ask(argv[2]);
	return 0;
}
