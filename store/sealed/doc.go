// Package sealed reads and writes the small state files of an agent and of the processes that it starts: a record in JSON, with the version of
// what it says and a checksum, so that a flipped bit is found and never taken for a state.
//
// It may import the standard library and internal/disk. Agents, cells and whoever else keeps a state in a file use it.
package sealed
