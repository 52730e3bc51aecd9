// Memory: mappings and what is said of them.
#include "zoo.h"
#include <asm/ldt.h>
#include <linux/mempolicy.h>
#include <sys/prctl.h>
#include <sys/shm.h>

#ifndef PR_SET_MEMORY_MERGE // of Linux 6.4
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define SIZE (16 * 4096)
static char *m, *n;
static int a;

static char *map(int prot, int flags) {
	char *p = mmap(0, SIZE, prot, flags, -1, 0);
	must(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}
static char *private(void) { return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS); }

// flag looks for a flag among VmFlags of the mapping at p.
static int flag(const char *p, const char *want) {
	char line[1024], start[32];
	int here = 0, found = 0;
	snprintf(start, sizeof start, "%lx-", (unsigned long)p);
	FILE *f = fopen("/proc/self/smaps", "r");
	while (f && fgets(line, sizeof line, f)) {
		if (line[0] >= '0' && line[0] <= '9' || line[0] >= 'a' && line[0] <= 'f')
			here = !strncmp(line, start, strlen(start));
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, want) != 0;
	}
	if (f)
		fclose(f);
	return found;
}

static void advise(int advice) {
	m = private();
	memset(m, 7, SIZE);
	must(madvise(m, SIZE, advice), "madvise");
}
static void dontfork_make(void) { advise(MADV_DONTFORK); }
static void dontfork_check(void) { expect(flag(m, " dc"), "MADV_DONTFORK is gone"); }
static void wipeonfork_make(void) { advise(MADV_WIPEONFORK); }
static void wipeonfork_check(void) { expect(flag(m, " wf"), "MADV_WIPEONFORK is gone"); }
static void dontdump_make(void) { advise(MADV_DONTDUMP); }
static void dontdump_check(void) { expect(flag(m, " dd"), "MADV_DONTDUMP is gone"); }
static void nohugepage_make(void) { advise(MADV_NOHUGEPAGE); }
static void nohugepage_check(void) { expect(flag(m, " nh"), "MADV_NOHUGEPAGE is gone"); }
static void mergeable_make(void) { advise(MADV_MERGEABLE); }
static void mergeable_check(void) { expect(flag(m, " mg"), "MADV_MERGEABLE is gone"); }

static void ksm_make(void) { must(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0), "prctl"); }
static void ksm_check(void) { expect(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1, "PR_SET_MEMORY_MERGE is gone"); }

static void mlock_make(void) {
	m = private();
	must(mlock(m, SIZE), "mlock");
}
static void mlock_check(void) { expect(flag(m, " lo"), "it is not locked any more"); }

static void mempolicy_make(void) {
	unsigned long nodes = 1;
	must(syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 64), "set_mempolicy");
}
static void mempolicy_check(void) {
	int now = 0;
	syscall(SYS_get_mempolicy, &now, 0, 0, 0, 0);
	expect(now == MPOL_BIND, "the policy is %d", now);
}

static void mbind_make(void) {
	unsigned long nodes = 1;
	m = private();
	must(syscall(SYS_mbind, m, SIZE, MPOL_BIND, &nodes, 64, 0), "mbind");
	memset(m, 7, SIZE);
}
static void mbind_check(void) {
	int now = 0;
	syscall(SYS_get_mempolicy, &now, 0, 0, m, MPOL_F_ADDR);
	expect(now == MPOL_BIND, "the policy is %d", now);
}

static void anonymous_make(void) {
	m = private();
	memset(m, 7, SIZE), memset(m + 4096, 0, 4096);
	must(mprotect(m + 8192, 4096, PROT_NONE), "mprotect");
	must(mprotect(m + 12288, 4096, PROT_READ), "mprotect");
}
static void anonymous_check(void) { expect(m[0] == 7 && m[4096] == 0 && m[12288] == 7 && m[SIZE - 1] == 7, "other content"); }

// shared: memory that a child writes and the parent reads.
static void shared_make(void) {
	m = map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	if (!must(fork(), "fork"))
		for (;; usleep(500))
			++*(volatile long *)m;
}
static void shared_check(void) {
	long before = *(volatile long *)m;
	for (int i = 0; i < 10000 && *(volatile long *)m == before; i++)
		usleep(500);
	expect(*(volatile long *)m != before, "the child's writes are not seen");
}

static void growsdown_make(void) {
	m = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
	memset(m, 7, SIZE);
}
static void growsdown_check(void) { expect(m[SIZE - 1] == 7, "other content"); }

static void memfd_make(void) {
	a = must(memfd_create("zoo", MFD_ALLOW_SEALING), "memfd_create");
	must(ftruncate(a, SIZE), "ftruncate");
	must(pwrite(a, "inside", 6, 100), "pwrite");
	must(fcntl(a, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), "seals");
	m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
}
static void memfd_check(void) {
	expect(fcntl(a, F_GET_SEALS) == (F_SEAL_GROW | F_SEAL_SHRINK), "seals %#x", fcntl(a, F_GET_SEALS));
	expect(!memcmp(m + 100, "inside", 6), "other content");
	m[200]++;
	char now;
	expect(pread(a, &now, 1, 200) == 1 && now == m[200], "mapping and file differ");
}

static void shm_make(void) {
	a = must(shmget(IPC_PRIVATE, SIZE, 0600), "shmget");
	m = shmat(a, 0, 0);
	n = shmat(a, 0, SHM_RDONLY);
	strcpy(m, "attached twice");
	must(shmctl(a, IPC_RMID, 0), "IPC_RMID");
}
static void shm_check(void) {
	expect(!strcmp(n, "attached twice"), "other content");
	m[20]++;
	expect(m[20] == n[20], "the two differ");
	struct shmid_ds d;
	expect(!shmctl(a, IPC_STAT, &d) && d.shm_nattch == 2, "%lu are attached", d.shm_nattch);
}

// cow: memory that a child shares with its parent until one of them writes.
static void cow_make(void) {
	m = private();
	memset(m, 7, SIZE);
	if (!must(fork(), "fork"))
		for (m[0] = 8;; usleep(500))
			m[4096]++;
}
static void cow_check(void) { expect(m[0] == 7 && m[4096] == 7, "the child's writes are seen"); }

static void file_mapping_make(void) {
	a = must(open(in_folder("mapped"), O_RDWR | O_CREAT | O_TRUNC, 0644), "open");
	must(ftruncate(a, SIZE), "ftruncate");
	m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	n = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, a, 0);
	m[5] = 5, n[4096] = 6;
}
static void file_mapping_check(void) {
	char byte;
	expect(m[5] == 5 && n[5] == 5 && n[4096] == 6 && m[4096] == 0, "other content");
	expect(pread(a, &byte, 1, 5) == 1 && byte == 5, "the file has other content");
}

static void deleted_mapping_make(void) {
	file_mapping_make();
	unlink(in_folder("mapped"));
}

static void executable_make(void) {
	m = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS);
	memcpy(m, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov $42, %eax; ret
}
static void executable_check(void) { expect(((int (*)(void))m)() == 42, "it runs other code"); }

static void hugepage_make(void) { advise(MADV_HUGEPAGE); }
static void hugepage_check(void) { expect(flag(m, " hg"), "MADV_HUGEPAGE is gone"); }
static void sequential_make(void) { advise(MADV_SEQUENTIAL); }
static void sequential_check(void) { expect(flag(m, " sr"), "MADV_SEQUENTIAL is gone"); }
static void random_make(void) { advise(MADV_RANDOM); }
static void random_check(void) { expect(flag(m, " rr"), "MADV_RANDOM is gone"); }
static void noreserve_make(void) { m = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE); }
static void noreserve_check(void) { expect(flag(m, " nr"), "MAP_NORESERVE is gone"); }
static void mlockall_make(void) { must(mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall"); }
static void mlockall_check(void) {
	m = private();
	expect(flag(m, " lo"), "what is mapped now is not locked");
	munmap(m, SIZE);
}

// guard: pages whose use ends a program, within a mapping. seal: a mapping that cannot be changed.
static void guard_make(void) {
	m = private();
	memset(m, 7, SIZE);
	must(madvise(m + 8192, 4096, 102 /* MADV_GUARD_INSTALL of Linux 6.13 */), "MADV_GUARD_INSTALL");
}
static void guard_check(void) {
	int status;
	pid_t p = fork();
	if (!p)
		_exit(*(volatile char *)(m + 8192));
	waitpid(p, &status, 0);
	expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "the page can be read");
	expect(m[0] == 7 && m[SIZE - 1] == 7, "other content");
}
static void mlock_on_fault_make(void) {
	m = private();
	must(mlock2(m, SIZE, MLOCK_ONFAULT), "mlock2");
}
static void mlock_on_fault_check(void) { expect(flag(m, " lf"), "it is locked in whole"); }
static void ldt_make(void) {
	struct user_desc d = {.entry_number = 3, .base_addr = 4096, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
	must(syscall(SYS_modify_ldt, 1, &d, sizeof d), "modify_ldt");
}
static void ldt_check(void) {
	char table[64] = {0};
	expect(syscall(SYS_modify_ldt, 0, table, sizeof table) > 0, "there are no entries");
}
static void sealed_make(void) {
	m = private();
	must(syscall(462 /* mseal */, m, SIZE, 0), "mseal");
}
static void sealed_check(void) { expect(munmap(m, SIZE) < 0 && errno == EPERM, "it can be unmapped"); }

static void zero_shared_make(void) {
	a = must(open("/dev/zero", O_RDWR), "open");
	m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	strcpy(m, "shared");
	close(a);
}
static void zero_shared_check(void) { expect(!strcmp(m, "shared"), "other content"); }
static void shm_posix_make(void) {
	a = must(shm_open("/zoo", O_RDWR | O_CREAT | O_TRUNC, 0600), "shm_open");
	must(ftruncate(a, SIZE), "ftruncate");
	m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	strcpy(m, "shared");
}
static void shm_posix_check(void) {
	expect(!strcmp(m, "shared"), "other content");
	int fd = shm_open("/zoo", O_RDWR, 0);
	char got[7] = {0};
	expect(pread(fd, got, 6, 0) == 6 && !strcmp(got, "shared"), "who opens it finds other content");
	close(fd);
}
static void file_readonly_make(void) {
	a = must(open("/proc/self/exe", O_RDONLY), "open");
	m = mmap(0, 4096, PROT_READ, MAP_SHARED, a, 0);
	close(a);
}
static void file_readonly_check(void) { expect(!memcmp(m, "\177ELF", 4), "other content"); }
static void memfd_noexec_make(void) { a = must(memfd_create("zoo", 8 /* MFD_NOEXEC_SEAL */), "memfd_create"); }
static void memfd_noexec_check(void) { expect(fcntl(a, F_GET_SEALS) & 0x20 /* F_SEAL_EXEC */, "seals %#x", fcntl(a, F_GET_SEALS)); }
static void memfd_write_sealed(int seals) {
	a = must(memfd_create("zoo", MFD_ALLOW_SEALING), "memfd_create");
	must(ftruncate(a, SIZE), "ftruncate");
	must(pwrite(a, "inside", 6, 0), "pwrite");
	if (seals == F_SEAL_FUTURE_WRITE)
		m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	must(fcntl(a, F_ADD_SEALS, seals), "seals");
	if (seals == F_SEAL_WRITE)
		m = mmap(0, SIZE, PROT_READ, MAP_SHARED, a, 0);
	must(m == MAP_FAILED ? -1 : 0, "mmap");
}
static void memfd_future_make(void) { memfd_write_sealed(F_SEAL_FUTURE_WRITE); }
static void memfd_future_check(void) {
	expect(fcntl(a, F_GET_SEALS) == F_SEAL_FUTURE_WRITE, "seals %#x", fcntl(a, F_GET_SEALS));
	m[10] = 9;
	expect(!memcmp(m, "inside", 6), "other content");
}
static void memfd_sealed_make(void) { memfd_write_sealed(F_SEAL_WRITE); }
static void memfd_sealed_check(void) {
	expect(fcntl(a, F_GET_SEALS) == F_SEAL_WRITE, "seals %#x", fcntl(a, F_GET_SEALS));
	expect(!memcmp(m, "inside", 6), "other content");
	expect(mprotect(m, SIZE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES, "it can be made writable");
	expect(pwrite(a, "x", 1, 0) < 0 && errno == EPERM, "it can be written");
}
static void memfd_child_make(void) { // a child writes, and the parent maps it as well
	a = must(memfd_create("zoo", 0), "memfd_create");
	must(ftruncate(a, SIZE), "ftruncate");
	m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	if (!must(fork(), "fork"))
		for (;; usleep(500))
			++*(volatile long *)m;
}
static void heap_make(void) { // of the program's break, with pages of all kinds
	m = sbrk(8 << 20);
	must(m == (void *)-1 ? -1 : 0, "sbrk");
	unsigned int x = 1;
	for (int i = 0; i < 8 << 20; i += 512)
		m[i] = x = x * 1103515245 + 12345;
}
static void heap_check(void) {
	unsigned int x = 1;
	int ok = 1;
	for (int i = 0; i < 8 << 20; i += 512)
		ok &= m[i] == (char)(x = x * 1103515245 + 12345);
	expect(ok, "other content");
	expect(sbrk(0) == m + (8 << 20), "the break has moved");
}
static void title_make(void) { program_invocation_name[0] = 'Z'; } // a program that writes over its arguments
static void title_check(void) {
	char got[100] = {0};
	int fd = open("/proc/self/cmdline", O_RDONLY);
	expect(read(fd, got, sizeof got - 1) > 0 && got[0] == 'Z', "it is %s", got);
	close(fd);
}

const struct mode memory_modes[] = {
	{"hugepage", hugepage_make, hugepage_check}, {"sequential", sequential_make, sequential_check}, {"random", random_make, random_check},
	{"mlock_on_fault", mlock_on_fault_make, mlock_on_fault_check}, {"ldt", ldt_make, ldt_check},
	{"noreserve", noreserve_make, noreserve_check}, {"mlockall", mlockall_make, mlockall_check},
	{"guard", guard_make, guard_check}, {"sealed", sealed_make, sealed_check}, {"zero_shared", zero_shared_make, zero_shared_check},
	{"shm_posix", shm_posix_make, shm_posix_check}, {"file_readonly", file_readonly_make, file_readonly_check},
	{"memfd_noexec", memfd_noexec_make, memfd_noexec_check}, {"memfd_future", memfd_future_make, memfd_future_check}, {"memfd_sealed", memfd_sealed_make, memfd_sealed_check},
	{"memfd_child", memfd_child_make, shared_check}, {"heap", heap_make, heap_check}, {"title", title_make, title_check},
	{"dontfork", dontfork_make, dontfork_check}, {"wipeonfork", wipeonfork_make, wipeonfork_check}, {"dontdump", dontdump_make, dontdump_check},
	{"nohugepage", nohugepage_make, nohugepage_check}, {"mergeable", mergeable_make, mergeable_check}, {"ksm", ksm_make, ksm_check},
	{"mlock", mlock_make, mlock_check}, {"mempolicy", mempolicy_make, mempolicy_check}, {"mbind", mbind_make, mbind_check},
	{"anonymous", anonymous_make, anonymous_check}, {"shared", shared_make, shared_check}, {"growsdown", growsdown_make, growsdown_check},
	{"memfd", memfd_make, memfd_check}, {"shm", shm_make, shm_check}, {"cow", cow_make, cow_check}, {"file_mapping", file_mapping_make, file_mapping_check},
	{"deleted_mapping", deleted_mapping_make, file_mapping_check}, {"executable", executable_make, executable_check}, {0},
};
