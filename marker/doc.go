// Package marker is the gated marker protocol: Chandy and Lamport's distributed snapshots (ACM TOCS
// 3(1), 1985) for channels that are TCP connections of programs that know nothing of it.
//
// docs/protocol.md says what the rules M1–M12 are and why they are right; the code cites them by these
// names. To see one snapshot go by, read testdata/two_hosts.txt, then testdata/calm.txt.
//
// There are two roles. Participant is a host's: it says when to freeze, dump, thaw and open gates.
// Coordinator is the role of the ssctl that takes the cut: it prepares everyone, starts one of them,
// checks what they report (Check) and commits. Both are values and pure: Step takes an Event and
// returns the next state and the work to be done (Ready), and performs no I/O, starts nothing and
// reads no clock. The caller
//
//   - gives Step a Tick with the present time before every other event, and another one at Deadline,
//     by a clock that does not jump where it has one;
//   - carries a Ready out in the order of its fields: Journal durable, then Actions begun (those that
//     are not long: ended), then Messages sent;
//   - reports the end of every long action, with the action's Key, and hands messages over as they
//     come. Late, repeated, reordered and lost messages are the protocol's business;
//   - hands what the journal holds to Recover when it starts again.
//
// The package imports a small set of the standard library and nothing else: no context, time, net,
// os, log, sync or rand. TestImports sees to it.
package marker
