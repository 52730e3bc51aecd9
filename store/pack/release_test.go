package pack

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"testing"
)

// TestRelease: when a piece of a file is released, each of its chunks is in a durable pack other than the last one, known from before, or zeros; and pieces come in
// the files' order without gaps, as far as they come.
func TestRelease(t *testing.T) {
	page := func(n byte) []byte { return random(n, ChunkSize) }
	old := map[string][]byte{"old": random(90, 3*segmentSize)}
	files := map[string][]byte{
		"a": random(1, 2*segmentSize+17*ChunkSize),
		"b": {},
		"c": bytes.Join([][]byte{random(2, 30*ChunkSize), old["old"], bytes.Repeat(page(3), 200), make([]byte, segmentSize)}, nil),
		"d": bytes.Join([][]byte{page(3), random(4, 5*segmentSize), random(1, 9)}, nil),
		"e": bytes.Repeat(random(5, 10*ChunkSize), 20),
		"f": random(6, 3*segmentSize+1),
	}
	before := newMemory()
	_, done, err := ingest(t.Context(), writeFiles(t, old), testKey, nil, before, IngestOptions{}, TargetSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	known := map[Name]bool{}
	for _, p := range done.Packs {
		addNames(t, known, before.objects[p.Digest], p)
	}
	for _, workers := range []int{1, 4} {
		m := newMemory()
		durable, last := map[Name]bool{}, map[Name]bool{}
		namer := NewNamer(testKey)
		ends := map[string]int64{}
		var order []string
		opt := IngestOptions{Workers: workers, Stored: func(p PackRef) {
			m.mu.Lock()
			defer m.mu.Unlock()
			maps.Copy(durable, last)
			last = map[Name]bool{}
			addNames(t, last, m.objects[p.Digest], p)
		}, Release: func(path string, from, to int64) {
			if from != ends[path] || to <= from || to > int64(len(files[path])) {
				t.Errorf("%s: from %d to %d, after %d of %d", path, from, to, ends[path], len(files[path]))
			}
			ends[path] = to
			if from == 0 {
				order = append(order, path)
			}
			for at := from; at < to; at += ChunkSize {
				chunk := files[path][at:min(at+ChunkSize, int64(len(files[path])))]
				if name := namer.Name(chunk); !isZero(chunk) && !durable[name] && !known[name] {
					t.Errorf("%s: the chunk at %d is released, and in no pack", path, at)
					return
				}
			}
		}}
		_, _, err := ingest(context.Background(), writeFiles(t, files), testKey, before.known(t, done.Packs...), m, opt, 2*segmentSize, new(counter))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"a", "c", "d", "e", "f"}; !slices.Equal(order, want[:len(order)]) || len(order) < 3 {
			t.Errorf("released %v", order)
		}
		for i, path := range order[:len(order)-1] {
			if ends[path] != int64(len(files[path])) {
				t.Errorf("%s is released up to %d of %d, and %s comes after it", path, ends[path], len(files[path]), order[i+1])
			}
		}
	}
}

func addNames(t *testing.T, to map[Name]bool, pack []byte, ref PackRef) {
	t.Helper()
	names, err := ReadTable(bytes.NewReader(pack), ref.Size, testKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		to[n] = true
	}
}
