// Package inventory writes down what processes hold that CRIU does not put back, compares it after a restore, and sets right what differs.
//
// CRIU restores what a program cannot go on without. What it leaves out, a program loses in silence: a socket's congestion control, a thread's
// processors, the groups that a datagram socket has joined. The inventory is taken while a member stands still at its snapshot, is part of the
// images, and is taken again while the restored processes stand still. What differs is set through a duplicate of the socket
// (pidfd_getfd(2)) or from outside of the process; what the kernel sets from inside only is named.
//
// It imports the standard library, golang.org/x/sys and agent/proc alone.
package inventory
