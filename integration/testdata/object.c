// object KIND [ARGUMENT]: holds one object of the kernel, checks again and again that it still works, and tells of progress.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* struct sched_attr of linux/sched/types.h, which does not go with sched.h. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static const char *argument;

static void fail(const char *what)
{
	printf("FAIL %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static int must(int r, const char *what)
{
	if (r < 0)
		fail(what);
	return r;
}

static void nap(void)
{
	struct timespec t = { 0, 20000000 };
	nanosleep(&t, NULL);
}

/* tell says that all is well, again and again, for as long as check says so. */
static void tell(void (*check)(void))
{
	printf("ready\n");
	for (long n = 1;; n++) {
		check();
		printf("progress %ld\n", n);
		fflush(stdout);
		nap();
	}
}

static void nothing(void) {}

/* Signals and scheduling. */

static void check_pdeathsig(void)
{
	int sig = 0;
	must(prctl(PR_GET_PDEATHSIG, &sig), "PR_GET_PDEATHSIG");
	/* In a cell, a restored root has none any more: it would be CRIU's end that it hears of. */
	if (sig != SIGUSR1 && sig != 0) {
		errno = 0;
		fail("another parent death signal");
	}
}

static void pdeathsig(void)
{
	signal(SIGUSR1, SIG_IGN);
	must(prctl(PR_SET_PDEATHSIG, SIGUSR1), "PR_SET_PDEATHSIG");
	tell(check_pdeathsig);
}

/* pdeathsig_kill would not survive a signal for the death of a parent. */
static void pdeathsig_kill(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGKILL), "PR_SET_PDEATHSIG");
	tell(nothing);
}

static pid_t child;

static void check_child(void)
{
	if (waitpid(child, NULL, WNOHANG) != 0)
		fail("the child has ended");
}

/* pdeathsig_child has a child that dies with it. */
static void pdeathsig_child(void)
{
	child = must(fork(), "fork");
	if (child == 0) {
		must(prctl(PR_SET_PDEATHSIG, SIGKILL), "PR_SET_PDEATHSIG");
		for (;;) {
			int sig = 0;
			prctl(PR_GET_PDEATHSIG, &sig);
			if (sig != SIGKILL)
				_exit(1);
			nap();
		}
	}
	tell(check_child);
}

static int policy;

static void check_policy(void)
{
	errno = 0;
	if ((sched_getscheduler(0) & ~0x40000000) != policy)
		fail("another scheduling policy");
}

static void deadline(void)
{
	struct attributes a = { .size = sizeof a, .policy = 6, .runtime = 2000000, .deadline = 20000000, .period = 20000000 };
	policy = 6; /* SCHED_DEADLINE */
	must(syscall(SYS_sched_setattr, 0, &a, 0), "SCHED_DEADLINE");
	tell(check_policy);
}

static void scheduler(int p, int priority)
{
	struct sched_param s = { .sched_priority = priority };
	policy = p;
	must(sched_setscheduler(0, p, &s), "sched_setscheduler");
	tell(check_policy);
}

/* Memory. */

static char *page;

static void check_page(void)
{
	errno = 0;
	if (strcmp(page, "content") != 0)
		fail("the page holds something else");
}

/* memfd maps a memfd with seals; the argument says which, and whether the descriptor stays: "write keep". */
static void sealed_memfd(int seals, int flags, int keep)
{
	int fd = must(memfd_create("sealed", MFD_ALLOW_SEALING), "memfd_create");
	must(ftruncate(fd, 4096), "ftruncate");
	must(pwrite(fd, "content", 8, 0), "pwrite");
	if (seals & F_SEAL_WRITE)
		must(fcntl(fd, F_ADD_SEALS, seals), "F_ADD_SEALS");
	page = mmap(NULL, 4096, flags & 1 ? PROT_READ | PROT_WRITE : PROT_READ, flags & 2 ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		fail("mmap");
	if (!(seals & F_SEAL_WRITE))
		must(fcntl(fd, F_ADD_SEALS, seals), "F_ADD_SEALS");
	if (!keep)
		close(fd);
	tell(check_page);
}

/* Namespaces. */

static void unshared(int flag)
{
	must(unshare(flag), "unshare");
	tell(nothing);
}

/* connected_apart has a connection with itself in a network namespace of its own. */
static void connected_apart(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof to;
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	must(unshare(CLONE_NEWNET), "unshare");
	int l = must(socket(AF_INET, SOCK_STREAM, 0), "socket"), c = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(ioctl(l, SIOCSIFFLAGS, &lo), "SIOCSIFFLAGS");
	must(listen(l, 1), "listen");
	must(getsockname(l, (struct sockaddr *)&to, &size), "getsockname");
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	must(connect(c, (struct sockaddr *)&to, sizeof to), "connect");
	must(accept(l, NULL, NULL), "accept");
	tell(nothing);
}

static void unshared_child(int flag)
{
	child = must(fork(), "fork");
	if (child == 0) {
		must(unshare(flag), "unshare");
		for (;;)
			nap();
	}
	tell(check_child);
}

/* Timers. */

static int timer;
static long ticks;
static struct timespec begun;

static void check_timer(void)
{
	struct pollfd p = { .fd = timer, .events = POLLIN };
	uint64_t n = 0;
	errno = 0;
	if (poll(&p, 1, 5000) != 1)
		fail("the timer has not fired for five seconds");
	must(read(timer, &n, sizeof n), "read the timer");
	ticks += n;
}

/* periodic leaves most expirations unread for a while, so that a dump mostly finds one. */
static void periodic(int clock, int flags)
{
	struct itimerspec s = { { 0, 10000000 }, { 0, 10000000 } };
	timer = must(timerfd_create(clock, 0), "timerfd_create");
	clock_gettime(clock, &begun);
	if (flags & TFD_TIMER_ABSTIME) {
		s.it_value.tv_sec += begun.tv_sec;
	}
	must(timerfd_settime(timer, flags, &s, NULL), "timerfd_settime");
	tell(check_timer);
}

static void check_expired(void)
{
	struct pollfd p = { .fd = timer, .events = POLLIN };
	errno = 0;
	if (poll(&p, 1, 0) != 1)
		fail("the timer that has expired is not readable");
}

/* expired is a timer that has fired once and is never read. */
static void expired(void)
{
	struct itimerspec s = { { 0, 0 }, { 0, 1000000 } };
	timer = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
	must(timerfd_settime(timer, 0, &s, NULL), "timerfd_settime");
	nap();
	tell(check_expired);
}

static void check_disarmed(void)
{
	struct pollfd p = { .fd = timer, .events = POLLIN };
	errno = 0;
	if (poll(&p, 1, 0) != 0)
		fail("a timer that was never armed has fired");
}

/* disarmed is a timer with an interval that was stopped. */
static void disarmed(void)
{
	struct itimerspec s = { { 0, 10000000 }, { 0, 0 } };
	timer = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
	must(timerfd_settime(timer, 0, &s, NULL), "timerfd_settime");
	tell(check_disarmed);
}

/* Names. */

static int one, two;

static void check_pair(void)
{
	char c = 'x';
	must(write(one, &c, 1), "write");
	c = 0;
	must(read(two, &c, 1), "read");
	errno = 0;
	if (c != 'x')
		fail("another byte came");
}

static void fifo(void)
{
	if (mkfifo(argument, 0640) < 0 && errno != EEXIST)
		fail("mkfifo");
	one = must(open(argument, O_RDWR), "open the FIFO");
	two = must(open(argument, O_RDONLY), "open the FIFO");
	tell(check_pair);
}

static struct sockaddr_un name;
static socklen_t name_size;

static void check_dial(void)
{
	int s = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	must(connect(s, (struct sockaddr *)&name, name_size), "connect to the UNIX socket");
	int a = must(accept(one, NULL, NULL), "accept");
	char c = 'x';
	must(write(s, &c, 1), "write");
	must(read(a, &c, 1), "read");
	close(a);
	close(s);
}

/* listen_unix listens on a path, or on an abstract name if the argument begins with @. */
static void listen_unix(void)
{
	name.sun_family = AF_UNIX;
	strncpy(name.sun_path, argument, sizeof name.sun_path - 1);
	name_size = sizeof name.sun_family + strlen(argument);
	if (argument[0] == '@')
		name.sun_path[0] = 0;
	else
		unlink(argument);
	one = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	must(bind(one, (struct sockaddr *)&name, name_size), "bind");
	must(listen(one, 8), "listen");
	tell(check_dial);
}

/* log_to sends datagrams to a path, as syslog(3) does. */
static void check_log(void)
{
	must(send(one, "<14>a line", 10, 0), "send to the log");
}

static void log_to(void)
{
	name.sun_family = AF_UNIX;
	strncpy(name.sun_path, argument, sizeof name.sun_path - 1);
	one = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(connect(one, (struct sockaddr *)&name, sizeof name), "connect to the log");
	tell(check_log);
}

/* log_from receives such datagrams, as many as come. */
static void check_received(void)
{
	char line[64];
	while (recv(one, line, sizeof line, MSG_DONTWAIT) > 0)
		two++;
	if (argument[0] && two)
		printf("received\n");
}

static void log_from(void)
{
	name.sun_family = AF_UNIX;
	strncpy(name.sun_path, argument, sizeof name.sun_path - 1);
	unlink(argument);
	one = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(bind(one, (struct sockaddr *)&name, sizeof name), "bind");
	must(chmod(argument, 0666), "chmod"); /* as /dev/log is */
	tell(check_received);
}

/* An event that waits when the process is recorded is lost, and a restore says so: a file that nothing is told of is made once more. */
static void check_watch(void)
{
	char path[512], event[4096];
	struct pollfd p = { .fd = one, .events = POLLIN };
	snprintf(path, sizeof path, "%s/touched", argument);
	for (int attempt = 0; attempt < 2; attempt++) {
		int fd = must(open(path, O_WRONLY | O_CREAT, 0600), "touch");
		close(fd);
		unlink(path);
		errno = 0;
		if (poll(&p, 1, 5000) == 1) {
			must(read(one, event, sizeof event), "read an event");
			return;
		}
	}
	fail("nothing was told of the watched folder");
}

static void watch(void)
{
	if (mkdir(argument, 0755) < 0 && errno != EEXIST)
		fail("mkdir");
	one = must(inotify_init1(0), "inotify_init");
	must(inotify_add_watch(one, argument, IN_CREATE), "inotify_add_watch");
	tell(check_watch);
}

static void check_pty(void)
{
	char c = 0;
	must(write(one, "x\n", 2), "write to the terminal");
	do
		must(read(two, &c, 1), "read from the terminal");
	while (c != '\n');
	struct pollfd p = { .fd = one, .events = POLLIN };
	char echo[64];
	while (poll(&p, 1, 0) == 1)
		must(read(one, echo, sizeof echo), "read the echo");
}

static void pty(void)
{
	must(openpty(&one, &two, NULL, NULL, NULL), "openpty");
	tell(check_pty);
}

/* ghost holds a large file with a hole, which has no name any more. */
static void check_ghost(void)
{
	char c = 0;
	errno = 0;
	if (pread(one, &c, 1, atoll(argument) - 1) != 1 || c != 'e' || pread(one, &c, 1, 0) != 1 || c != 'b' || pread(one, &c, 1, 1 << 20) != 1 || c != 0)
		fail("the file is another one");
}

static void ghost(void)
{
	one = must(open("/srv/ghost", O_RDWR | O_CREAT | O_EXCL, 0600), "open");
	if (pwrite(one, "b", 1, 0) != 1 || pwrite(one, "e", 1, atoll(argument) - 1) != 1)
		fail("write");
	must(unlink("/srv/ghost"), "unlink");
	tell(check_ghost);
}

/* Ports. */

static struct sockaddr_in at;

static void address(void)
{
	char host[64];
	int port;
	if (sscanf(argument, "%63[^:]:%d", host, &port) != 2)
		fail(argument);
	at.sin_family = AF_INET;
	at.sin_port = htons(port);
	if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
		fail(host);
}

static void check_tcp(void)
{
	struct sockaddr_in to;
	socklen_t size = sizeof to;
	must(getsockname(one, (struct sockaddr *)&to, &size), "getsockname");
	int s = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(s, (struct sockaddr *)&to, sizeof to), "connect");
	int a = must(accept(one, NULL, NULL), "accept");
	/* The listener's side closes first and leaves a TIME-WAIT on the listening port. */
	close(a);
	close(s);
	for (int i = 0; i < 5; i++)
		nap();
}

/* serve listens on an address and port; options are for the socket. */
static void serve(int reuseaddr, int reuseport, void (*check)(void))
{
	address();
	one = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	if (reuseaddr)
		must(setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &reuseaddr, sizeof reuseaddr), "SO_REUSEADDR");
	if (reuseport)
		must(setsockopt(one, SOL_SOCKET, SO_REUSEPORT, &reuseport, sizeof reuseport), "SO_REUSEPORT");
	must(bind(one, (struct sockaddr *)&at, sizeof at), "bind");
	must(listen(one, 8), "listen");
	tell(check);
}

static void check_udp(void)
{
	struct sockaddr_in to;
	socklen_t size = sizeof to;
	char c = 'x';
	must(getsockname(one, (struct sockaddr *)&to, &size), "getsockname");
	must(sendto(one, &c, 1, 0, (struct sockaddr *)&to, sizeof to), "sendto");
	must(recv(one, &c, 1, 0), "recv");
}

/* udp has a datagram socket of a protocol, with an option if one is given. What others with its port get is not its own: then it only holds it. */
static void udp(int protocol, int option, void (*check)(void))
{
	int on = 1;
	address();
	one = must(socket(AF_INET, SOCK_DGRAM, protocol), "socket");
	if (option)
		must(setsockopt(one, SOL_SOCKET, option, &on, sizeof on), "setsockopt");
	must(bind(one, (struct sockaddr *)&at, sizeof at), "bind");
	tell(check);
}

/*
 * datagrams is one end of two datagram sockets that are connected to each other. The argument is OWN-ADDRESS:PORT>OTHER-ADDRESS:PORT. A datagram that was on its way
 * at a cut may be lost, so each end sends again until it has heard of the other.
 */
static void check_datagrams(void)
{
	struct pollfd p = { .fd = one, .events = POLLIN };
	char c = 'x';
	for (int i = 0; i < 500; i++) {
		if (send(one, &c, 1, 0) < 0 && errno != ECONNREFUSED)
			fail("send");
		if (must(poll(&p, 1, 100), "poll") == 0)
			continue;
		if (recv(one, &c, 1, 0) == 1)
			return;
		if (errno != ECONNREFUSED)
			fail("recv");
		nap(); /* it is not there yet */
	}
	fail("the other end is silent");
}

static void datagrams(void)
{
	const char *both = argument;
	address();
	one = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	must(bind(one, (struct sockaddr *)&at, sizeof at), "bind");
	argument = strchr(both, '>') + 1;
	address();
	must(connect(one, (struct sockaddr *)&at, sizeof at), "connect");
	tell(check_datagrams);
}

/* bound holds a socket that has a port, and neither listens nor is connected. */
static void check_bound(void)
{
	struct sockaddr_in now;
	socklen_t size = sizeof(now);
	must(getsockname(one, (struct sockaddr *)&now, &size), "getsockname");
	errno = 0;
	if (now.sin_port != htons(atoi(argument)))
		fail("it is bound to another port");
}

static void bound(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(argument)) };
	one = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(bind(one, (struct sockaddr *)&a, sizeof(a)), "bind");
	tell(check_bound);
}

static void queue(void)
{
	must(syscall(SYS_mq_open, "ss-object", O_RDWR | O_CREAT, 0600, NULL), "mq_open");
	tell(nothing);
}

static void packets(void)
{
	int p[2];
	must(pipe2(p, O_DIRECT), "pipe2");
	tell(nothing);
}

/* unspeakable holds a file whose name is no text. */
static void unspeakable(void)
{
	must(open("/srv/\xff\xfe", O_RDWR | O_CREAT, 0600), "open");
	tell(nothing);
}

/* lock_file locks the file or folder that the argument names, by flock(2) or, if range is its command, by fcntl(2). */
static int locked_by;

static void check_lock(void)
{
	int other = must(open(argument, O_RDONLY), "open again");
	struct flock range = { .l_type = F_WRLCK, .l_len = 10 };
	if (locked_by == 0 && flock(other, LOCK_EX | LOCK_NB) == 0)
		fail("the lock is gone");
	if (locked_by == F_OFD_SETLK && (fcntl(other, F_OFD_GETLK, &range) < 0 || range.l_type == F_UNLCK))
		fail("the lock is gone");
	close(other);
}

/* A look at a lock of the process's own would give it up: that is not checked. */
static void lock_file(int range, int write)
{
	struct flock lock = { .l_type = write ? F_WRLCK : F_RDLCK, .l_len = 10 };
	int fd = open(argument, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		fd = must(open(argument, (range && write ? O_RDWR : O_RDONLY) | O_CREAT, 0644), "open");
	locked_by = range;
	if (range)
		must(fcntl(fd, range, &lock), "fcntl");
	else
		must(flock(fd, (write ? LOCK_EX : LOCK_SH) | LOCK_NB), "flock");
	tell(range == F_SETLK ? nothing : check_lock);
}

/* lease takes a lease on the file that the argument names. */
static int leased, lease_kind;

static void check_lease(void)
{
	if (fcntl(leased, F_GETLEASE) != lease_kind)
		fail("the lease is gone");
}

static void lease(int kind)
{
	leased = must(open(argument, (kind == F_WRLCK ? O_RDWR : O_RDONLY) | O_CREAT, 0644), "open");
	must(fcntl(leased, F_SETLEASE, lease_kind = kind), "F_SETLEASE");
	tell(check_lease);
}

/* lease_gone has a lease on a file that has no name any more. */
static void lease_gone(void)
{
	leased = must(open("/srv/lease-gone", O_RDWR | O_CREAT, 0644), "open");
	must(fcntl(leased, F_SETLEASE, F_WRLCK), "F_SETLEASE");
	must(unlink("/srv/lease-gone"), "unlink");
	tell(nothing);
}

/* check_child_lock asks who has the lock that the child took. */
static void check_child_lock(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 1 };

	must(fcntl(leased, F_GETLK, &l), "F_GETLK");
	if (l.l_type != F_WRLCK || l.l_pid != child)
		fail("the child's lock is gone");
}

/* child_lock has a child that locks a part of a file by the descriptor that it has from its parent. */
static void child_lock(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10 };
	int done[2];
	char b;

	must(pipe(done), "pipe");
	leased = must(open("/srv/child-lock", O_RDWR | O_CREAT, 0644), "open");
	child = must(fork(), "fork");
	if (!child) {
		must(fcntl(leased, F_SETLK, &l), "F_SETLK");
		must(write(done[1], "x", 1), "write");
		for (;;)
			pause();
	}
	must(read(done[0], &b, 1), "read");
	close(done[0]);
	close(done[1]);
	tell(check_child_lock);
}

/* opened has that file open. */
static void opened(int flags)
{
	must(open(argument, flags | O_CREAT, 0644), "open");
	tell(nothing);
}

/* mapped has it mapped for writing, and not open. */
static void mapped(void)
{
	int fd = must(open(argument, O_RDWR | O_CREAT, 0644), "open");
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		fail("mmap");
	close(fd);
	tell(nothing);
}

static void idle(void) { tell(nothing); }

/* from_memory runs this program from a memfd. */
static void from_memory(void)
{
	static char block[65536];
	char *args[] = { "object", "idle", NULL };
	int to = must(memfd_create("program", MFD_CLOEXEC), "memfd_create"), from = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open");
	ssize_t n;

	while ((n = read(from, block, sizeof(block))) > 0)
		if (write(to, block, n) != n)
			fail("write");
	fexecve(to, args, environ);
	fail("fexecve");
}

/* path_only holds a descriptor that was opened with O_PATH. */
static void path_only(const char *path)
{
	must(open(path, O_PATH | O_NOFOLLOW), path);
	tell(nothing);
}

static void path_socket(void)
{
	struct sockaddr_un at = { AF_UNIX, "/srv/path-socket" };

	unlink(at.sun_path);
	must(bind(must(socket(AF_UNIX, SOCK_STREAM, 0), "socket"), (void *)&at, sizeof(at)), "bind");
	path_only(at.sun_path);
}

static void path_fifo(void)
{
	unlink("/srv/path-fifo");
	must(mkfifo("/srv/path-fifo", 0600), "mkfifo");
	path_only("/srv/path-fifo");
}

static void path_program(void)
{
	static char path[4096];

	must(readlink("/proc/self/exe", path, sizeof(path) - 1), "readlink");
	path_only(path);
}

/* capture has a packet socket that is bound to a device. */
static void capture(void)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(argument) };

	must(bind(must(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), "socket"), (void *)&at, sizeof(at)), "bind");
	tell(nothing);
}

static char thread_folder[64];

static void *thread(void *ready)
{
	snprintf(thread_folder, sizeof(thread_folder), "/proc/self/task/%ld", syscall(SYS_gettid));
	must(write(*(int *)ready, "x", 1), "write");
	for (;;)
		pause();
}

/* of_thread holds what is in the folder of a thread, or works there. */
static void of_thread(const char *name)
{
	int p[2];
	char c, path[128];
	pthread_t t;

	must(pipe(p), "pipe");
	if (pthread_create(&t, NULL, thread, &p[1]))
		fail("pthread_create");
	must(read(p[0], &c, 1), "read");
	if (name == NULL) {
		must(chdir(thread_folder), "chdir");
	} else {
		snprintf(path, sizeof(path), "%s/%s", thread_folder, name);
		must(open(path, O_RDONLY), path);
	}
	tell(nothing);
}

static void of_first_thread(void)
{
	must(open("/proc/thread-self/status", O_RDONLY), "open");
	tell(nothing);
}

/* few_files may open as many files as the argument says, and has opened three. */
static void few_files(void)
{
	struct rlimit most = { atoi(argument), atoi(argument) };

	closefrom(3);
	must(setrlimit(RLIMIT_NOFILE, &most), "setrlimit");
	tell(nothing);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	argument = argc > 2 ? argv[2] : "";
#define KIND(name, call) if (strcmp(kind, name) == 0) call
	KIND("idle", idle());
	KIND("pdeathsig", pdeathsig());
	KIND("pdeathsig-kill", pdeathsig_kill());
	KIND("pdeathsig-child", pdeathsig_child());
	KIND("deadline", deadline());
	KIND("fifo-policy", scheduler(SCHED_FIFO, 1));
	KIND("batch", scheduler(SCHED_BATCH, 0));
	KIND("idle-policy", scheduler(SCHED_IDLE, 0));
	KIND("memfd-write", sealed_memfd(F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW, 0, 1));
	KIND("memfd-write-private", sealed_memfd(F_SEAL_WRITE, 2, 1));
	KIND("memfd-write-closed", sealed_memfd(F_SEAL_WRITE, 0, 0));
	KIND("memfd-future", sealed_memfd(F_SEAL_FUTURE_WRITE, 1, 1));
	KIND("memfd-future-closed", sealed_memfd(F_SEAL_FUTURE_WRITE, 1, 0));
	KIND("memfd-size", sealed_memfd(F_SEAL_SHRINK | F_SEAL_GROW, 1, 1));
	KIND("memfd-size-closed", sealed_memfd(F_SEAL_SHRINK | F_SEAL_GROW, 1, 0));
	KIND("memfd-seal", sealed_memfd(F_SEAL_SHRINK | F_SEAL_SEAL, 1, 1));
	KIND("userns", unshared(CLONE_NEWUSER));
	KIND("utsns", unshared(CLONE_NEWUTS));
	KIND("netns", unshared(CLONE_NEWNET));
	KIND("netns-connected", connected_apart());
	KIND("ipcns", unshared(CLONE_NEWIPC));
	KIND("mntns", unshared(CLONE_NEWNS));
	KIND("cgroupns", unshared(CLONE_NEWCGROUP));
	KIND("timens", unshared_child(0x80));
	KIND("userns-child", unshared_child(CLONE_NEWUSER));
	KIND("utsns-child", unshared_child(CLONE_NEWUTS));
	KIND("ipcns-child", unshared_child(CLONE_NEWIPC));
	KIND("mntns-child", unshared_child(CLONE_NEWNS));
	KIND("cgroupns-child", unshared_child(CLONE_NEWCGROUP));
	KIND("timer", periodic(CLOCK_MONOTONIC, 0));
	KIND("timer-absolute", periodic(CLOCK_REALTIME, TFD_TIMER_ABSTIME));
	KIND("timer-expired", expired());
	KIND("timer-disarmed", disarmed());
	KIND("fifo", fifo());
	KIND("unix", listen_unix());
	KIND("log", log_to());
	KIND("log-daemon", log_from());
	KIND("watch", watch());
	KIND("pty", pty());
	KIND("serve", serve(0, 0, check_tcp));
	KIND("serve-reuseaddr", serve(1, 0, check_tcp));
	KIND("serve-reuseport", serve(1, 1, check_tcp));
	/* Whoever shares the port may get a client: this one has none. */
	KIND("listen-reuseport", serve(1, 1, nothing));
	KIND("udp", udp(0, 0, check_udp));
	KIND("udplite", udp(IPPROTO_UDPLITE, 0, check_udp));
	KIND("udp-reuseaddr", udp(0, SO_REUSEADDR, nothing));
	KIND("udp-reuseport", udp(0, SO_REUSEPORT, nothing));
	KIND("udp-pair", datagrams());
	KIND("bound", bound());
	KIND("ghost", ghost());
	KIND("mqueue", queue());
	KIND("packets", packets());
	KIND("unspeakable", unspeakable());
	KIND("flock", lock_file(0, 1));
	KIND("flock-shared", lock_file(0, 0));
	KIND("lockf", lock_file(F_SETLK, 1));
	KIND("lockf-shared", lock_file(F_SETLK, 0));
	KIND("ofd-lock", lock_file(F_OFD_SETLK, 1));
	KIND("lease-read", lease(F_RDLCK));
	KIND("lease-write", lease(F_WRLCK));
	KIND("lease-gone", lease_gone());
	KIND("child-lock", child_lock());
	KIND("open", (must(open(argument, O_RDONLY), argument), tell(nothing)));
	KIND("opened", opened(O_RDONLY));
	KIND("opened-writing", opened(O_RDWR));
	KIND("mapped-writing", mapped());
	KIND("from-memory", from_memory());
	KIND("path-program", path_program());
	KIND("path-socket", path_socket());
	KIND("path-fifo", path_fifo());
	KIND("path", path_only(argument));
	KIND("thread-file", of_thread("status"));
	KIND("thread-folder", of_thread(NULL));
	KIND("first-thread-file", of_first_thread());
	KIND("capture", capture());
	KIND("few-files", few_files());
	errno = EINVAL;
	fail(kind);
}
