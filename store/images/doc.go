// Package images keeps the images of cuts on one host: its own, and copies of other hosts'.
//
// An image set is what one host contributes to one snapshot: a folder for each member, and a manifest
// that lists every file with its SHA-256. A set is written once. It is invisible until it is whole and
// durable (Partial.Seal), in doubt until someone says that its cut exists (Store.Commit), and every byte
// of it is checked before it is used (Store.Verify), when it is sent (Store.Send) and when it is
// received (Receiver). What is on disk, and in which order it gets there, is in docs/format.md.
//
// It may import the standard library, and nothing of ours but store/internal/disk.
package images
