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

// Rewriting leaves what was there.
func TestRewrite(t *testing.T) {
	b, quit, done := New(1), make(chan struct{}), make(chan struct{})
	go func() { defer close(done); b.Rewrite(1000, quit) }()
	close(quit)
	<-done
	if err := b.Check(); err != nil {
		t.Error(err)
	}
}
