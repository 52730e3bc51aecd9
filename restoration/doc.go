// Package restoration is the commit protocol of a restore: all of the job runs again, or nothing of it. It is
// docs/restore.md in code, and cites that page's rules by name.
//
// There are two roles. Target is one host's: it says when to check, fetch, fence, restore, resume, stop, and whom to
// ask when the coordinator is gone. Coordinator is the role of the process that restores. Both are values and pure: Step
// takes an Event and returns the next state and the work to be done (Ready). It performs no I/O, starts nothing, reads
// no clock, and leaves the old state usable, at a cost that grows with the logarithm of the number of hosts. The caller
//
//   - gives Step a Tick with the present time before every other event, and another one at Deadline;
//   - carries a Ready out in the order of its fields: Journal durable, then Actions begun, then Messages sent;
//   - reports the end of every action by an event, and hands messages over as they come. Late, repeated, reordered and
//     lost messages are the protocol's business;
//   - tells a Target when its line to the coordinator has ended (Gone), and the Coordinator when a host cannot be reached (Lost);
//   - answers for a restore that it knows nothing of with a Report of PhaseUnknown;
//   - hands what the journal holds to Recover when it starts again.
//
// One host decides, twice. The first of the targets decides the fence (from then on the live members end everywhere) and the
// resume (from then on the job runs again everywhere). The coordinator tells the deciding host first, and the others when it
// has the deciding host's word. A host that has lost the coordinator asks the deciding host. The answer binds the host that gives it.
//
// The simulation plays thousands of schedules (sim_test.go) and finds each of the planted mistakes in mistakes.go: a host that takes
// silence for failure; a coordinator that aborts when the answer to its resume is lost; a host that keeps to itself that it has lost
// its part; an answer that does not bind; a fence that is not decided first; a resume before all stand; a restore that is
// finished before all run; an interrupt that aborts a resume under way; a
// host that loses its line and leaves without asking whether others have ended anything.
//
// The package imports a small set of the standard library and nothing else. TestImports sees to it.
package restoration
