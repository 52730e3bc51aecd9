// Package gate holds and releases a job's packets to and from a peer host. It implements
// agent.Gates with nftables and NFQUEUE, both by netlink.
//
// One nft table of the inet family carries everything. It belongs to the netlink socket of the
// Manager (flag owner, Linux 5.12), so the kernel removes it when the agent ends, however it ends:
// no gate outlives its manager. Two base chains stand in it for as long as the Manager lives, without
// a rule while nothing is closed. A closed gate adds chains of its own, which the base chains jump
// to, and which look a packet's addresses and ports up in sets; a thousand connections cost one rule.
// Every change is one batch, which the kernel applies whole or not at all.
//
//	output, input ──► gN-out, gN-in ──► gN: queue
//	                  (sets: which packets)  (what becomes of them)
//
// What a closed gate matches goes to an NFQUEUE of its own, and its verdict is withheld until the gate
// opens: packets are late, and none is lost. A socket whose retransmission timer runs out meanwhile does not
// send again what its own host's gate holds still (the kernel sees that the packet has not left), but it
// does send again what the other host's gate holds. Settle, before a long wait, leaves nothing to time out.
// When no process listens to a queue any more, the kernel drops what is in it, and TCP sends it again.
//
// A gate opens in this order: what it holds goes on its way; the queue is told to let pass in the kernel
// whatever comes; the rules go; a grace period later, when no packet can be under the old rules, the queue is
// unbound. So no packet overtakes another, but for the odd one within a few microseconds.
//
// Output is held at priority raw, before connection tracking and NAT, input after them: both see a
// packet's addresses as the socket does.
//
// A block is another matter: it drops, for as long as another host may have old copies of members, and it must outlive the agent. So it
// has a table of its own that no process owns, made whole with every change. Its hooks lie where addresses are the wire's: after NAT
// on output, before that of the source on input. Blocks of ports are of TCP; those of cgroups are of every protocol that has sockets.
//
// Limits. Only TCP is held. A packet that two closed gates of different jobs describe (a connection
// between two jobs) is held by the one that closed first. Whoever unregisters any netfilter hook in the same
// network namespace (the removal of a base chain, for one) makes the kernel drop every queued packet there,
// of all queues: TCP recovers, after a retransmission.
//
// It may import agent, for the types in its methods, and the netlink and nftables libraries, which no
// other package needs.
package gate
