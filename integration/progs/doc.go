// Package progs holds, in its subfolders, the programs that integration tests and benchmarks take snapshots of. They are
// ordinary network programs that know nothing of snapshots, and each checks everything it receives, so that
// whatever a snapshot and a restore lose, repeat or alter, some program says so: the last line of each begins with PASS or
// FAIL, and its exit status agrees.
//
// They import the standard library alone.
package progs
