// Package alias sends the connections that the processes of a cgroup open to an old address to the new one: rule R6 of a restore
// (docs/restore.md).
//
// It attaches BPF programs to the cgroup (bpf(2), BPF_CGROUP_INET4_CONNECT and its relatives, Linux 5.8), which exchange the address that
// connect(2) and bind(2) are given before the kernel looks at it. So the socket is connected to the new address as if the program had asked for
// it: no packet is rewritten, both ends have the same four-tuple, and gates and images need not know of aliases. What getpeername(2),
// getsockname(2) and accept(2) tell is exchanged the other way round: a program that asks a connection where its peer is, and connects there, would
// else be sent on once more, where two hosts have exchanged their parts. Processes outside of the cgroup notice nothing. The kernel keeps
// the programs as long as the cgroup, whatever becomes of the agent.
//
// Only processes of the cgroup are told names. An agent or CRIU that asks a member's socket is told the address in use.
//
// It may import the standard library, cilium/ebpf and agent.
package alias
