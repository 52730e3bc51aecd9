package cell

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func (c sharedCounter) word() *uint64 { return (*uint64)(unsafe.Pointer(&c.mem[0])) }
func (c sharedCounter) add()          { atomic.AddUint64(c.word(), 1) }
func (c sharedCounter) value() uint64 { return atomic.LoadUint64(c.word()) }

// passes waits until the counter has gone beyond n: whoever counts is running.
func (c sharedCounter) passes(t *testing.T, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); c.value() <= n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("the counter stands still at %d", c.value())
		}
	}
}

// stands checks that the counter does not move while another one counts a million.
func (c sharedCounter) stands(t *testing.T, clock sharedCounter) {
	t.Helper()
	before := c.value()
	clock.passes(t, clock.value()+1_000_000)
	if after := c.value(); after != before {
		t.Fatalf("a frozen member counted from %d to %d", before, after)
	}
}
