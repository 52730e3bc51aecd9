// Package agent drives attempts and restores on one host: it carries out what marker.Participant and restoration.Target ask for, on this
// host's processes, packets and images, and keeps a journal so that a restart is a matter of replay.
//
// It may import marker, restoration, standing, custody, target, files, inventory, proc, what is below store, names, fault, golang.org/x/sys and
// the standard library. It declares the interfaces of what it needs
// (ports.go: Cells, Gates, Checkpointer, Memory, Peers); agent/cell, agent/gate, agent/criu, agent/memory and agent/rpc implement them and import this
// package for the types in their signatures. cmd/ssagent wires them together.
package agent
