// Package kv is what a catalogue needs of a database: records under keys, transactions that compare and swap, leases, and a watch. The
// catalogue's rules are in store, written once; kv/bolt and kv/memory are two databases, and store/cataloguetest is the contract that each of them
// passes. The bounds are those of etcd: whatever passes here can be kept there.
//
// It imports the standard library only.
package kv
