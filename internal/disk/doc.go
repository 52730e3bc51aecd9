// Package disk has the few file operations whose order decides what survives a loss of power.
//
// It may import the standard library, and everyone may import it.
package disk
