package pack

import (
	"bytes"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sameIndex(t testing.TB, got, want Index) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("index differs (-want +got):\n%s", diff)
	}
}

func TestRoundTrip(t *testing.T) {
	page := random(1, ChunkSize)
	many := map[string][]byte{}
	for i := range 700 {
		many[string(rune('a'+i%26))+"/"+string(rune('a'+i/26))+"-file"] = random(byte(i), 1+i*7)
	}
	cases := map[string]map[string][]byte{
		"nothing":            {},
		"an empty file":      {"m/empty": {}},
		"odd sizes":          {"1": random(1, 1), "2": random(2, ChunkSize-1), "3": random(3, ChunkSize), "4": random(4, ChunkSize+1), "5": random(5, segmentSize+1), "6": random(6, 5*segmentSize-1)},
		"many":               many,
		"zeros":              {"a": make([]byte, 10*segmentSize), "b": make([]byte, 1), "c": make([]byte, ChunkSize+5)},
		"zeros in between":   {"a": bytes.Join([][]byte{page, make([]byte, 100*ChunkSize), page, make([]byte, 17)}, nil)},
		"duplicate pages":    {"a": bytes.Repeat(page, 300), "b/c": append(bytes.Repeat(page, 3), page[:100]...), "b/d": page[:100]},
		"compressible":       {"a": bytes.Repeat([]byte("what compresses well, "), 100_000)},
		"files as members":   {"m1/pages-1.img": random(7, 3*segmentSize), "m2/pages-1.img": random(7, 3*segmentSize), "m2-x/y": random(7, 100), "m2/z/deep/er/f": {1}},
		"order of the paths": {"a/b": {1}, "a-b/x": {2}, "a.b": {3}, "a0": {4}},
	}
	for name, files := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			x, _ := m.store(t, writeFiles(t, files), nil)
			if len(x.Files) != len(files) {
				t.Errorf("%d files of %d", len(x.Files), len(files))
			}
			sameFiles(t, readFiles(t, m.unpack(t, x)), files)
			_, again := m.store(t, writeFiles(t, files), m.known(t, x.Packs...))
			if again.New != 0 || again.Wrote != 0 {
				t.Errorf("stored again: %+v", again)
			}
		})
	}
}

func TestManyPacksOfOneIngest(t *testing.T) {
	files := map[string][]byte{"a": random(1, 40*segmentSize+5), "b": append(random(2, 1000), make([]byte, 9*ChunkSize)...), "c": random(1, 3*segmentSize)}
	m := newMemory()
	x, done, err := ingest(t.Context(), writeFiles(t, files), testKey, nil, m, IngestOptions{Workers: 3}, 3*segmentSize, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Packs) < 10 {
		t.Fatalf("%d packs", len(done.Packs))
	}
	sameFiles(t, readFiles(t, m.unpack(t, x)), files)
	// What packs of two ingests hold is put together.
	maps.Copy(files, map[string][]byte{"d": random(3, segmentSize+1), "e": append(random(1, 7*segmentSize), random(3, 100)...)})
	y, done := m.store(t, writeFiles(t, files), m.known(t, x.Packs...))
	if want := int64(segmentSize + 1 + 100); done.New != want {
		t.Errorf("%d bytes are new, want %d", done.New, want)
	}
	sameFiles(t, readFiles(t, m.unpack(t, y)), files)
}
