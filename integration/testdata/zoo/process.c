// Processes, threads, signals and timers.
#include "zoo.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <ucontext.h>

static int a, b;
static pid_t child;

static pid_t idle(void) { // a child that waits for its end
	pid_t pid = must(fork(), "fork");
	if (!pid)
		for (;;)
			pause();
	return pid;
}

static void personality_make(void) { must(personality(ADDR_NO_RANDOMIZE | UNAME26), "personality"); }
static void personality_check(void) { expect(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | UNAME26), "personality is %#x", personality(0xffffffff)); }

static void subreaper_make(void) { must(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl"); }
static void subreaper_check(void) {
	int on = 0;
	expect(!prctl(PR_GET_CHILD_SUBREAPER, &on) && on, "it is not a subreaper any more");
}

// orphan: a grandchild that a subreaper has adopted.
static void orphan_make(void) {
	int p[2];
	must(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	must(pipe(p), "pipe");
	pid_t middle = must(fork(), "fork");
	if (!middle) {
		pid_t leaf = idle();
		_exit(write(p[1], &leaf, sizeof leaf) != sizeof leaf);
	}
	waitpid(middle, 0, 0);
	must(read(p[0], &child, sizeof child) - (int)sizeof child, "read");
}
static void orphan_check(void) {
	char path[50];
	if (!child)
		return;
	snprintf(path, sizeof path, "/proc/%d/status", child);
	expect(number_of(path, "PPid") == getpid(), "its parent is %d", number_of(path, "PPid"));
	subreaper_check();
	kill(child, SIGKILL);
	expect(waitpid(child, 0, 0) == child, "waitpid: %m");
	child = 0;
}

// sem_undo: what a process took of a semaphore comes back when it ends.
static void sem_undo_make(void) {
	a = must(semget(IPC_PRIVATE, 1, 0600), "semget");
	must(semctl(a, 0, SETVAL, 5), "SETVAL");
	child = must(fork(), "fork");
	if (!child) {
		struct sembuf take = {0, -3, SEM_UNDO};
		must(semop(a, &take, 1), "semop");
		for (;;)
			pause();
	}
	while (semctl(a, 0, GETVAL) != 2)
		sched_yield();
}
static void sem_undo_check(void) {
	if (!child)
		return;
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	child = 0;
	expect(semctl(a, 0, GETVAL) == 5, "the semaphore is %d", semctl(a, 0, GETVAL));
}

static void keyring_make(void) {
	must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "zoo"), "keyctl");
	must(syscall(SYS_add_key, "user", "zoo-key", "secret", 6, KEY_SPEC_SESSION_KEYRING), "add_key");
}
static void keyring_check(void) {
	char got[10];
	long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "zoo-key", 0);
	expect(key > 0 && syscall(SYS_keyctl, KEYCTL_READ, key, got, 10) == 6, "the key is gone: %m");
}

static void nice_make(void) { must(setpriority(PRIO_PROCESS, 0, 7), "setpriority"); }
static void nice_check(void) { expect(getpriority(PRIO_PROCESS, 0) == 7, "it is %d", getpriority(PRIO_PROCESS, 0)); }

static void policy(int p, int priority) {
	struct sched_param s = {priority};
	must(sched_setscheduler(0, p, &s), "sched_setscheduler");
	a = p, b = priority;
}
static void policy_check(void) {
	struct sched_param s;
	sched_getparam(0, &s);
	expect(sched_getscheduler(0) == a && s.sched_priority == b, "policy %d priority %d", sched_getscheduler(0), s.sched_priority);
}
static void fifo_policy_make(void) { policy(SCHED_FIFO, 3); }
static void rr_policy_make(void) { policy(SCHED_RR, 2); }
static void batch_policy_make(void) { policy(SCHED_BATCH, 0); }
static void idle_policy_make(void) { policy(SCHED_IDLE, 0); }
static void reset_on_fork_make(void) { policy(SCHED_RR | SCHED_RESET_ON_FORK, 2); }

static void affinity_make(void) {
	cpu_set_t s;
	CPU_ZERO(&s);
	CPU_SET(0, &s);
	must(sched_setaffinity(0, sizeof s, &s), "sched_setaffinity");
}
static void affinity_check(void) {
	cpu_set_t s;
	sched_getaffinity(0, sizeof s, &s);
	expect(CPU_COUNT(&s) == 1 && CPU_ISSET(0, &s), "%d processors", CPU_COUNT(&s));
}

static void ioprio_make(void) { must(syscall(SYS_ioprio_set, 1, 0, 3 << 13), "ioprio_set"); }
static void ioprio_check(void) { expect(syscall(SYS_ioprio_get, 1, 0) == 3 << 13, "%#lx", syscall(SYS_ioprio_get, 1, 0)); }

static void slack_make(void) { must(prctl(PR_SET_TIMERSLACK, 1234567), "prctl"); }
static void slack_check(void) { expect(prctl(PR_GET_TIMERSLACK) == 1234567, "%d", prctl(PR_GET_TIMERSLACK)); }

static void rlimit_make(void) {
	struct rlimit files = {100, 200}, core = {0, 0};
	must(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
	must(setrlimit(RLIMIT_CORE, &core), "setrlimit");
}
static void rlimit_check(void) {
	struct rlimit files, core;
	getrlimit(RLIMIT_NOFILE, &files), getrlimit(RLIMIT_CORE, &core);
	expect(files.rlim_cur == 100 && files.rlim_max == 200 && core.rlim_max == 0, "limits are others");
}

static void umask_make(void) { umask(0137); }
static void umask_check(void) {
	mode_t now = umask(0137);
	expect(now == 0137, "%#o", now);
}

static void name_make(void) { must(prctl(PR_SET_NAME, "a zoo's name"), "prctl"); }
static void name_check(void) {
	char now[16];
	prctl(PR_GET_NAME, now);
	expect(!strcmp(now, "a zoo's name"), "%s", now);
}

static void deathsig_make(void) { must(prctl(PR_SET_PDEATHSIG, SIGTERM), "prctl"); }
static void deathsig_check(void) {
	int now = 0;
	prctl(PR_GET_PDEATHSIG, &now);
	expect(now == SIGTERM, "%d", now);
}

static void dumpable_make(void) { must(prctl(PR_SET_DUMPABLE, 0), "prctl"); }
static void dumpable_check(void) { expect(prctl(PR_GET_DUMPABLE) == 0, "%d", prctl(PR_GET_DUMPABLE)); }

static void no_new_privs_make(void) { must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl"); }
static void no_new_privs_check(void) { expect(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "it is gone"); }

static void thp_make(void) { must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl"); }
static void thp_check(void) { expect(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "it is gone"); }

static void securebits_make(void) { must(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_KEEP_CAPS), "prctl"); }
static void securebits_check(void) { expect(prctl(PR_GET_SECUREBITS) == (SECBIT_NOROOT | SECBIT_KEEP_CAPS), "%#x", prctl(PR_GET_SECUREBITS)); }

static void capabilities_make(void) {
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	must(syscall(SYS_capget, &h, d), "capget");
	d[0].inheritable = 1 << CAP_NET_RAW;
	must(syscall(SYS_capset, &h, d), "capset");
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0), "ambient");
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT), "drop");
}
static void capabilities_check(void) {
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	syscall(SYS_capget, &h, d);
	expect(d[0].inheritable == 1 << CAP_NET_RAW, "inheritable %#x", d[0].inheritable);
	expect(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0) == 1, "ambient");
	expect(prctl(PR_CAPBSET_READ, CAP_SYS_BOOT) == 0, "bounding");
}

static void user_make(void) {
	gid_t groups[] = {7, 8, 9};
	must(setgroups(3, groups), "setgroups");
	must(setresgid(1001, 1002, 1003), "setresgid");
	must(setresuid(1001, 1002, 1003), "setresuid");
}
static void user_check(void) {
	uid_t r, e, s;
	gid_t groups[10];
	getresuid(&r, &e, &s);
	expect(r == 1001 && e == 1002 && s == 1003, "users %d %d %d", r, e, s);
	getresgid(&r, &e, &s);
	expect(r == 1001 && e == 1002 && s == 1003, "groups %d %d %d", r, e, s);
	expect(getgroups(10, groups) == 3 && groups[2] == 9, "supplementary groups");
}

// session: a child that leads a session and has a child in a process group of its own.
static void session_make(void) {
	int p[2];
	must(pipe(p), "pipe");
	child = must(fork(), "fork");
	if (!child) {
		setsid();
		pid_t leaf = idle();
		setpgid(leaf, leaf);
		_exit(write(p[1], &leaf, sizeof leaf) != sizeof leaf ? 1 : (pause(), 0));
	}
	must(read(p[0], &b, sizeof b), "read");
}
static void session_check(void) {
	expect(getsid(child) == child && getpgid(child) == child, "session %d, group %d", getsid(child), getpgid(child));
	expect(getsid(b) == child && getpgid(b) == b, "of its child: session %d, group %d", getsid(b), getpgid(b));
}

static void zombie_make(void) {
	child = must(fork(), "fork");
	if (!child)
		_exit(42);
	siginfo_t i;
	waitid(P_PID, child, &i, WEXITED | WNOWAIT);
}
static void zombie_check(void) {
	siginfo_t i = {0};
	expect(!waitid(P_PID, child, &i, WEXITED | WNOWAIT) && i.si_status == 42, "status %d", i.si_status);
}

static void stopped_make(void) {
	child = idle();
	kill(child, SIGSTOP);
	waitpid(child, 0, WUNTRACED);
}
static void stopped_check(void) {
	char path[50], line[300], state;
	snprintf(path, sizeof path, "/proc/%d/stat", child);
	FILE *f = fopen(path, "r");
	expect(f && fgets(line, sizeof line, f) && sscanf(line, "%*d (%*[^)]) %c", &state) == 1 && state == 'T', "it is not stopped");
	if (f)
		fclose(f);
}

// pending: signals that are blocked and queued, with values.
static void pending_make(void) {
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 3), sigaddset(&s, SIGHUP);
	sigprocmask(SIG_BLOCK, &s, 0);
	for (int i = 0; i < 3; i++)
		must(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 100 + i}), "sigqueue");
	kill(getpid(), SIGHUP);
}
static void pending_check(void) {
	static int done;
	sigset_t s;
	siginfo_t i;
	struct timespec none = {0};
	if (done++)
		return;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 3);
	for (int n = 0; n < 3; n++)
		expect(sigtimedwait(&s, &i, &none) > 0 && i.si_value.sival_int == 100 + n, "signal %d", n);
	sigpending(&s);
	expect(sigismember(&s, SIGHUP), "SIGHUP is gone");
}

static volatile sig_atomic_t handled;
static char alternate[1 << 16];
static void on_signal(int sig) {
	char here;
	handled = &here >= alternate && &here < alternate + sizeof alternate ? sig : -1;
}
// handler: a handler with flags and mask that runs on a stack of its own.
static void handler_make(void) {
	stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};
	struct sigaction h = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART | SA_NODEFER};
	sigaddset(&h.sa_mask, SIGUSR2);
	must(sigaltstack(&s, 0), "sigaltstack");
	must(sigaction(SIGRTMIN + 1, &h, 0), "sigaction");
	signal(SIGPIPE, SIG_IGN);
}
static void handler_check(void) {
	struct sigaction h;
	sigaction(SIGRTMIN + 1, 0, &h);
	expect((h.sa_flags & ~0x04000000) == (SA_ONSTACK | SA_RESTART | SA_NODEFER) && sigismember(&h.sa_mask, SIGUSR2), "flags %#x", h.sa_flags);
	sigaction(SIGPIPE, 0, &h);
	expect(h.sa_handler == SIG_IGN, "SIGPIPE is not ignored any more");
	handled = 0;
	raise(SIGRTMIN + 1);
	expect(handled == SIGRTMIN + 1, "it ran on another stack: %d", handled);
}

static void signalfd_make(void) {
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN + 2);
	sigprocmask(SIG_BLOCK, &s, 0);
	a = must(signalfd(-1, &s, SFD_NONBLOCK), "signalfd");
}
static void signalfd_check(void) {
	struct signalfd_siginfo i;
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 9});
	expect(read(a, &i, sizeof i) == sizeof i && i.ssi_int == 9, "read: %m");
}

static void timerfd(int clock, int flags, struct itimerspec t) {
	a = must(timerfd_create(clock, TFD_NONBLOCK), "timerfd");
	must(timerfd_settime(a, flags, &t, 0), "settime");
}
// The intervals are long: that the timer runs and has its interval is what counts.
static void timerfd_check(void) {
	struct itimerspec t = {0};
	expect(!timerfd_gettime(a, &t) && t.it_interval.tv_sec == 3000 && t.it_value.tv_sec > 2000 && t.it_value.tv_sec <= 4000, "%ld every %ld s", t.it_value.tv_sec,
	       t.it_interval.tv_sec);
}
static void timerfd_monotonic_make(void) { timerfd(CLOCK_MONOTONIC, 0, (struct itimerspec){{3000}, {3500}}); }
static void timerfd_boottime_make(void) { timerfd(CLOCK_BOOTTIME, 0, (struct itimerspec){{3000}, {3500}}); }
static void timerfd_realtime_make(void) { timerfd(CLOCK_REALTIME, TFD_TIMER_ABSTIME, (struct itimerspec){{3000}, {time(0) + 3500}}); }

static timer_t timer;
static void posix_timer_make(void) {
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4, .sigev_value.sival_int = 5};
	struct itimerspec t = {{3000}, {3500}};
	must(timer_create(CLOCK_MONOTONIC, &e, &timer), "timer_create");
	must(timer_settime(timer, 0, &t, 0), "settime");
}
static void posix_timer_check(void) {
	struct itimerspec t = {0};
	expect(!timer_gettime(timer, &t) && t.it_interval.tv_sec == 3000 && t.it_value.tv_sec > 2000, "%ld every %ld s", t.it_value.tv_sec, t.it_interval.tv_sec);
}
static void itimer_make(void) {
	struct itimerval t = {{3000}, {3500}};
	must(setitimer(ITIMER_REAL, &t, 0), "setitimer");
	must(setitimer(ITIMER_PROF, &t, 0), "setitimer");
}
static void itimer_check(void) {
	struct itimerval t;
	for (int kind = 0; kind < 3; kind += 2) {
		getitimer(kind, &t);
		expect(t.it_interval.tv_sec == 3000 && t.it_value.tv_sec > 2000, "timer %d: %ld every %ld s", kind, t.it_value.tv_sec, t.it_interval.tv_sec);
	}
}

static void *sleeper(void *arg) {
	prctl(PR_SET_NAME, arg);
	for (;;)
		pause();
	return 0;
}
static void threads_make(void) {
	pthread_t t;
	for (int i = 0; i < 3; i++)
		must(-pthread_create(&t, 0, sleeper, i == 1 ? "second" : "other"), "pthread_create");
	usleep(1000);
}
static void threads_check(void) { expect(number_of("/proc/self/status", "Threads") == 4, "%d threads", number_of("/proc/self/status", "Threads")); }

static pthread_mutex_t robust;
static void *dies(void *arg) {
	pthread_mutex_lock(&robust);
	a = 1;
	while (a != 2)
		usleep(1000);
	return arg;
}
// robust: a thread that holds a mutex ends after the restore, and the next owner is told.
static pthread_t holder;
static void robust_make(void) {
	pthread_mutexattr_t at;
	pthread_mutexattr_init(&at), pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &at);
	pthread_create(&holder, 0, dies, 0);
	while (a != 1)
		usleep(1000);
}
static void robust_check(void) {
	if (a != 1)
		return;
	a = 2;
	pthread_join(holder, 0);
	expect(pthread_mutex_lock(&robust) == EOWNERDEAD, "nobody told that its owner ended");
}

static void pidfd_make(void) {
	child = idle();
	a = must(syscall(SYS_pidfd_open, child, 0), "pidfd_open");
}
static void pidfd_check(void) { expect(!syscall(SYS_pidfd_send_signal, a, 0, 0, 0), "pidfd_send_signal: %m"); }

const struct mode process_modes[] = {
	{"personality", personality_make, personality_check}, {"subreaper", subreaper_make, subreaper_check}, {"orphan", orphan_make, orphan_check},
	{"sem_undo", sem_undo_make, sem_undo_check}, {"keyring", keyring_make, keyring_check}, {"nice", nice_make, nice_check},
	{"fifo_policy", fifo_policy_make, policy_check}, {"rr_policy", rr_policy_make, policy_check}, {"batch_policy", batch_policy_make, policy_check},
	{"idle_policy", idle_policy_make, policy_check}, {"reset_on_fork", reset_on_fork_make, policy_check}, {"affinity", affinity_make, affinity_check},
	{"ioprio", ioprio_make, ioprio_check}, {"slack", slack_make, slack_check}, {"rlimit", rlimit_make, rlimit_check}, {"umask", umask_make, umask_check},
	{"name", name_make, name_check}, {"deathsig", deathsig_make, deathsig_check}, {"dumpable", dumpable_make, dumpable_check},
	{"no_new_privs", no_new_privs_make, no_new_privs_check}, {"thp", thp_make, thp_check}, {"securebits", securebits_make, securebits_check},
	{"capabilities", capabilities_make, capabilities_check}, {"user", user_make, user_check}, {"session", session_make, session_check},
	{"zombie", zombie_make, zombie_check}, {"stopped", stopped_make, stopped_check}, {"pending", pending_make, pending_check},
	{"handler", handler_make, handler_check}, {"signalfd", signalfd_make, signalfd_check}, {"timerfd_monotonic", timerfd_monotonic_make, timerfd_check},
	{"timerfd_boottime", timerfd_boottime_make, timerfd_check}, {"timerfd_realtime", timerfd_realtime_make, timerfd_check},
	{"posix_timer", posix_timer_make, posix_timer_check}, {"itimer", itimer_make, itimer_check}, {"threads", threads_make, threads_check},
	{"robust", robust_make, robust_check}, {"pidfd", pidfd_make, pidfd_check}, {0},
};
