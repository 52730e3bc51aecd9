// options ROLE ADDRESS PORT — holds one socket of several kinds, gives every option that takes a number another value than the default,
// and prints on SIGUSR1 what the kernel says of each, and of the process, in lines that end with "end".
//
// ROLE is "listen" or "dial". It knows no names of options: whatever number below 80 the kernel answers for is looked at, so that
// a kernel's new options are tried too.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int levels[] = {SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_IPV6};
static int fds[8], many;

// alone is an option whose setting would do more than set it: repair mode, filters, corking, buffers that double, a timeout of a
// millisecond.
static int alone(int level, int opt) {
	switch (level) {
	case SOL_SOCKET:
		return opt == SO_DEBUG || opt == SO_SNDBUF || opt == SO_RCVBUF || opt == 44 /* LOCK_FILTER */ || opt == SO_ATTACH_FILTER ||
		       opt == SO_DETACH_FILTER || opt == SO_INCOMING_CPU || opt == 73 /* RESERVE_MEM */ || opt == 72 /* BUF_LOCK */ || opt == SO_REUSEADDR || opt == SO_REUSEPORT;
	case IPPROTO_IP:
		return opt == 35 || opt == 36 || opt == 32 || opt == 50 || (opt >= 37 && opt <= 48);
	case IPPROTO_TCP:
		return opt == 3 /* CORK */ || opt == 19 || opt == 20 || opt == 21 || opt == 12 /* QUICKACK */ || opt == 24 || opt == 30 || opt == 31 || opt == 14 /* MD5SIG */;
	case IPPROTO_UDP:
		return opt == 1 /* CORK */ || opt == 100 /* ENCAP */;
	case IPPROTO_IPV6:
		return opt == 1 || opt == 2 || opt == 7 || opt == 26 /* V6ONLY */ || opt == 17 /* MULTICAST_IF */ || (opt >= 20 && opt <= 22) || (opt >= 27 && opt <= 28) || opt == 24 || opt == 36 || opt == 76 || opt == 34 || opt == 35;
	}
	return 0;
}

static int another(int level, int opt, int now) {
	if (level == IPPROTO_TCP && opt == 18)
		return 600000; // TCP_USER_TIMEOUT
	if (level == IPPROTO_IP && opt == IP_TOS)
		return 0x10;
	if (level == IPPROTO_IPV6 && opt == 67)
		return 0x10;
	if (level == IPPROTO_TCP && opt == 10)
		return 20000; // TCP_WINDOW_CLAMP
	if (level == SOL_SOCKET && opt == SO_TIMESTAMPING)
		return 0x18;
	return now == 0 ? 1 : now == 1 ? 0 : now - 1;
}

static void change(int fd) {
	setsockopt(fd, IPPROTO_TCP, 13 /* TCP_CONGESTION */, "reno", 4);
	for (unsigned l = 0; l < sizeof levels / sizeof *levels; l++)
		for (int opt = 1; opt < 110; opt++) {
			int value = 0;
			socklen_t size = sizeof value;
			if (alone(levels[l], opt) || getsockopt(fd, levels[l], opt, &value, &size) || size != sizeof value)
				continue;
			value = another(levels[l], opt, value);
			setsockopt(fd, levels[l], opt, &value, sizeof value);
		}
	struct linger linger = {1, 9};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static int is_stream(int fd) {
	int type = 0;
	socklen_t size = sizeof type;
	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) && type == SOCK_STREAM;
}

static void report(void) {
	for (int i = 0; i < many; i++)
		for (unsigned l = 0; l < sizeof levels / sizeof *levels; l++)
			for (int opt = 1; opt < 110; opt++) {
				unsigned char value[16] = {0};
				socklen_t size = sizeof value;
				if (getsockopt(fds[i], levels[l], opt, value, &size))
					continue;
				// An accepted connection keeps its first packet's lifetime where other sockets keep this.
				if (levels[l] == IPPROTO_IP && opt == IP_MULTICAST_TTL && is_stream(fds[i]))
					continue;
				printf("socket %d level %d option %d:", i, levels[l], opt);
				for (unsigned b = 0; b < size && b < sizeof value; b++)
					printf(" %02x", value[b]);
				printf("\n");
			}
	for (int i = 0; i < many; i++) {
		struct tcp_info info;
		socklen_t size = sizeof info;
		int clamp = 0;
		socklen_t int_size = sizeof clamp;
		if (!is_stream(fds[i]) || getsockopt(fds[i], IPPROTO_TCP, TCP_INFO, &info, &size) || info.tcpi_state != TCP_ESTABLISHED)
			continue;
		printf("connection %d segment size: %u\n", i, info.tcpi_snd_mss);
		getsockopt(fds[i], IPPROTO_TCP, TCP_WINDOW_CLAMP, &clamp, &int_size);
		printf("connection %d window clamped: %s\n", i, clamp <= 20000 ? "yes" : "no");
	}
	cpu_set_t cpus;
	sched_getaffinity(0, sizeof cpus, &cpus);
	printf("process processors:");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			printf(" %d", cpu);
	printf("\nprocess timer slack: %d\n", prctl(PR_GET_TIMERSLACK));
	printf("process ioprio: %ld\n", syscall(SYS_ioprio_get, 1, 0));
	printf("process personality: %x\n", personality(0xffffffff));
	int subreaper = -1;
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	printf("process subreaper: %d\n", subreaper);
	printf("process thp disabled: %d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	printf("process no new privileges: %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	printf("process dumpable: %d\n", prctl(PR_GET_DUMPABLE));
	printf("process keep capabilities: %d\n", prctl(PR_GET_KEEPCAPS));
	printf("process secure bits: %d\n", prctl(PR_GET_SECUREBITS));
	printf("process nice: %d\n", getpriority(PRIO_PROCESS, 0));
	mode_t mask = umask(0);
	umask(mask);
	printf("process umask: %o\n", mask);
	for (int r = 0; r < RLIM_NLIMITS; r++) {
		struct rlimit lim;
		if (!getrlimit(r, &lim))
			printf("process limit %d: %lx %lx\n", r, (long)lim.rlim_cur, (long)lim.rlim_max);
	}
	for (const char *const *name = (const char *const[]){"coredump_filter", "oom_score_adj", NULL}; *name; name++) {
		char path[64], line[64] = "";
		snprintf(path, sizeof path, "/proc/self/%s", *name);
		FILE *f = fopen(path, "r");
		if (f) {
			if (fgets(line, sizeof line, f))
				printf("process %s: %s", *name, line);
			fclose(f);
		}
	}
	printf("end\n");
	fflush(stdout);
}

static void write_to(const char *path, const char *text) {
	FILE *f = fopen(path, "w");
	if (f) {
		fputs(text, f);
		fclose(f);
	}
}

static int fail(const char *what) {
	fprintf(stderr, "options: %s: %s\n", what, strerror(errno));
	exit(1);
}

int main(int argc, char **argv) {
	if (argc != 4)
		return 2;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	inet_pton(AF_INET, argv[2], &addr.sin_addr);
	sigset_t usr1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);

	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (!strcmp(argv[1], "listen")) {
		if (bind(fd, (void *)&addr, sizeof addr) || listen(fd, 8))
			fail("listen");
		fds[many++] = fd;
		if ((fd = accept(fd, NULL, NULL)) < 0)
			fail("accept");
	} else {
		for (int i = 0; connect(fd, (void *)&addr, sizeof addr); i++) {
			if (i > 600 || errno != ECONNREFUSED)
				fail("connect");
			usleep(50000);
		}
	}
	fds[many++] = fd;
	fds[many++] = socket(AF_INET, SOCK_DGRAM, 0);
	fds[many++] = socket(AF_INET6, SOCK_DGRAM, 0);
	fds[many++] = socket(AF_UNIX, SOCK_DGRAM, 0);
	for (int i = 0; i < many; i++)
		change(fds[i]);
	struct ip_mreqn group = {.imr_ifindex = 1};
	inet_pton(AF_INET, "239.1.2.3", &group.imr_multiaddr);
	if (setsockopt(fds[many - 3], IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group))
		fail("join 239.1.2.3");

	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof one, &one);
	prctl(PR_SET_TIMERSLACK, 123456);
	syscall(SYS_ioprio_set, 1, 0, 3 << 13);
	write_to("/proc/self/coredump_filter", "0x7f");
	write_to("/proc/self/oom_score_adj", "17");
	umask(037);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		int sig;
		if (!sigwait(&usr1, &sig))
			report();
	}
}
