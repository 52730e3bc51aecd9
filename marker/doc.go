// Package marker is the gated marker protocol: Chandy and Lamport's distributed snapshots (ACM TOCS
// 3(1), 1985) for channels that are TCP connections of programs that know nothing of it.
//
// It is pure. Participant and Coordinator take an Event and return the next state and the work to be
// done; they perform no I/O, start nothing and read no clock. docs/protocol.md says what the rules
// M1–M12 are and why they are right; the code cites them by these names.
//
// It imports a small set of the standard library and nothing else: no context, time, net, os, log,
// sync or rand.
package marker
