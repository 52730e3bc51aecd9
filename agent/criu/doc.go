// Package criu starts CRIU to dump and restore the members of a job. Runner implements agent.Checkpointer, with what
// agent/criu/image does to the images.
//
// Runner speaks to CRIU through go-criu, which lets its caller choose only the path of CRIU's executable.
// What stands at that path here is a script, written again for every operation, that runs ExecMain: the
// keeper. The keeper enters the cell's namespaces, takes the lock that tells others that a CRIU is at
// work, starts CRIU, and stays as its parent until it is gone. See keeper.go for what it does if the
// agent, or CRIU, dies.
//
// CRIU itself sees to some things that nothing here does: a restored tree gets a time namespace, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME go on
// from the dump.
//
// It may import agent and marker for the types of the seam, criu/image, cgroup, files, proc, fault, internal/disk, go-criu (nothing else in the project may),
// protobuf for go-criu's messages, and golang.org/x/sys/unix.
package criu
