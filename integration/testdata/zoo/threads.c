// What one thread has of its own, and what is said of a process with prctl.
#include "zoo.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>

static int a;
static sem_t made, asked, answered;
static int (*verify)(void);
static void (*prepare)(void);
static int verdict;
static pid_t child, tid;

static void *own(void *arg) {
	tid = gettid();
	prepare();
	sem_post(&made);
	for (;;) {
		while (sem_wait(&asked))
			;
		verdict = verify();
		sem_post(&answered);
	}
	return arg;
}
// thread starts a thread that prepares something of its own, and says later whether it still has it.
static void thread(void (*make)(void), int (*ok)(void)) {
	pthread_t t;
	prepare = make, verify = ok;
	must(-pthread_create(&t, 0, own, 0), "pthread_create");
	while (sem_wait(&made))
		;
}
static void thread_check(void) {
	sem_post(&asked);
	while (sem_wait(&answered))
		;
	expect(verdict, "the thread has it no more");
}
#define THREAD(name) \
	static void name##_make(void) { thread(name##_set, name##_ok); }

static void thread_affinity_set(void) {
	cpu_set_t s;
	CPU_ZERO(&s);
	CPU_SET(0, &s);
	must(sched_setaffinity(0, sizeof s, &s), "sched_setaffinity");
}
static int thread_affinity_ok(void) {
	cpu_set_t s;
	return !sched_getaffinity(0, sizeof s, &s) && CPU_COUNT(&s) == 1;
}
THREAD(thread_affinity)

static void thread_policy_set(void) {
	struct sched_param p = {4};
	must(sched_setscheduler(0, SCHED_RR, &p), "sched_setscheduler");
}
static int thread_policy_ok(void) { return sched_getscheduler(0) == SCHED_RR; }
THREAD(thread_policy)

static void thread_nice_set(void) { must(setpriority(PRIO_PROCESS, gettid(), 11), "setpriority"); }
static int thread_nice_ok(void) { return getpriority(PRIO_PROCESS, gettid()) == 11 && getpriority(PRIO_PROCESS, getpid()) == 0; }
THREAD(thread_nice)

static void thread_slack_set(void) { must(prctl(PR_SET_TIMERSLACK, 7654321), "prctl"); }
static int thread_slack_ok(void) { return prctl(PR_GET_TIMERSLACK) == 7654321; }
THREAD(thread_slack)

static void thread_ioprio_set(void) { must(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5), "ioprio_set"); }
static int thread_ioprio_ok(void) { return syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 5); }
THREAD(thread_ioprio)

static void thread_mask_set(void) {
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGWINCH);
	pthread_sigmask(SIG_BLOCK, &s, 0);
}
static int thread_mask_ok(void) {
	sigset_t s;
	pthread_sigmask(SIG_BLOCK, 0, &s);
	return sigismember(&s, SIGWINCH) && !sigismember(&s, SIGHUP);
}
THREAD(thread_mask)

static char ground[1 << 15];
static void thread_altstack_set(void) {
	stack_t s = {.ss_sp = ground, .ss_size = sizeof ground};
	must(sigaltstack(&s, 0), "sigaltstack");
}
static int thread_altstack_ok(void) {
	stack_t s;
	return !sigaltstack(0, &s) && s.ss_sp == ground;
}
THREAD(thread_altstack)

static void thread_name_set(void) { must(prctl(PR_SET_NAME, "one of them"), "prctl"); }
static int thread_name_ok(void) {
	char now[16];
	return !prctl(PR_GET_NAME, now) && !strcmp(now, "one of them");
}
THREAD(thread_name)

static _Thread_local long local;
static void thread_storage_set(void) { local = 0x1234567890; }
static int thread_storage_ok(void) { return local == 0x1234567890; }
THREAD(thread_storage)

// A signal that waits for one thread, with its value.
static void thread_pending_set(void) {
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 6);
	pthread_sigmask(SIG_BLOCK, &s, 0);
	must(-pthread_sigqueue(pthread_self(), SIGRTMIN + 6, (union sigval){.sival_int = 66}), "pthread_sigqueue");
}
static int thread_pending_ok(void) {
	static int had;
	sigset_t s;
	siginfo_t i;
	struct timespec none = {0};
	if (had++)
		return 1;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 6);
	return sigtimedwait(&s, &i, &none) > 0 && i.si_value.sival_int == 66;
}
THREAD(thread_pending)

// The system calls change the credentials of one thread, where the C library would change those of all.
static void thread_user_set(void) { must(syscall(SYS_setresuid, 0, 1234, 0), "setresuid"); }
static int thread_user_ok(void) {
	uid_t r, e, s;
	syscall(SYS_getresuid, &r, &e, &s);
	return r == 0 && e == 1234 && s == 0;
}
THREAD(thread_user)

static void thread_caps_set(void) {
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	must(syscall(SYS_capget, &h, d), "capget");
	d[0].effective &= ~(1 << CAP_CHOWN);
	must(syscall(SYS_capset, &h, d), "capset");
}
static int thread_caps_ok(void) {
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	return !syscall(SYS_capget, &h, d) && !(d[0].effective & 1 << CAP_CHOWN) && d[0].permitted & 1 << CAP_CHOWN;
}
THREAD(thread_caps)

static timer_t timer;
static void thread_timer_set(void) {
	struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 7};
	struct itimerspec t = {{3000}, {3500}};
	e._sigev_un._tid = gettid();
	must(timer_create(CLOCK_MONOTONIC, &e, &timer), "timer_create");
	must(timer_settime(timer, 0, &t, 0), "settime");
}
static int thread_timer_ok(void) {
	struct itimerspec t = {{0}, {0, 1000}}, was;
	sigset_t s;
	siginfo_t i;
	struct timespec soon = {5, 0};
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 7);
	pthread_sigmask(SIG_BLOCK, &s, 0);
	if (timer_settime(timer, 0, &t, &was) || was.it_interval.tv_sec != 3000 || sigtimedwait(&s, &i, &soon) < 0)
		return 0;
	t = (struct itimerspec){{3000}, {3500}};
	return !timer_settime(timer, 0, &t, 0);
}
THREAD(thread_timer)

static void refuse(unsigned int number) { // the thread's calls of one kind fail with EDOM
	struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
				  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog p = {sizeof f / sizeof *f, f};
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "NO_NEW_PRIVS");
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p), "seccomp");
}
static int refused(void) { return syscall(SYS_getpriority, 0, 0) == -1 && errno == EDOM; }
static void seccomp_make(void) { refuse(SYS_getpriority); }
static void seccomp_check(void) { expect(refused(), "the filter is gone"); }
static void thread_seccomp_set(void) { refuse(SYS_getpriority); }
static int thread_seccomp_ok(void) { return refused(); }
THREAD(thread_seccomp)

// Registers of vectors, while the thread waits in a system call.
static int word, flagged;
static void *counts(void *arg) {
	unsigned char in[32], out[32];
	for (int i = 0; i < 32; i++)
		in[i] = i * 7;
	a = 1;
	for (;;) {
		long r = SYS_futex;
		register long r10 asm("r10") = 0;
		asm volatile("vmovdqu (%1), %%ymm9\n syscall\n vmovdqu %%ymm9, (%2)"
			     : "+a"(r)
			     : "r"(in), "r"(out), "D"(&word), "S"((long)FUTEX_WAIT), "d"(0L), "r"(r10)
			     : "rcx", "r11", "xmm9", "memory");
		flagged = !memcmp(in, out, 32) ? 1 : 2;
		sem_post(&answered);
		while (sem_wait(&asked))
			;
	}
	return arg;
}
static void registers_make(void) {
	pthread_t t;
	must(-pthread_create(&t, 0, counts, 0), "pthread_create");
	while (*(volatile int *)&a != 1)
		usleep(500);
}
static void registers_check(void) {
	flagged = 0;
	while (syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0) != 1)
		usleep(500);
	while (sem_wait(&answered))
		;
	expect(flagged == 1, "they have other values");
	sem_post(&asked);
}

// A thread with its own working folder, descriptors, or network.
static void nothing(void) {}
static int something(void) { return 1; }
static void apart(int flags) {
	a = flags;
	must(unshare(a), "unshare");
}
static void thread_fs_set(void) { apart(CLONE_FS); }
static void thread_fs_make(void) { thread(thread_fs_set, something); }
static void thread_files_set(void) { apart(CLONE_FILES); }
static void thread_files_make(void) { thread(thread_files_set, something); }
static void thread_net_set(void) { apart(CLONE_NEWNET); }
static void thread_net_make(void) { thread(thread_net_set, something); }
static void thread_uts_set(void) { apart(CLONE_NEWUTS); }
static void thread_uts_make(void) { thread(thread_uts_set, something); }

// leader_gone: the first thread has ended, and another one goes on.
static void leader_gone_make(void) {
	pid_t p = must(fork(), "fork");
	if (!p) {
		thread(nothing, something);
		pthread_exit(0);
	}
	char path[50], line[300], state = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", p);
	while (state != 'Z') {
		FILE *f = fopen(path, "r");
		if (f && fgets(line, sizeof line, f))
			sscanf(line, "%*d (%*[^)]) %c", &state);
		if (f)
			fclose(f);
	}
}

// files_shared: two processes with one table of descriptors.
static char stack[1 << 16];
static volatile int *shared;
static int opens(void *arg) {
	for (;; usleep(500))
		if (*shared == -1)
			*shared = dup(0);
	return arg != 0;
}
static void clone_files_make(void) {
	shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(clone(opens, stack + sizeof stack, CLONE_FILES | SIGCHLD, 0), "clone");
}
static void clone_files_check(void) {
	*shared = -1;
	for (int i = 0; i < 10000 && *shared == -1; i++)
		usleep(500);
	expect(*shared >= 0 && fcntl(*shared, F_GETFD) >= 0, "what the child opens is not here");
	close(*shared);
}

static int waits(void *arg) {
	for (;;)
		pause();
	return arg != 0;
}
static void exit_signal_make(void) { child = must(clone(waits, stack + sizeof stack, SIGUSR2, 0), "clone"); }
static void exit_signal_check(void) {
	sigset_t s;
	siginfo_t i;
	struct timespec soon = {5, 0};
	if (!child)
		return;
	sigemptyset(&s), sigaddset(&s, SIGUSR2);
	sigprocmask(SIG_BLOCK, &s, 0);
	kill(child, SIGKILL);
	expect(sigtimedwait(&s, &i, &soon) == SIGUSR2, "its end is told by another signal");
	waitpid(child, 0, __WALL);
	child = 0;
}

static void vforked_make(void) {
	pthread_t t;
	must(-pthread_create(&t, 0, (void *(*)(void *))(void (*)(void))waits, 0), "pthread_create");
	must(clone(waits, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | SIGCHLD, 0), "clone");
}
static void traced_make(void) {
	child = must(fork(), "fork");
	if (!child)
		waits(0);
	must(ptrace(PTRACE_SEIZE, child, 0, 0), "PTRACE_SEIZE");
}

// What prctl(2) sets and nobody asks for often.
#define PRCTL(name, set, get, value) \
	static void name##_make(void) { must(prctl(set, value, 0, 0, 0), #set); } \
	static void name##_check(void) { expect(prctl(get, 0, 0, 0, 0) == value, "it is %d", prctl(get, 0, 0, 0, 0)); }
PRCTL(mdwe, 65, 66, 1)
static void mce_kill_make(void) { must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0), "PR_MCE_KILL"); }
static void mce_kill_check(void) { expect(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY, "it is %d", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)); }

static void landlock_make(void) {
	struct landlock_ruleset_attr at = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_DIR};
	int rules = must(syscall(444, &at, sizeof at, 0), "landlock_create_ruleset");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "NO_NEW_PRIVS");
	must(syscall(446, rules, 0), "landlock_restrict_self");
	close(rules);
}
static void landlock_check(void) { expect(mkdir(in_folder("forbidden"), 0755) < 0 && errno == EACCES, "it may make folders"); }

static void write_to(const char *path, const char *text) {
	int fd = must(open(path, O_WRONLY), path);
	must(write(fd, text, strlen(text)), path);
	close(fd);
}
static void oom_make(void) { write_to("/proc/self/oom_score_adj", "321"); }
static void oom_check(void) {
	char got[10] = {0};
	int fd = open("/proc/self/oom_score_adj", O_RDONLY);
	expect(read(fd, got, 9) > 0 && atoi(got) == 321, "it is %s", got);
	close(fd);
}
static void core_filter_make(void) { write_to("/proc/self/coredump_filter", "0x5a"); }
static void core_filter_check(void) {
	char got[20] = {0};
	int fd = open("/proc/self/coredump_filter", O_RDONLY);
	expect(read(fd, got, 19) > 0 && strtol(got, 0, 16) == 0x5a, "it is %s", got);
	close(fd);
}
// cpu_time: what a process has used of the processor.
static void cpu_time_make(void) {
	struct timespec t = {0};
	while (t.tv_nsec < 300000000)
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
}
static void cpu_time_check(void) {
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	expect(t.tv_sec || t.tv_nsec >= 300000000, "it has used %ld ns", t.tv_nsec);
}
static void cpu_timer_make(void) {
	struct sigevent e = {.sigev_notify = SIGEV_NONE};
	struct itimerspec t = {{3000}, {3500}};
	must(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &timer), "timer_create");
	must(timer_settime(timer, 0, &t, 0), "settime");
}
static void cpu_timer_check(void) {
	struct itimerspec t = {0};
	expect(!timer_gettime(timer, &t) && t.it_interval.tv_sec == 3000 && t.it_value.tv_sec > 2000, "%ld every %ld s", t.it_value.tv_sec, t.it_interval.tv_sec);
}
// group: a process group whose first process has ended; a session likewise.
static pid_t left(pid_t (*lead)(void), pid_t *leader) {
	int p[2];
	pid_t pids[2];
	must(pipe(p), "pipe");
	pid_t first = must(fork(), "fork");
	if (!first) {
		lead();
		pids[0] = getpid();
		if (!(pids[1] = fork()))
			waits(0);
		_exit(write(p[1], pids, sizeof pids) != sizeof pids);
	}
	must(read(p[0], pids, sizeof pids) - (int)sizeof pids, "read");
	close(p[0]), close(p[1]);
	waitpid(first, 0, 0);
	*leader = pids[0];
	return pids[1];
}
static pid_t leader;
static pid_t lead_group(void) { return setpgid(0, 0); }
static void group_make(void) {
	must(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	child = left(lead_group, &leader);
}
static void group_check(void) { expect(getpgid(child) == leader, "its group is %d", getpgid(child)); }
static void led_session_make(void) {
	must(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	child = left(setsid, &leader);
}
static void adopted_session_make(void) { // the member's first process adopts a child whose session's leader lives
	must(setsid(), "setsid");
	pid_t between = must(fork(), "fork");
	if (!between) {
		if (!must(fork(), "fork"))
			for (;;)
				pause();
		_exit(0);
	}
	must(waitpid(between, 0, 0), "waitpid");
}
static void led_session_check(void) { expect(getsid(child) == leader, "its session is %d", getsid(child)); }

const struct mode thread_modes[] = {
	{"thread_affinity", thread_affinity_make, thread_check}, {"thread_policy", thread_policy_make, thread_check}, {"thread_nice", thread_nice_make, thread_check},
	{"thread_slack", thread_slack_make, thread_check}, {"thread_ioprio", thread_ioprio_make, thread_check}, {"thread_mask", thread_mask_make, thread_check},
	{"thread_altstack", thread_altstack_make, thread_check}, {"thread_name", thread_name_make, thread_check}, {"thread_storage", thread_storage_make, thread_check},
	{"thread_pending", thread_pending_make, thread_check}, {"thread_user", thread_user_make, thread_check}, {"thread_caps", thread_caps_make, thread_check},
	{"thread_timer", thread_timer_make, thread_check}, {"thread_seccomp", thread_seccomp_make, thread_check}, {"seccomp", seccomp_make, seccomp_check},
	{"registers", registers_make, registers_check}, {"thread_fs", thread_fs_make}, {"thread_files", thread_files_make}, {"thread_net", thread_net_make},
	{"thread_uts", thread_uts_make}, {"leader_gone", leader_gone_make}, {"clone_files", clone_files_make, clone_files_check},
	{"exit_signal", exit_signal_make, exit_signal_check}, {"clone_sighand", vforked_make}, {"traced", traced_make}, {"mdwe", mdwe_make, mdwe_check},
	{"mce_kill", mce_kill_make, mce_kill_check}, {"landlock", landlock_make, landlock_check},
	{"oom", oom_make, oom_check}, {"core_filter", core_filter_make, core_filter_check}, {"cpu_time", cpu_time_make, cpu_time_check},
	{"cpu_timer", cpu_timer_make, cpu_timer_check}, {"group", group_make, group_check}, {"led_session", led_session_make, led_session_check},
	{"adopted_session", adopted_session_make}, {0},
};
