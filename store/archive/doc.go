// Package archive is the form of an exported cut: a tar that holds the cut's signed manifest, the plain files of its image sets, and
// what checkpointctl looks for. Writer writes it, and Reader finds whatever is not as it was written.
//
// It may import store, for the cut's record, and the standard library.
package archive
