// Package pack turns folders of images into packs of chunks and back. docs/format.md has the form of both.
//
// A chunk is 4 KiB of a file: a page of memory, where the file holds memory. Its name is the HMAC-SHA-256 of its bytes under the
// job's key, so equal pages are known by their names, to those who have the key. Chunks that are not stored yet are put together into
// segments of 256 KiB, each compressed and encrypted as one, and segments into packs. A pack is an immutable object that is named
// by the SHA-256 of its bytes, so everyone who holds one can check it without the key. An image index says which chunk of which pack each
// page of each file is. It needs no names, so it is small: a run of pages that follow each other in a pack is a few bytes.
//
// It may import the standard library, klauspost/compress, golang.org/x/sys/unix, and of ours store/keys and internal/yield.
package pack
