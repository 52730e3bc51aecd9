// Package upkeep looks after what is stored: it collects what no cut needs, repairs copies, verifies them, counts their bytes, and makes the
// catalogue again from what hosts and vaults hold.
//
// It may import orchestrator, which reaches the agents, and what that may import. Taking and restoring cuts is orchestrator's; so is removing
// one, as retention does after each snapshot.
package upkeep
