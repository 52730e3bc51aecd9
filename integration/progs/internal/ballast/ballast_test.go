package ballast

import "testing"

func TestCheckFindsOneChangedBit(t *testing.T) {
	b := New(1)
	if err := b.Check(); err != nil {
		t.Fatalf("untouched: %v", err)
	}
	b.memory[700_001] ^= 4
	if b.Check() == nil {
		t.Error("a changed bit is not found")
	}
}
