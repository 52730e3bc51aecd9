// storm LOG: does all at once what an injection might disturb, and checks it. For each second of it a line "check N" is written to LOG; "BAD ..." and the end
// where something is not as it must be.
//
// Threads: one counts in registers alone, one sleeps with and without a rest, one waits with another signal mask (ppoll), one takes signals of a timer, one
// starts programs by vfork and by fork. Children replace themselves by this program over and over ("chain"), and one is stopped and continued.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int out;
static volatile uint64_t alarms;
static int pipefd[2], quiet[2];

static void say(const char *fmt, long a, long b) { char l[256]; int n = snprintf(l, sizeof l, fmt, a, b); if (write(out, l, n) != n) _exit(9); }
static void bad(const char *what, long a) { char l[256]; int n = snprintf(l, sizeof l, "BAD %s: %ld, errno %d\n", what, a, errno); if (write(out, l, n) < 0) {} _exit(3); }

static void deadly(int sig, siginfo_t *info, void *context) {
	ucontext_t *u = context;
	say("BAD signal %ld, instruction %lx\n", sig, (long)u->uc_mcontext.gregs[REG_RIP]);
	say("BAD address %lx, code %ld\n", (long)info->si_addr, info->si_code);
	_exit(7);
}

static void watch_signals(void) {
	struct sigaction act = {.sa_sigaction = deadly, .sa_flags = SA_SIGINFO | SA_RESETHAND};
	const int all[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &act, 0);
}

static void on_alarm(int sig) { alarms++; }

static void *counter(void *x) { // counts in registers, and rests: others have work to do, too
	for (uint64_t n = 0;; n++) {
		uint64_t a = n, b = ~n, c = n * 3, d = n ^ 0x5555;
		for (int i = 0; i < 100000; i++) __asm__ volatile("incq %0; decq %1; addq $3, %2; notq %3" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
		if (a != n + 100000 || b != ~n - 100000 || c != n * 3 + 300000 || d != (n ^ 0x5555)) bad("registers", n);
		if (n % 8 == 0) usleep(2000);
	}
	return x;
}

static void *sleeper(void *x) {
	for (long n = 0;; n++) {
		struct timespec t = {0, 300000 + n % 7 * 100000}, before, after;
		clock_gettime(CLOCK_MONOTONIC, &before);
		if (n % 2 ? nanosleep(&t, 0) : nanosleep(&t, &t)) bad("nanosleep", n);
		clock_gettime(CLOCK_MONOTONIC, &after);
		int64_t slept = (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
		if (slept < 300000) bad("it slept too little", slept);
	}
	return x;
}

static void *masked(void *x) { // another signal mask for the time of a call, and the own one after it
	sigset_t own, in, now;
	sigemptyset(&own);
	for (int s = SIGRTMIN; s < SIGRTMIN + 5; s++) sigaddset(&own, s);
	sigaddset(&own, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &own, 0);
	sigfillset(&in);
	for (long n = 0;; n++) {
		struct timespec t = {0, 400000};
		struct pollfd p = {quiet[0], POLLIN, 0};
		int r = ppoll(&p, 1, &t, &in);
		if (r) bad("ppoll", r);
		pthread_sigmask(SIG_SETMASK, 0, &now);
		for (int s = 1; s < SIGRTMIN + 10; s++) if (sigismember(&now, s) != sigismember(&own, s) && (s < 32 || s >= SIGRTMIN)) bad("the signal mask", s);
	}
	return x;
}

static void *alarmed(void *x) { // takes the timer's signals, which interrupt calls that are taken up again
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &s, 0);
	char b[64];
	uint8_t next = 0;
	for (;;) {
		int n = read(pipefd[0], b, sizeof b);
		if (n <= 0) bad("read", n);
		for (int i = 0; i < n; i++) if ((uint8_t)b[i] != next++) bad("a byte of the pipe", next);
	}
	return x;
}

static void *writer(void *x) {
	for (uint8_t n = 0;; n++) { if (write(pipefd[1], &n, 1) != 1) bad("write", n); usleep(150); }
	return x;
}

extern char **environ;

static int run(char **args, int by_vfork) {
	int pid = by_vfork ? vfork() : fork();
	if (pid == 0) { execve(args[0], args, environ); _exit(127); }
	if (pid < 0) bad("fork", pid);
	return pid;
}

static void *starter(void *self) {
	char *args[] = {"/bin/true", 0}, *chain[] = {self, "chain", "20", 0};
	for (long n = 0;; n++) {
		int st, pid = run(n % 3 ? args : chain, n % 2);
		if (waitpid(pid, &st, 0) != pid) bad("waitpid", n);
		if (st) bad("a program ended with", st);
		usleep(1000);
	}
	return self;
}

static void *stopper(void *x) { // the child has two threads
	int pid = fork();
	if (pid == 0) {
		setpgid(0, 0); // SIGTSTP stops nothing in a group that nobody watches
		watch_signals();
		pthread_t t;
		if (pthread_create(&t, 0, counter, 0) || pthread_create(&t, 0, sleeper, 0)) _exit(2);
		counter(0);
	}
	for (long n = 0;; n++) {
		int st;
		if (kill(pid, n % 2 ? SIGSTOP : SIGTSTP)) bad("kill", n);
		if (waitpid(pid, &st, WUNTRACED) != pid || !WIFSTOPPED(st)) bad("the stopped child's state", st);
		usleep(n % 5 * 100);
		if (kill(pid, SIGCONT)) bad("kill", n);
		if (waitpid(pid, &st, WCONTINUED) != pid || !WIFCONTINUED(st)) bad("the continued child's state", st);
		usleep(n % 11 * 200);
	}
	return x;
}

int main(int argc, char **argv) {
	if (argc == 3) { // chain N: becomes this program once more, N times
		int n = atoi(argv[2]);
		char next[16];
		snprintf(next, sizeof next, "%d", n - 1);
		char *args[] = {argv[0], "chain", next, 0};
		if (n > 0) execv("/proc/self/exe", args);
		return 0;
	}
	if (argc != 2) return 2;
	out = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	watch_signals();
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGALRM);
	sigprocmask(SIG_BLOCK, &s, 0);
	struct sigaction act = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	sigaction(SIGALRM, &act, 0);
	if (pipe2(pipefd, O_CLOEXEC)) return 2;
	if (pipe2(quiet, O_CLOEXEC)) return 2;
	pthread_t t;
	void *(*const all[])(void *) = {counter, sleeper, masked, alarmed, writer, starter, starter, stopper};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) if (pthread_create(&t, 0, all[i], argv[0])) return 2;
	struct itimerval every = {{0, 700}, {0, 700}};
	setitimer(ITIMER_REAL, &every, 0);
	for (long n = 1;; n++) {
		uint64_t before = alarms;
		do sleep(1); while (alarms == before); // a signal that is lost ends the checks
		say("check %ld\n", n, 0);
	}
}
