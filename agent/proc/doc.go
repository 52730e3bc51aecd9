// Package proc reads what the kernel tells of processes in /proc. Nothing else of the project does (TestNobodyElseReadsProc), so that each
// format is parsed in one place.
//
// It knows processes, threads, descriptors and mappings, and nothing of jobs. It may import the standard library, golang.org/x/sys and
// moby/sys/mountinfo. prometheus/procfs does not fit: it has neither a thread's system call nor when it last ran, and no pending signals,
// and some of these files are read by the thousand while a member stands still.
package proc
