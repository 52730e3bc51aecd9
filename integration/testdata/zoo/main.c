// usage: zoo MODE, or zoo all MODE...
//
// A process that holds one object of the kernel in one state, and says on SIGUSR1 whether the object still is what it was: "MODE ok" or
// "MODE FAIL text". Its first line is "MODE ready". With "all" it is the parent of one such process a mode.
#include "zoo.h"
#include <stdarg.h>

static const struct mode *mode;
static char failure[400];
const char *folder;

static void say(const char *format, ...) {
	char line[600];
	int n = snprintf(line, sizeof line, "%s ", mode->name);
	va_list args;
	va_start(args, format);
	n += vsnprintf(line + n, sizeof line - n - 1, format, args);
	va_end(args);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	if (write(1, line, n) != n)
		_exit(3);
}

void expect(int ok, const char *format, ...) {
	if (ok || failure[0])
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(failure, sizeof failure, format, args);
	va_end(args);
}

int must(int result, const char *what) {
	if (result >= 0)
		return result;
	say("FAIL cannot be made: %s: %s", what, strerror(errno));
	_exit(1);
}

char *in_folder(const char *name) {
	char *path;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		abort();
	return path;
}

int number_of(const char *path, const char *key) {
	char line[512];
	int n = -1;
	FILE *f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) {
			sscanf(line + strlen(key), "%*[: \t]%i", &n);
			break;
		}
	fclose(f);
	return n;
}

struct sockaddr_in loopback(int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return a;
}

int bound(int type, int port) {
	struct sockaddr_in a = loopback(port);
	int fd = must(socket(AF_INET, type, 0), "socket");
	must(bind(fd, (void *)&a, sizeof a), "bind");
	return fd;
}

void set(int fd, int level, int name, int value) { must(setsockopt(fd, level, name, &value, sizeof value), "setsockopt"); }

void has(int fd, int level, int name, int value, const char *what) {
	int now = 0;
	socklen_t size = sizeof now;
	if (getsockopt(fd, level, name, &now, &size))
		expect(0, "%s: %s", what, strerror(errno));
	expect(now == value, "%s was %#x and is %#x", what, value, now);
}

static const struct mode *find(const char *name) {
	const struct mode *all[] = {socket_modes, thread_modes, watch_modes, queue_modes, process_modes, memory_modes, file_modes, refused_modes};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		for (const struct mode *m = all[i]; m->name; m++)
			if (!strcmp(m->name, name))
				return m;
	return 0;
}

static int many(char **names) {
	char self[200];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		return 1;
	self[n] = 0;
	signal(SIGUSR1, SIG_IGN);
	for (; *names; names++)
		switch (fork()) {
		case -1:
			return 1;
		case 0:
			execl(self, "zoo", *names, (char *)0);
			_exit(1);
		}
	for (;;) // what they leave behind is reaped by whoever gets it
		pause();
}

int main(int argc, char **argv) {
	if (argc > 2 && !strcmp(argv[1], "all"))
		return many(argv + 2);
	if (argc != 2 || !(mode = find(argv[1]))) {
		fprintf(stderr, "zoo: unknown mode\n");
		return 2;
	}
	sigset_t asked;
	sigemptyset(&asked);
	sigaddset(&asked, SIGUSR1);
	sigprocmask(SIG_BLOCK, &asked, 0);
	char path[100];
	snprintf(path, sizeof path, "/srv/zoo/%s", mode->name);
	mkdir("/srv/zoo", 0777);
	mkdir(path, 0755);
	folder = path;
	mode->make();
	say("ready");
	for (;;) {
		if (sigwaitinfo(&asked, 0) != SIGUSR1)
			continue;
		if (mode->check)
			mode->check();
		if (failure[0])
			say("FAIL %s", failure);
		else
			say("ok");
	}
}
