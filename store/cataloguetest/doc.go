// Package cataloguetest is the contract of the databases that can keep a catalogue, as a test suite: transactions, bounds, leases, the watch, and the
// catalogue's rules on top.
//
// It may import store, store/kv and the standard library. Only tests import it.
package cataloguetest
