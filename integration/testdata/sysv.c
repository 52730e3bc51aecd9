// sysv — keeps System V shared memory, a segment that nobody has attached, semaphores and a message queue, and checks all of them ten times a second.
// A child counts in the shared memory, and takes and gives a semaphore.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

struct message {
	long type;
	char text[32];
};

static int fail(const char *what) {
	printf("FAIL %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static void check(int ok, const char *what) {
	if (!ok)
		fail(what);
}

int main(void) {
	int shared = shmget(0x5351, 1 << 16, IPC_CREAT | 0640), lone = shmget(0x5352, 1 << 16, IPC_CREAT | 0600);
	int sem = semget(0x5353, 3, IPC_CREAT | 0600), queue = msgget(0x5354, IPC_CREAT | 0600);
	check(shared >= 0 && lone >= 0 && sem >= 0 && queue >= 0, "make the objects");
	volatile long *count = shmat(shared, NULL, 0);
	char *text = shmat(lone, NULL, 0);
	check(count != (void *)-1 && text != (void *)-1, "attach");
	strcpy(text, "nobody has this segment attached");
	shmdt(text);
	unsigned short values[3] = {1, 5, 7};
	check(semctl(sem, 0, SETALL, values) == 0, "set the semaphores");
	for (int i = 0; i < 3; i++) {
		struct message m = {i + 1, ""};
		snprintf(m.text, sizeof m.text, "message %d", i);
		check(msgsnd(queue, &m, sizeof m.text, 0) == 0, "send");
	}
	pid_t child = fork();
	if (child == 0)
		for (;;) {
			struct sembuf take = {0, -1, 0}, give = {0, 1, 0};
			check(semop(sem, &take, 1) == 0, "take");
			(*count)++;
			check(semop(sem, &give, 1) == 0, "give");
			usleep(1000);
		}
	for (long last = -1, round = 0;; round++) {
		usleep(100000);
		check(*count > last, "the child counts");
		last = *count;
		check(semctl(sem, 1, GETVAL) == 5 && semctl(sem, 2, GETVAL) == 7, "values of semaphores");
		struct shmid_ds s;
		check(shmctl(shared, IPC_STAT, &s) == 0 && s.shm_perm.mode == 0640 && s.shm_nattch == 2, "the shared segment's mode and attachments");
		check(shmget(0x5352, 1 << 16, 0) == lone, "the key of the lone segment");
		text = shmat(lone, NULL, SHM_RDONLY);
		check(text != (void *)-1 && !strcmp(text, "nobody has this segment attached"), "the lone segment's content");
		shmdt(text);
		struct message m;
		char want[32];
		snprintf(want, sizeof want, "message %ld", round % 3);
		check(msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) == sizeof m.text && !strcmp(m.text, want) && m.type == round % 3 + 1, "the queue's messages");
		check(msgsnd(queue, &m, sizeof m.text, 0) == 0, "send it again");
		printf("\nprogress %ld\n", round);
		fflush(stdout);
	}
}
