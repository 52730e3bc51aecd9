// Package sockets says which sockets a host has, and which descriptors of which processes refer to them.
//
// Three sources know a part each, and are brought together here: sock_diag(7) lists the sockets of a network namespace, /proc says which
// processes hold them, and pidfd_getfd(2) lends one for questions that only the socket itself answers (Borrow). What a closed connection
// leaves in the kernel is ended here as well (Destroy).
//
// It knows neither jobs nor members. It may import proc, the standard library, golang.org/x/sys/unix and github.com/mdlayher/netlink.
package sockets
