// Package agent is one host's part in the protocol: it carries out what marker.Participant asks
// for, on this host's processes, packets and images, and keeps a journal so that a restart is a
// matter of replay.
//
// It may import marker, what is below store, fault and the standard library. It declares the interfaces of what it needs
// (Cells, Gates, Checkpointer); agent/cell, agent/gate and agent/criu implement them and import this
// package for the types in their signatures. cmd/ssagent wires them together.
package agent
