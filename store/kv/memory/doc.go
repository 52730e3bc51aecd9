// Package memory is a catalogue's database in memory, for tests. It works as etcd does: a transaction reads one revision, notes what it has read,
// and is run again if any of that has changed before it could be written.
//
// It may import store/kv and the standard library.
package memory
