// Package lab makes small clusters out of one machine: hosts that are sets of namespaces (network, mount,
// PID, UTS, IPC), each with its own address on a common bridge, its own /run, /proc, /srv, /var/lib/ss and
// /var/lib/ssctl, its own host name, and a PID 1 of its own. Killing that PID 1 kills everything on the host, as
// pulling the plug of a machine does. The bridge lives in a network namespace of its own; nothing is
// added to the machine's.
//
// A lab leaves nothing behind. Its hosts die with the process that made them, since every PID 1 holds the read end
// of a pipe of that process. What can survive a kill -9 of that process (cgroups, a temporary folder)
// carries the prefix "sslab-" or "ss-lab-", and the next New, or Clean, removes it.
//
// The programs under test run in the hosts as they would on real machines: ssagent on each, ssctl on the host
// "admin". The lab knows them only by their command line.
//
// It may import the standard library, golang.org/x/sys, and the netlink and nftables modules to build and
// inspect networks; nothing of ours.
package lab
