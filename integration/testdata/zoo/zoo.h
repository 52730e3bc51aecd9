// What the files of the zoo share. See main.c.
#ifndef ZOO_H
#define ZOO_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct mode {
	const char *name;
	void (*make)(void);
	void (*check)(void); // on SIGUSR1, any number of times; 0: there is nothing to check
};

extern const struct mode socket_modes[], thread_modes[], watch_modes[], queue_modes[], process_modes[], memory_modes[], file_modes[], refused_modes[];

extern const char *folder; // of the mode's own, made by main

// expect notes a failure: the first one is told. must ends the program if what it needs cannot be made.
void expect(int ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
int must(int result, const char *what);
char *in_folder(const char *name);
int number_of(const char *path, const char *key); // the number after key in a file such as /proc/self/status, -1 if there is none

// loopback makes an address of 127.0.0.1.
struct sockaddr_in loopback(int port);
int bound(int type, int port);

// option sets an option of a socket and notes its value.
void set(int fd, int level, int name, int value);
void has(int fd, int level, int name, int value, const char *what);
#endif
