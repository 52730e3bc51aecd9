// Package ssv1 is the wire: what ssctl and agents, and agents among themselves, say to each other. It is
// generated from ss.proto (make generate), this file aside. Only agent/rpc, orchestrator/remote and api/wire
// import it; it imports nothing of ours.
package ssv1
