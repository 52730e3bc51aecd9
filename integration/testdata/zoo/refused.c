// What cannot be recorded: each is to be refused before the freeze.
#include "zoo.h"
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <netinet/udp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <mqueue.h>

static int a, b, c;

static void udp_cork(void) {
	struct sockaddr_in to = loopback(7450);
	a = bound(SOCK_DGRAM, 7451);
	must(connect(a, (void *)&to, sizeof to), "connect");
	set(a, IPPROTO_UDP, UDP_CORK, 1);
	must(send(a, "half", 4, 0), "send");
}

static void epoll_closed(void) { // what it watches only a child has open
	a = must(epoll_create1(0), "epoll");
	b = must(eventfd(0, 0), "eventfd");
	struct epoll_event e = {EPOLLIN, {.u64 = 7}};
	must(epoll_ctl(a, EPOLL_CTL_ADD, b, &e), "epoll_ctl");
	if (!must(fork(), "fork")) {
		close(a);
		for (;;)
			pause();
	}
	close(b);
}

static void netlink_unread(void) {
	struct { struct nlmsghdr h; struct rtgenmsg m; } ask = {{sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
	a = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
	must(send(a, &ask, sizeof ask, 0), "send");
}

static void oob_inline(void) {
	struct sockaddr_in at = loopback(7452);
	struct pollfd p;
	c = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	set(c, SOL_SOCKET, SO_REUSEADDR, 1);
	set(c, SOL_SOCKET, SO_OOBINLINE, 1);
	must(bind(c, (void *)&at, sizeof at), "bind");
	must(listen(c, 1), "listen");
	a = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(a, (void *)&at, sizeof at), "connect");
	b = must(accept(c, 0, 0), "accept");
	must(send(a, "!", 1, MSG_OOB), "send");
	p = (struct pollfd){b, POLLPRI, 0};
	must(poll(&p, 1, 5000), "poll");
}

static void packet_pipe(void) {
	int p[2];
	must(pipe2(p, O_DIRECT), "pipe");
}

static void apart(int flags) { // a child with a namespace of its own
	int p[2];
	char byte;
	must(pipe(p), "pipe");
	if (!must(fork(), "fork")) {
		must(unshare(flags), "unshare");
		if ((flags == CLONE_NEWTIME || flags == CLONE_NEWPID) && !must(fork(), "fork"))
			pause();
		if (write(p[1], "r", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	must(read(p[0], &byte, 1) - 1, "read");
}
static void own_uts(void) { apart(CLONE_NEWUTS); }
static void own_time(void) { apart(CLONE_NEWTIME); }
static void own_net(void) { apart(CLONE_NEWNET); }
static void own_ipc(void) { apart(CLONE_NEWIPC); }
static void own_mount(void) { apart(CLONE_NEWNS); }
static void own_cgroup(void) { apart(CLONE_NEWCGROUP); }
static void own_user(void) { apart(CLONE_NEWUSER); }
static void own_pid(void) { apart(CLONE_NEWPID); }

static char stack[1 << 16];
static int waits(void *arg) {
	for (;;)
		pause();
	return arg != 0;
}
static void clone_vm(void) { must(clone(waits, stack + sizeof stack, CLONE_VM | SIGCHLD, 0), "clone"); }
static void clone_fs(void) { must(clone(waits, stack + sizeof stack, CLONE_FS | SIGCHLD, 0), "clone"); }

static void bpf_map(void) {
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 4};
	a = must(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), "bpf");
}

static void bpf_mapped(void) {
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 512, .map_flags = BPF_F_MMAPABLE};
	int map = must(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), "bpf");
	if (mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0) == MAP_FAILED)
		must(-1, "mmap");
	close(map);
}

static void bpf_prog(void) {
	struct bpf_insn code[] = {{.code = 0xb7}, {.code = 0x95}}; // r0 = 0; exit
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = 2, .license = (uintptr_t) "GPL"};
	a = must(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr), "bpf");
}

static void secret_memory(void) {
	a = must(syscall(SYS_memfd_secret, 0), "memfd_secret");
	must(ftruncate(a, 4096), "ftruncate");
	char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	p[0] = 1;
}

static void tcp_in_flight(void) {
	int s[2];
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct sockaddr_in at = loopback(7453);
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	c = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	set(c, SOL_SOCKET, SO_REUSEADDR, 1);
	must(bind(c, (void *)&at, sizeof at), "bind");
	must(listen(c, 1), "listen");
	a = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(a, (void *)&at, sizeof at), "connect");
	b = must(accept(c, 0, 0), "accept");
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof b);
	memcpy(CMSG_DATA(h), &b, sizeof b);
	must(sendmsg(s[0], &m, 0), "sendmsg");
	close(b);
}

static void append_only(void) {
	int flags;
	a = must(open(in_folder("log"), O_WRONLY | O_CREAT | O_APPEND, 0644), "open");
	must(ioctl(a, FS_IOC_GETFLAGS, &flags), "GETFLAGS");
	flags |= FS_APPEND_FL;
	must(ioctl(a, FS_IOC_SETFLAGS, &flags), "SETFLAGS");
	must(write(a, "line\n", 5), "write");
}

static void message_queue(void) { must(mq_open("/zoo", O_RDWR | O_CREAT, 0600, 0), "mq_open"); }
static void vsock(void) { must(socket(40, SOCK_STREAM, 0), "socket"); }
static void mptcp(void) { must(socket(AF_INET, SOCK_STREAM, 262), "socket"); }
static void io_uring(void) {
	char params[120] = {0};
	a = must(syscall(425, 8, params), "io_uring_setup");
}
static void perf(void) {
	struct perf_event_attr at = {.type = PERF_TYPE_SOFTWARE, .size = sizeof at, .config = PERF_COUNT_SW_CPU_CLOCK};
	a = must(syscall(SYS_perf_event_open, &at, 0, -1, -1, 0), "perf_event_open");
}
static void uffd(void) {
	struct uffdio_api api = {.api = UFFD_API};
	a = must(syscall(SYS_userfaultfd, 0), "userfaultfd");
	must(ioctl(a, UFFDIO_API, &api), "UFFDIO_API");
}
static void device(void) { a = must(open("/dev/kmsg", O_RDONLY), "open"); }
static void tty_master_closed(void) {
	a = must(open("/dev/ptmx", O_RDWR | O_NOCTTY), "ptmx");
	int unlock = 0, n;
	ioctl(a, TIOCSPTLCK, &unlock);
	ioctl(a, TIOCGPTN, &n);
	char path[30];
	snprintf(path, sizeof path, "/dev/pts/%d", n);
	b = must(open(path, O_RDWR | O_NOCTTY), "open");
	close(a);
}
static void mount_fd(void) { a = must(syscall(430, "tmpfs", 0), "fsopen"); }
static void own_mounts(void) {
	mkdir(in_folder("mnt"), 0755);
	must(mount("zoo", in_folder("mnt"), "tmpfs", 0, 0), "mount");
}
static void landlock_ruleset(void) {
	struct landlock_ruleset_attr at = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_DIR};
	a = must(syscall(444, &at, sizeof at, 0), "landlock_create_ruleset");
}
static int at_path(int type, const char *name, int (*call)(int, const struct sockaddr *, socklen_t)) {
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	snprintf(u.sun_path, sizeof u.sun_path, "%s", in_folder(name));
	int fd = must(socket(AF_UNIX, type, 0), "socket");
	must(call(fd, (void *)&u, sizeof u), name);
	return fd;
}

static void unix_empty(void) { // an empty datagram waits
	int s[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), "socketpair");
	must(send(s[0], "", 0, 0), "send");
	must(send(s[0], "behind", 6, 0), "send");
}

static void unix_unaccepted(void) { // its other end is closed
	a = at_path(SOCK_STREAM, "socket", bind);
	must(listen(a, 5), "listen");
	close(at_path(SOCK_STREAM, "socket", connect));
}

static void unix_cred_unread(void) { // the kernel tells who has sent what waits
	int s[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), "socketpair");
	set(s[1], SOL_SOCKET, SO_PASSCRED, 1);
	must(send(s[0], "x", 1, 0), "send");
}

static void tcp_signed(void) { // it takes no connection without the key
	struct sockaddr_in at = loopback(7446), other = loopback(0);
	struct tcp_md5sig key = {.tcpm_keylen = 3, .tcpm_key = "key"};
	memcpy(&key.tcpm_addr, &other, sizeof other);
	a = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	set(a, SOL_SOCKET, SO_REUSEADDR, 1);
	must(setsockopt(a, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key), "TCP_MD5SIG");
	must(bind(a, (void *)&at, sizeof at), "bind");
	must(listen(a, 1), "listen");
}

const struct mode refused_modes[] = {
	{"udp_cork", udp_cork}, {"epoll_closed", epoll_closed}, {"netlink_unread", netlink_unread}, {"oob_inline", oob_inline}, {"packet_pipe", packet_pipe},
	{"own_uts", own_uts}, {"own_time", own_time}, {"own_net", own_net}, {"own_ipc", own_ipc}, {"own_mount", own_mount}, {"own_cgroup", own_cgroup},
	{"own_user", own_user}, {"own_pid", own_pid}, {"clone_vm", clone_vm}, {"clone_fs", clone_fs}, {"bpf_map", bpf_map}, {"bpf_mapped", bpf_mapped},
	{"bpf_prog", bpf_prog}, {"secret_memory", secret_memory}, {"tcp_in_flight", tcp_in_flight}, {"append_only", append_only}, {"message_queue", message_queue},
	{"vsock", vsock}, {"mptcp", mptcp}, {"io_uring", io_uring}, {"perf", perf}, {"uffd", uffd}, {"device", device},
	{"tty_master_closed", tty_master_closed}, {"mount_fd", mount_fd}, {"own_mounts", own_mounts}, {"landlock_ruleset", landlock_ruleset},
	{"unix_empty", unix_empty}, {"unix_unaccepted", unix_unaccepted}, {"unix_cred_unread", unix_cred_unread}, {"tcp_signed", tcp_signed}, {0},
};
