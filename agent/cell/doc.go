// Package cell is where the members of a job live on one host: it starts, finds, freezes and ends
// them. It implements agent.Cells.
//
// A cell is a cgroup, and PID, mount and IPC namespaces under a PID 1 of ours (InitMain) that
// outlives the agent. The members' own PIDs lie above 1000, so that a CRIU which restores them in a
// fresh cell finds them free, its own being below. The network and UTS namespaces are the host's.
// An attached tree has a cgroup only, until it is restored into a cell.
//
// Nothing of this is kept in the agent's memory: the folders below Config.StateDir and the kernel
// say it all, so that an agent which comes back finds every member again.
//
// The way in: cell.go, then start.go and init.go, which are the two sides of one conversation.
//
// It may import agent and target (for the types in its methods' signatures), alias, waits, cgroup, files, obstacles, proc, sockets, names, store/sealed,
// internal/disk, the standard library, github.com/mdlayher/netlink and golang.org/x/sys/unix.
package cell
