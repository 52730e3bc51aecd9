// Package tombstone says, signed by an admin, that a cut was removed. A cut that is committed goes from a host or a vault only with its
// tombstone: without one, no catalogue, however old or wrong, can have a cut's images removed (docs/adr/0023).
//
// It may import the standard library only: agents, the catalogue and the orchestrator all read tombstones.
package tombstone
