// Package standing says where the members of a job stand after a restore, and what a host does that learns of a newer
// restore than its own.
//
// A Statement is made with every restore and signed by an admin. It names the job, the epoch of the restore, the hosts that the
// members stand on, and the hosts that may still have older copies of them. Agents keep it and show it to each other. No agent can forge one.
//
// A Record is what one host knows of one job. It is a value: its methods take what the host has learned and return the next
// Record, and Duties says from a Record and the members that live on the host what is to be done. Duties depends on nothing else, so
// a host may ask for it as often as it likes, and after every restart. docs/restore.md has the rules, F1 to F5, which the code cites by name.
//
// It imports the standard library and names. The agent and the orchestrator import it.
package standing
