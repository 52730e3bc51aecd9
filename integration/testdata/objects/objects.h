// A member that holds what its specification lists, uses all of it all the time, and says on SIGUSR1 whether everything is as it
// should be. See main.c.
#ifndef OBJECTS_H
#define OBJECTS_H
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#define ARGS 6

struct object {
	char id[32], kind[24], arg[ARGS][200];
	int fd, fd2, fd3;
	void *mem;
	size_t size;
	uint64_t n, m;          // counters, the kind's own
	_Atomic uint64_t alive; // moves while the object works, where other threads use it
	char failure[300];      // the first one
};

struct kind {
	const char *name;
	void (*make)(struct object *);  // ends the program if it cannot
	void (*tick)(struct object *);  // every few milliseconds, may be 0
	void (*check)(struct object *); // on SIGUSR1; no tick runs meanwhile; may be 0
};

extern const struct kind file_kinds[], name_kinds[], time_kinds[], net_kinds[], other_kinds[];

// fail notes the first failure of an object.
void fail(struct object *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
// must ends the program with a message if ok is false: an object cannot be made.
void must(struct object *o, int ok, const char *what);
// moves waits until *counter differs from what it was, and fails if that takes too long.
void moves(struct object *o, _Atomic uint64_t *counter, const char *what);
// readable waits until a descriptor is, and fails if that takes too long.
int readable(struct object *o, int fd, const char *what);
// start starts a thread that takes no signals.
void start(void *(*run)(void *), void *arg);
void pause_ms(long ms);
uint64_t now_ms(void);
int number(const struct object *o, int arg);

int has_name(int fd, const char *path);
#endif
