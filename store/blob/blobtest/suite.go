// Package blobtest is the contract of a backend of package blob, as a test. Every backend passes one and the same.
//
// It may import the standard library and store/blob.
package blobtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ss/store/blob"
)

// Backend is what is tested. Reader and Writer must be set, the rest is optional.
type Backend struct {
	Reader blob.Reader
	Writer blob.Writer
	// Remover is nil where objects cannot be removed this way. That part of the contract is left out then.
	Remover blob.Remover
	// Name is the name that the backend wants for an object of that content, where it does not take any. The suite then puts objects
	// under such names only, and content that does not belong to a name may be refused with any error, not ErrExists alone.
	Name func(content []byte) string
	// Large is the size in bytes of the large object; 0: 1 MiB and a bit. It should be odd, and more than the backend sends at once.
	Large int
	// Many is how many objects are listed; 0: 50. It should be more than the backend lists at once.
	Many int
	// Partials, if set, says what is left in the backend of puts that failed. It must be nothing.
	Partials func(t *testing.T) []string
}

// Suite tests a backend. open makes one that holds nothing, and cleans up after t.
func Suite(t *testing.T, open func(t *testing.T) Backend) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, b Backend)
	}{
		{"RoundTrip", roundTrip},
		{"Ranges", ranges},
		{"Large", large},
		{"Readers", readers},
		{"Idempotent", idempotent},
		{"Taken", taken},
		{"Missing", missing},
		{"InvalidNames", invalidNames},
		{"List", list},
		{"ListOrder", listOrder},
		{"Unseen", unseen},
		{"Concurrent", concurrent},
		{"Cancelled", cancelled},
		{"CancelledMidway", cancelledMidway},
		{"Remove", remove},
	} {
		t.Run(part.name, func(t *testing.T) {
			b := open(t)
			if b.Large == 0 {
				b.Large = 1<<20 + 4321
			}
			if b.Many == 0 {
				b.Many = 50
			}
			part.test(t, b)
			if b.Partials != nil {
				if left := b.Partials(t); len(left) != 0 {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
}

// content is n bytes that nobody can compress or guess; the same for the same seed.
func content(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

func (b Backend) name(p []byte) string {
	if b.Name != nil {
		return b.Name(p)
	}
	sum := sha256.Sum256(p)
	return "suite/objects/" + hex.EncodeToString(sum[:])
}

func (b Backend) put(t *testing.T, p []byte) string {
	t.Helper()
	name := b.name(p)
	if err := b.Writer.Put(t.Context(), name, onlyReader{bytes.NewReader(p)}, int64(len(p))); err != nil {
		t.Fatalf("put %d bytes: %v", len(p), err)
	}
	return name
}

// get reads n bytes from off on, and closes the reader.
func (b Backend) get(t *testing.T, name string, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := b.Reader.Get(t.Context(), name, off, n)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(r)
	if closeErr := r.Close(); closeErr != nil {
		t.Errorf("close: %v", closeErr)
	}
	return p, err
}

func (b Backend) same(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := b.get(t, name, 0, -1)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, which are not the %d that were put", len(got), len(want))
	}
	info, err := b.Reader.Stat(t.Context(), name)
	if err != nil || info.Name != name || info.Size != int64(len(want)) || info.Time.IsZero() {
		t.Fatalf("stat: %+v, %v", info, err)
	}
}

// absent says that there is no such object, whichever way one looks.
func (b Backend) absent(t *testing.T, name string) {
	t.Helper()
	if _, err := b.Reader.Stat(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("stat: %v, want ErrNotFound", err)
	}
	if _, err := b.get(t, name, 0, -1); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("get: %v, want ErrNotFound", err)
	}
	if names := b.names(t, ""); slices.Contains(names, name) {
		t.Errorf("it is listed")
	}
}

func (b Backend) names(t *testing.T, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range b.Reader.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		names = append(names, info.Name)
	}
	return names
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

func roundTrip(t *testing.T, b Backend) {
	for i, n := range []int{0, 1, 4096, 100_001} {
		p := content(n, uint64(i))
		b.same(t, b.put(t, p), p)
	}
}

func ranges(t *testing.T, b Backend) {
	const size = 10_000
	p := content(size, 1)
	name := b.put(t, p)
	empty := b.put(t, nil)
	for _, r := range []struct {
		name   string
		off, n int64
		want   []byte
		short  bool
	}{
		{name, 0, -1, p, false},
		{name, 0, size, p, false},
		{name, 0, 1, p[:1], false},
		{name, 1, -1, p[1:], false},
		{name, 4096, 4096, p[4096:8192], false},
		{name, size - 1, 1, p[size-1:], false},
		{name, size - 1, -1, p[size-1:], false},
		{name, 0, 0, nil, false},
		{name, 17, 0, nil, false},
		{name, size, 0, nil, false},
		{name, size, -1, nil, false},
		{name, 0, size + 1, p, true},
		{name, size - 1, 2, p[size-1:], true},
		{name, size, 1, nil, true},
		{name, size + 1, 0, nil, true},
		{name, size + 1, -1, nil, true},
		{name, 1 << 40, 1, nil, true},
		{empty, 0, -1, nil, false},
		{empty, 0, 0, nil, false},
		{empty, 0, 1, nil, true},
		{empty, 1, -1, nil, true},
	} {
		got, err := b.get(t, r.name, r.off, r.n)
		if !r.short && err != nil || r.short && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d+%d of %s: error %v", r.off, r.n, r.name, err)
		}
		if err == nil && !bytes.Equal(got, r.want) || !bytes.HasPrefix(r.want, got) {
			t.Errorf("%d+%d of %s: %d bytes that were never there", r.off, r.n, r.name, len(got))
		}
	}
	if _, err := b.get(t, name, -1, 1); err == nil {
		t.Error("a negative offset is not an error")
	}
}

func large(t *testing.T, b Backend) {
	p := content(b.Large, 2)
	name := b.put(t, p)
	b.same(t, name, p)
	off := int64(b.Large) / 3
	if got, err := b.get(t, name, off, off); err != nil || !bytes.Equal(got, p[off:2*off]) {
		t.Errorf("its middle: %d bytes, %v", len(got), err)
	}
	// A reader that has seen enough closes, and nobody waits for the rest.
	r, err := b.Reader.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	var some [100]byte
	if _, err := io.ReadFull(r, some[:]); err != nil || !bytes.Equal(some[:], p[:100]) {
		t.Errorf("its beginning: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	b.same(t, name, p)
}

var errBroken = errors.New("broken")

// readers puts from readers that end too early, too late and badly. Each time nothing is there, and the right bytes may come
// later.
func readers(t *testing.T, b Backend) {
	for _, size := range []int{1, 5000, b.Large} {
		p := content(size, 3)
		name := b.name(p)
		for what, r := range map[string]io.Reader{
			"short":  bytes.NewReader(p[:size-1]),
			"long":   io.MultiReader(bytes.NewReader(p), strings.NewReader("x")),
			"broken": io.MultiReader(bytes.NewReader(p[:size/2]), failing{errBroken}),
		} {
			err := b.Writer.Put(t.Context(), name, r, int64(size))
			if err == nil {
				t.Errorf("%s, %d bytes: no error", what, size)
			}
			if what == "broken" && !errors.Is(err, errBroken) {
				t.Errorf("%s, %d bytes: %v", what, size, err)
			}
			b.absent(t, name)
		}
		b.same(t, b.put(t, p), p)
	}
	if err := b.Writer.Put(t.Context(), b.name(nil), strings.NewReader(""), -1); err == nil {
		t.Error("a negative size is not an error")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func idempotent(t *testing.T, b Backend) {
	for _, size := range []int{0, 5000, b.Large} {
		p := content(size, 4)
		name := b.put(t, p)
		before, err := b.Reader.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		b.put(t, p)
		b.same(t, name, p)
		if after, err := b.Reader.Stat(t.Context(), name); err != nil || !after.Time.Equal(before.Time) {
			t.Errorf("%d bytes: it was written again: %v, %v, %v", size, before.Time, after.Time, err)
		}
	}
}

func taken(t *testing.T, b Backend) {
	p := content(5000, 5)
	name := b.put(t, p)
	for _, other := range [][]byte{nil, content(4999, 6), content(b.Large, 7)} {
		err := b.Writer.Put(t.Context(), name, bytes.NewReader(other), int64(len(other)))
		if err == nil || b.Name == nil && !errors.Is(err, blob.ErrExists) {
			t.Errorf("put of %d bytes: %v, want ErrExists", len(other), err)
		}
		b.same(t, name, p)
	}
}

func missing(t *testing.T, b Backend) {
	b.absent(t, b.name([]byte("never")))
	name := b.put(t, []byte("x"))
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		b.absent(t, name[:i]) // a folder, perhaps, and no object
		b.absent(t, name[:len(name)-1])
	}
	if _, err := b.get(t, b.name([]byte("never")), 5, 0); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("get nothing: %v, want ErrNotFound", err)
	}
}

func invalidNames(t *testing.T, b Backend) {
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", ".hidden", "a/.hidden", "a b", "a\x00b", "a\\b", "ä", "a?b", "a%2fb",
		"a/b/c/d/e/f/g/h/i", strings.Repeat("a", 129),
	} {
		if err := b.Writer.Put(t.Context(), name, strings.NewReader("x"), 1); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("put %q: %v, want ErrInvalid", name, err)
		}
		if _, err := b.Reader.Get(t.Context(), name, 0, -1); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("get %q: %v, want ErrInvalid", name, err)
		}
		if _, err := b.Reader.Stat(t.Context(), name); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("stat %q: %v, want ErrInvalid", name, err)
		}
		if b.Remover == nil {
			continue
		}
		if err := b.Remover.Remove(t.Context(), name); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("remove %q: %v, want ErrInvalid", name, err)
		}
	}
	if names := b.names(t, ""); len(names) != 0 {
		t.Errorf("there are %q", names)
	}
}

func list(t *testing.T, b Backend) {
	if names := b.names(t, ""); len(names) != 0 {
		t.Fatalf("in an empty one there are %q", names)
	}
	var want []string
	for i := range b.Many {
		want = append(want, b.put(t, fmt.Appendf(nil, "object %d", i)))
	}
	slices.Sort(want)
	if got := b.names(t, ""); !slices.Equal(got, want) {
		t.Fatalf("%d names, or another order, not the %d that were put", len(got), len(want))
	}
	for _, prefix := range []string{want[0], want[0][:len(want[0])-1], want[b.Many/2][:len(want[b.Many/2])-62], want[0] + "x", "../", "/", "."} {
		var some []string
		for _, name := range want {
			if strings.HasPrefix(name, prefix) {
				some = append(some, name)
			}
		}
		if got := b.names(t, prefix); !slices.Equal(got, some) {
			t.Errorf("prefix %q: got %q, want %q", prefix, got, some)
		}
	}
	var first []string
	for info, err := range b.Reader.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size == 0 || info.Time.IsZero() {
			t.Errorf("listed as %+v", info)
		}
		if first = append(first, info.Name); len(first) == 3 {
			break
		}
	}
	if !slices.Equal(first, want[:3]) {
		t.Errorf("the first: %q", first)
	}
}

// listOrder has names among which folders sort otherwise than names do.
func listOrder(t *testing.T, b Backend) {
	if b.Name != nil {
		t.Log("left out: this backend has its own names")
		return
	}
	want := []string{"a-b", "a-b1", "a.b", "a/B", "a/b-c", "a/b/c", "a/b/d", "a/b0", "a0", "aa/b", "b", "c/1/2/3/4/5/6/7"}
	for i := range want {
		name := want[(i*5)%len(want)]
		if err := b.Writer.Put(t.Context(), name, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]string{
		"": want, "a": want[:10], "a/": want[3:8], "a/b": want[4:8], "a/b/": want[5:7], "a-b": want[:2], "c/1/2": want[11:], "c/1/2/3/4/5/6/7": want[11:], "d": nil,
	} {
		if got := b.names(t, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q:\ngot  %q\nwant %q", prefix, got, want)
		}
	}
}
