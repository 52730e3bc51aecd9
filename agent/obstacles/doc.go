// Package obstacles finds what CRIU could not dump of a process tree, before anything is frozen for it: each obstacle in words, with the
// process that has it and what to do about it.
//
// The tree runs meanwhile, and forks, so an obstacle counts if it is found twice. The way in: Find, then look.
//
// It may import cgroup, files, proc, sockets, the standard library and golang.org/x/sys/unix.
package obstacles
