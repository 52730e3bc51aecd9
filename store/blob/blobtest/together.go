package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"ss/store/blob"
)

// calling does something when it is read from, before it is at its end.
type calling struct{ do func() }

func (c *calling) Read([]byte) (int, error) {
	if c.do != nil {
		c.do()
		c.do = nil
	}
	return 0, io.EOF
}

// unseen looks for an object while it is being put.
func unseen(t *testing.T, b Backend) {
	for _, size := range []int{5000, b.Large} {
		p := content(size, 8)
		name := b.name(p)
		looked := false
		half := &calling{do: func() { b.absent(t, name); looked = true }}
		r := io.MultiReader(bytes.NewReader(p[:size/2]), half, bytes.NewReader(p[size/2:]))
		if err := b.Writer.Put(t.Context(), name, r, int64(size)); err != nil || !looked {
			t.Fatalf("put: %v", err)
		}
		b.same(t, name, p)
	}
}

// concurrent puts one object many times at once, and others beside it.
func concurrent(t *testing.T, b Backend) {
	for _, size := range []int{5000, b.Large} {
		p := content(size, 9)
		name := b.name(p)
		var others [][]byte
		var wg sync.WaitGroup
		for i := range 6 {
			other := content(size/8+i, uint64(10+i))
			others = append(others, other)
			wg.Go(func() {
				for _, p := range [][]byte{p, other} {
					if err := b.Writer.Put(t.Context(), b.name(p), onlyReader{bytes.NewReader(p)}, int64(len(p))); err != nil {
						t.Errorf("put: %v", err)
					}
					got, err := b.get(t, b.name(p), 0, -1)
					if err != nil || !bytes.Equal(got, p) {
						t.Errorf("get: %d bytes, %v", len(got), err)
					}
				}
			})
		}
		wg.Wait()
		b.same(t, name, p)
		for _, other := range others {
			b.same(t, b.name(other), other)
		}
	}
	if b.Name != nil {
		return
	}
	// Of different ones under one name, one is whole there, and the others are told.
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		p := content(9000+i, uint64(20+i))
		wg.Go(func() { errs[i] = b.Writer.Put(t.Context(), "suite/one", bytes.NewReader(p), int64(len(p))) })
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won < 0:
			won = i
		case !errors.Is(err, blob.ErrExists):
			t.Errorf("put of another: %v, want ErrExists", err)
		}
	}
	if won < 0 {
		t.Fatal("nobody's object is there")
	}
	b.same(t, "suite/one", content(9000+won, uint64(20+won)))
}

// cancelled calls everything with a context that has ended.
func cancelled(t *testing.T, b Backend) {
	there := b.put(t, []byte("there"))
	name := b.name([]byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want := func(what string, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
	}
	want("put", b.Writer.Put(ctx, name, strings.NewReader("x"), 1))
	_, err := b.Reader.Get(ctx, there, 0, -1)
	want("get", err)
	_, err = b.Reader.Stat(ctx, there)
	want("stat", err)
	err = nil
	for _, err = range b.Reader.List(ctx, "") {
		if err == nil {
			t.Error("listed")
		}
	}
	want("list", err)
	if b.Remover != nil {
		want("remove", b.Remover.Remove(ctx, there))
	}
	b.absent(t, name)
	b.same(t, there, []byte("there"))
}

// cancelledMidway ends the context in the middle of a transfer.
func cancelledMidway(t *testing.T, b Backend) {
	p := content(b.Large, 30)
	name := b.name(p)
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(p[:b.Large/2]), &calling{do: cancel}, bytes.NewReader(p[b.Large/2:]))
	if err := b.Writer.Put(ctx, name, r, int64(b.Large)); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want context.Canceled", err)
	}
	b.absent(t, name)
	b.put(t, p)

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	down, err := b.Reader.Get(ctx, name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(down, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, down); !errors.Is(err, context.Canceled) {
		t.Errorf("read on: %v, want context.Canceled", err)
	}
	_ = down.Close() // whether that is an error is the backend's business
	b.same(t, name, p)
}

func remove(t *testing.T, b Backend) {
	if b.Remover == nil {
		t.Log("left out: this backend removes nothing")
		return
	}
	never := b.name([]byte("never"))
	if err := b.Remover.Remove(t.Context(), never); err != nil {
		t.Errorf("remove what was never there: %v", err)
	}
	p, q := content(5000, 40), content(b.Large, 41)
	one, two := b.put(t, p), b.put(t, q)
	for range 2 {
		if err := b.Remover.Remove(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		b.absent(t, one)
		if got := b.names(t, ""); !slices.Equal(got, []string{two}) {
			t.Errorf("there are %q", got)
		}
	}
	b.same(t, two, q)
	b.same(t, b.put(t, p), p) // a name may be used again
	for _, name := range []string{one, two} {
		if err := b.Remover.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.names(t, ""); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
}
