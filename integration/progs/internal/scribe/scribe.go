// Package scribe has a program write all over a large file, all the time, and check that the file holds what the program has written. It imports
// the standard library alone.
package scribe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	blockSize = 4096
	// slots is how many blocks are written to, one after the other, as far apart as the file is large.
	slots = 1024
)

// Scribe is a file, and the number of the last time that each of its blocks was written.
type Scribe struct {
	file  *os.File
	size  int64
	times [slots]uint64
}

// Open makes the file, with a hole of that many bytes.
func Open(path string, size int64) (*Scribe, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Scribe{file: f, size: size}, nil
}

// Run writes so many blocks a second until quit is closed, or until a block does not hold what was written last.
func (s *Scribe) Run(quit <-chan struct{}, rate int) error {
	tick := time.NewTicker(time.Second / time.Duration(max(rate, 1)))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-quit:
			return s.file.Close()
		}
		slot := n % slots
		if err := s.check(slot); err != nil {
			return err
		}
		s.times[slot]++
		if _, err := s.file.WriteAt(s.block(slot), s.at(slot)); err != nil {
			return err
		}
	}
}

func (s *Scribe) check(slot int) error {
	have := make([]byte, blockSize)
	if _, err := s.file.ReadAt(have, s.at(slot)); err != nil {
		return err
	}
	if !bytes.Equal(have, s.block(slot)) {
		return fmt.Errorf("%s: the block at byte %d begins with %x, and was written %d times", s.file.Name(), s.at(slot), have[:8], s.times[slot])
	}
	return nil
}

func (s *Scribe) at(slot int) int64 { return s.size / slots * int64(slot) / blockSize * blockSize }

// block is what a block holds: zeros before it is written for the first time.
func (s *Scribe) block(slot int) []byte {
	b := make([]byte, blockSize)
	for i := 0; i < blockSize && s.times[slot] > 0; i += 16 {
		binary.LittleEndian.PutUint64(b[i:], s.times[slot])
		binary.LittleEndian.PutUint64(b[i+8:], uint64(slot*blockSize+i))
	}
	return b
}
