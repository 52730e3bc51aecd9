// Package ballast makes a program as large in memory as a test wants it to be, with content that does not compress and
// can be checked. It imports the standard library alone.
package ballast

import (
	"encoding/binary"
	"fmt"
	"time"
)

const mib = 1 << 20

// Ballast is memory with known content.
type Ballast struct{ memory []byte }

// New makes a ballast of that many MiB and touches every byte of it.
func New(size int) *Ballast {
	b := &Ballast{memory: make([]byte, size*mib)}
	state := uint64(1)
	for i := 0; i < len(b.memory); i += 8 {
		state = next(state)
		binary.LittleEndian.PutUint64(b.memory[i:], state)
	}
	return b
}

// Check reads all of it and says where it is not what New wrote.
func (b *Ballast) Check() error {
	state := uint64(1)
	for i := 0; i < len(b.memory); i += 8 {
		state = next(state)
		if got := binary.LittleEndian.Uint64(b.memory[i:]); got != state {
			return fmt.Errorf("memory: byte %d of %d holds %#x, want %#x", i, len(b.memory), got, state)
		}
	}
	return nil
}

// Rewrite writes each page of it in turn, with what it holds, so many MiB a second until quit is closed.
func (b *Ballast) Rewrite(perSecond int, quit <-chan struct{}) {
	const page, slice = 4096, 10 * time.Millisecond
	if len(b.memory) == 0 || perSecond == 0 {
		return
	}
	tick := time.NewTicker(slice)
	defer tick.Stop()
	began, written := time.Now(), 0
	for at := 0; ; {
		select {
		case now := <-tick.C:
			for want := int(now.Sub(began).Seconds() * float64(perSecond*mib)); written < want; written += page {
				b.memory[at]++
				b.memory[at]--
				at = (at + page) % len(b.memory)
			}
		case <-quit:
			return
		}
	}
}

// next is xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
func next(x uint64) uint64 {
	x ^= x << 13
	x ^= x >> 7
	return x ^ x<<17
}
