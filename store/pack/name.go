package pack

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"hash"

	"ss/store/keys"
)

// Name names a chunk.
type Name [32]byte

// Namer makes names under one job's key. It belongs to one goroutine.
type Namer struct {
	mac hash.Hash // keeps the state after the key, so a name costs little more than its SHA-256
	sum Name      // here, so that it is not allocated for each name
}

// NewNamer makes a Namer.
func NewNamer(k keys.Job) *Namer {
	key := k.Derive(nameLabel, nil)
	return &Namer{mac: hmac.New(sha256.New, key[:])}
}

// Name is the name of a chunk of 1 to ChunkSize bytes.
func (n *Namer) Name(chunk []byte) Name {
	n.mac.Reset()
	_, _ = n.mac.Write(chunk) // hash.Hash: never an error
	n.mac.Sum(n.sum[:0])
	return n.sum
}

// zeros is what a zero chunk is compared with.
var zeros [ChunkSize]byte

func isZero(chunk []byte) bool { return bytes.Equal(chunk, zeros[:len(chunk)]) }

// chunksOf is how many chunks a file of a size has.
func chunksOf(size int64) int64 {
	n := size / ChunkSize
	if size%ChunkSize != 0 {
		n++
	}
	return n
}
