/*
 * A stand-in for tests only, preloaded into CRIU on machines whose root lacks CAP_SYS_RESOURCE: there, prlimit(2) of a
 * process of another user fails with EPERM, and CRIU can dump no such process. Reads are answered from /proc/PID/limits
 * (proc(5)). All else is the kernel's own answer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef long (*syscall_fn)(long, ...);

static long kernel(long n, long a, long b, long c, long d, long e, long f)
{
	static syscall_fn next;

	if (!next)
		next = (syscall_fn)dlsym(RTLD_NEXT, "syscall");
	return next(n, a, b, c, d, e, f);
}

/* The kernel's order of RLIMIT_*, as /proc/PID/limits names them. */
static const char *const names[] = {
	"Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
	"Max processes", "Max open files", "Max locked memory", "Max address space", "Max file locks",
	"Max pending signals", "Max msgqueue size", "Max nice priority", "Max realtime priority", "Max realtime timeout",
};

static rlim64_t number(const char *text)
{
	return strcmp(text, "unlimited") ? strtoull(text, NULL, 10) : RLIM64_INFINITY;
}

static int from_proc(pid_t pid, unsigned int resource, struct rlimit64 *old)
{
	char path[64], line[256], soft[32], hard[32];
	FILE *f;
	int ret = -1;

	snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		size_t n = strlen(names[resource]);

		if (strncmp(line, names[resource], n) || sscanf(line + n, " %31s %31s", soft, hard) != 2)
			continue;
		old->rlim_cur = number(soft);
		old->rlim_max = number(hard);
		ret = 0;
	}
	fclose(f);
	return ret;
}

static int ask(pid_t pid, unsigned int resource, const struct rlimit64 *set, struct rlimit64 *old)
{
	if (kernel(SYS_prlimit64, pid, resource, (long)set, (long)old, 0, 0) == 0)
		return 0;
	if (errno != EPERM || set || !old || resource >= sizeof(names) / sizeof(names[0]))
		return -1;
	if (from_proc(pid, resource, old) == 0)
		return 0;
	errno = EPERM;
	return -1;
}

int prlimit64(pid_t pid, __rlimit_resource_t resource, const struct rlimit64 *set, struct rlimit64 *old)
{
	return ask(pid, resource, set, old);
}

int prlimit(pid_t pid, __rlimit_resource_t resource, const struct rlimit *set, struct rlimit *old)
{
	return ask(pid, resource, (const struct rlimit64 *)set, (struct rlimit64 *)old);
}

long syscall(long n, ...)
{
	long a[6];
	va_list args;
	int i;

	va_start(args, n);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (n == SYS_prlimit64)
		return ask(a[0], a[1], (const struct rlimit64 *)a[2], (struct rlimit64 *)a[3]);
	return kernel(n, a[0], a[1], a[2], a[3], a[4], a[5]);
}
