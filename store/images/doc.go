// Package images keeps the images of cuts on one host: its own, and copies of other hosts'.
//
// An image set is what one host contributes to one snapshot. While it is dumped it is a folder of plain files in the staging folder
// (Partial). Seal makes it objects: packs of encrypted chunks, of which those that an earlier set of the job has are not stored again, an image
// index, and a manifest that names both by their digests. A set is invisible until its manifest is there, in doubt until someone says
// that its cut exists (Commit), and every byte is checked before it is used. Sets are moved as objects (Push, Fetch),
// to and from anything that is a blob.Store. What is on disk, and in which order it gets there, is in docs/format.md.
//
// It may import the standard library, golang.org/x/time/rate, and of ours what lies below store.
package images
