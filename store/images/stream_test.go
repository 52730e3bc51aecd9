package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// frames is what Send says of a set.
func frames(t testing.TB, s *Store, key Key) []Frame {
	t.Helper()
	var fs []Frame
	check(t, s.Send(context.Background(), key, func(f Frame) error {
		f.Chunk = bytes.Clone(f.Chunk)
		fs = append(fs, f)
		return nil
	}))
	return fs
}

// receive puts frames into a new store and seals them.
func receive(t testing.TB, s *Store, want string, fs []Frame) (Manifest, error) {
	t.Helper()
	r, err := s.Receive(testKey, want)
	check(t, err)
	var putErr error
	for _, f := range fs {
		if putErr = r.Put(f); putErr != nil {
			break
		}
	}
	m, err := r.Seal(context.Background())
	if putErr != nil && err == nil {
		t.Fatalf("sealed after %v", putErr)
	}
	if putErr != nil {
		err = putErr
	}
	if err != nil {
		check(t, r.Discard())
		check(t, r.Discard())
		if left := tree(t, s.dir); len(left) != 0 {
			t.Fatalf("left behind: %q", left)
		}
	}
	return m, err
}

func TestSendReceive(t *testing.T) {
	a, b := newStore(t), newStore(t)
	want := sealed(t, a, testKey)
	for _, digest := range []string{"", want.Digest} {
		got, err := receive(t, b, digest, frames(t, a, testKey))
		check(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		got, err = b.Verify(context.Background(), testKey, want.Digest)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
		if diff := cmp.Diff(tree(t, a.dir), tree(t, b.dir)); diff != "" {
			t.Fatal(diff)
		}
		for path, data := range content() {
			if got, err := os.ReadFile(filepath.Join(b.setDir(testKey), path)); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s: %v", path, err)
			}
		}
		keys, err := b.InDoubt()
		if err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		check(t, b.Remove(testKey))
	}
}

func TestEmitFails(t *testing.T) {
	s := newStore(t)
	sealed(t, s, testKey)
	stop := errors.New("peer is gone")
	for n := range len(frames(t, s, testKey)) {
		i := 0
		err := s.Send(context.Background(), testKey, func(Frame) error {
			if i++; i > n {
				return stop
			}
			return nil
		})
		wantErr(t, err, stop)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantErr(t, s.Send(ctx, testKey, func(Frame) error { return nil }), context.Canceled)
	wantErr(t, s.Send(ctx, Key{"a", "b", "c"}, func(Frame) error { return nil }), ErrNotFound)
}

// TestReceiverRefuses spoils a stream in every way we could think of.
func TestReceiverRefuses(t *testing.T) {
	a := newStore(t)
	m := sealed(t, a, testKey)
	good := frames(t, a, testKey)
	at := func(fs []Frame, path string) int {
		for i, f := range fs {
			if f.Kind == FrameFile && f.Path == path {
				return i
			}
		}
		t.Fatalf("no %s", path)
		return 0
	}
	clone := func() []Frame {
		fs := make([]Frame, len(good))
		for i, f := range good {
			f.Chunk = bytes.Clone(f.Chunk)
			fs[i] = f
		}
		return fs
	}
	cut := func(fs []Frame, from, to int) []Frame { return append(fs[:from:from], fs[to:]...) }
	put := func(fs []Frame, at int, f ...Frame) []Frame {
		return append(append(fs[:at:at], f...), fs[at:]...)
	}
	const pages = "hostA-1/pages-1.img"
	for name, spoil := range map[string]func(fs []Frame) []Frame{
		"nothing":               func([]Frame) []Frame { return nil },
		"no manifest":           func(fs []Frame) []Frame { return fs[2:] },
		"manifest twice":        func(fs []Frame) []Frame { return put(fs, 2, fs[0], fs[1]) },
		"endless manifest":      func(fs []Frame) []Frame { fs[0].Size = maxManifest + 1; return fs },
		"no end":                func(fs []Frame) []Frame { return fs[:len(fs)-1] },
		"early end":             func(fs []Frame) []Frame { return cut(fs, at(fs, pages), len(fs)-1) },
		"end in a file":         func(fs []Frame) []Frame { return cut(fs, at(fs, pages)+2, len(fs)-1) },
		"end in the manifest":   func(fs []Frame) []Frame { return cut(fs, 1, len(fs)-1) },
		"end at once":           func(fs []Frame) []Frame { return fs[len(fs)-1:] },
		"another digest at end": func(fs []Frame) []Frame { fs[len(fs)-1].Digest = strings.Repeat("0", 64); return fs },
		"more after the end":    func(fs []Frame) []Frame { return append(fs, fs[len(fs)-1]) },
		"a file left out":       func(fs []Frame) []Frame { i := at(fs, "hostA-1/core-1001.img"); return cut(fs, i, i+2) },
		"another file":          func(fs []Frame) []Frame { fs[at(fs, pages)].Path = "hostA-1/pages-2.img"; return fs },
		"another size":          func(fs []Frame) []Frame { fs[at(fs, pages)].Size--; return fs },
		"an extra file": func(fs []Frame) []Frame {
			return put(fs, len(fs)-1, Frame{Kind: FrameFile, Path: "hostB/z", Size: 1}, Frame{Kind: FrameChunk, Chunk: []byte("z")})
		},
		"a path upward":     func(fs []Frame) []Frame { fs[at(fs, pages)].Path = "../../../../etc/cron.d/x"; return fs },
		"file within file":  func(fs []Frame) []Frame { return put(fs, at(fs, pages)+2, fs[at(fs, "hostA-2/core-1001.img")]) },
		"flipped bit":       func(fs []Frame) []Frame { fs[at(fs, pages)+2].Chunk[5] ^= 4; return fs },
		"flipped last byte": func(fs []Frame) []Frame { fs[at(fs, pages)+3].Chunk[0] ^= 4; return fs },
		"short chunk":       func(fs []Frame) []Frame { i := at(fs, pages) + 2; fs[i].Chunk = fs[i].Chunk[1:]; return fs },
		"long chunk":        func(fs []Frame) []Frame { i := at(fs, pages) + 3; fs[i].Chunk = append(fs[i].Chunk, 0); return fs },
		"huge chunk":        func(fs []Frame) []Frame { fs[at(fs, pages)+1].Chunk = make([]byte, chunkSize+1); return fs },
		"empty chunk":       func(fs []Frame) []Frame { return put(fs, at(fs, pages)+1, Frame{Kind: FrameChunk}) },
		"chunk of no file":  func(fs []Frame) []Frame { return put(fs, 2, Frame{Kind: FrameChunk, Chunk: []byte("x")}) },
		"chunks swapped": func(fs []Frame) []Frame {
			i := at(fs, pages) + 1
			fs[i], fs[i+1] = fs[i+1], fs[i]
			return fs
		},
		"unknown frame": func(fs []Frame) []Frame { return put(fs, 2, Frame{Kind: 9}) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := receive(t, newStore(t), "", spoil(clone()))
			if !errors.Is(err, ErrInvalid) && !errors.As(err, new(*IntegrityError)) {
				t.Fatalf("not refused: %v", err)
			}
			t.Log(err)
		})
	}
	_, err := receive(t, newStore(t), strings.Repeat("0", 64), clone())
	wantDamage(t, err, manifestName, KindDigest)
	b := newStore(t)
	_, err = receive(t, b, m.Digest, clone())
	check(t, err)
	_, err = b.Receive(testKey, "")
	wantErr(t, err, ErrExists)
}

// TestReceivedManifests: what a manifest may not say, whoever sends it.
func TestReceivedManifests(t *testing.T) {
	sum := digest([]byte("x"))
	base := func(files ...File) Manifest {
		return Manifest{Schema: schema, Job: testKey.Job, Snapshot: testKey.Snapshot, Host: testKey.Host, Files: files}
	}
	file := func(path string) File {
		return File{Path: path, Size: 1, Mode: 0o600, SHA256: sum, CRC32C: []string{"00000000"}}
	}
	stream := func(m Manifest) []Frame {
		data, err := m.encode()
		check(t, err)
		fs := []Frame{{Kind: FrameFile, Path: manifestName, Size: int64(len(data))}, {Kind: FrameChunk, Chunk: data}}
		for _, f := range m.Files {
			fs = append(fs, Frame{Kind: FrameFile, Path: f.Path, Size: f.Size}, Frame{Kind: FrameChunk, Chunk: []byte("x")})
		}
		return append(fs, Frame{Kind: FrameEnd, Digest: digest(data)})
	}
	if _, err := receive(t, newStore(t), "", stream(base(file("m/a"), file("m/a-b"), file("m/c/d")))); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*File)) Manifest { f := file("m/a"); change(&f); return base(f) }
	other := base(file("m/a"))
	other.Host = "hostB"
	for name, m := range map[string]Manifest{
		"upward":             base(file("../a")),
		"upward in a member": base(file("m/../../a")),
		"absolute":           base(file("/etc/passwd")),
		"absolute member":    base(file("//m/a")),
		"no member":          base(file("a")),
		"empty":              base(file("")),
		"folder":             base(file("m/")),
		"dots":               base(file("m/./a")),
		"the manifest":       base(file("manifest.json/a")),
		"the marker":         base(file("committed/a")),
		"hidden member":      base(file(".m/a")),
		"NUL":                base(file("m/a\x00b")),
		"backslash":          base(file(`m/..\a`)),
		"long element":       base(file("m/" + strings.Repeat("a", 256))),
		"long path":          base(file("m" + strings.Repeat("/aaaaaaaaa", 110))),
		"twice":              base(file("m/a"), file("m/a")),
		"unsorted":           base(file("m/b"), file("m/a")),
		"file and folder":    base(file("m/a"), file("m/a-b"), file("m/a/b")),
		"negative size":      with(func(f *File) { f.Size = -1 }),
		"sizes overflow":     base(File{"m/a", 1 << 62, 0, sum, nil}, File{"m/b", 1 << 62, 0, sum, nil}),
		"setuid":             with(func(f *File) { f.Mode = 0o4700 }),
		"open to others":     with(func(f *File) { f.Mode = 0o644 }),
		"short digest":       with(func(f *File) { f.SHA256 = "abcd" }),
		"missing checksum":   with(func(f *File) { f.CRC32C = []string{} }),
		"checksum too many":  with(func(f *File) { f.CRC32C = append(f.CRC32C, "00000000") }),
		"capital digest":     with(func(f *File) { f.SHA256 = strings.ToUpper(sum) }),
		"another host's":     other,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := receive(t, newStore(t), "", stream(m))
			wantDamage(t, err, manifestName, KindManifest)
		})
	}
	huge := with(func(f *File) {
		f.Size = 1 << 40
		f.CRC32C = slices.Repeat(f.CRC32C, int(f.parts()))
	})
	_, err := receive(t, newStore(t), "", stream(huge))
	wantErr(t, err, ErrNoSpace)
	newer := base(file("m/a"))
	newer.Schema = 2
	_, err = receive(t, newStore(t), "", stream(newer))
	wantErr(t, err, ErrUnknownVersion)
}

// TestOneForm: a manifest that says the same in another form is refused, so one digest is one meaning.
func TestOneForm(t *testing.T) {
	s := newStore(t)
	sealed(t, s, testKey)
	data, err := os.ReadFile(filepath.Join(s.setDir(testKey), manifestName))
	check(t, err)
	for name, bad := range map[string][]byte{
		"space":           bytes.Replace(data, []byte(`:`), []byte(`: `), 1),
		"no line feed":    bytes.TrimSpace(data),
		"unknown field":   bytes.Replace(data, []byte(`"job"`), []byte(`"x":1,"job"`), 1),
		"field twice":     bytes.Replace(data, []byte(`"job"`), []byte(`"job":"other","job"`), 1),
		"another case":    bytes.Replace(data, []byte(`"job"`), []byte(`"Job"`), 1),
		"another order":   bytes.Replace(data, []byte(`"schema":1,"job":"ring"`), []byte(`"job":"ring","schema":1`), 1),
		"second document": append(bytes.Clone(data), data...),
		"another zone":    bytes.Replace(data, []byte(`Z"`), []byte(`+00:00"`), 1),
	} {
		if bytes.Equal(bad, data) {
			t.Fatalf("%s: nothing changed", name)
		}
		_, err := decodeManifest(bad)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzManifest(f *testing.F) {
	s := newStore(f)
	sealed(f, s, testKey)
	data, err := os.ReadFile(filepath.Join(s.setDir(testKey), manifestName))
	check(f, err)
	f.Add(data)
	f.Add([]byte(`{"schema":1,"job":"j","snapshot":"s","epoch":0,"host":"h","created":"0001-01-01T00:00:00Z","files":[],"meta":null}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(data)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil || !bytes.Equal(again, data) || m.Digest != digest(data) {
			t.Fatalf("accepted another form: %q", data)
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) {
				t.Fatalf("accepted path %q", file.Path)
			}
		}
	})
}

// FuzzFrames makes a stream of the fuzzer's bytes; whatever is accepted verifies, and nothing is written elsewhere.
func FuzzFrames(f *testing.F) {
	type wire struct {
		K FrameKind
		P string
		N int64
		C []byte
		D string
	}
	a := newStore(f)
	p, err := a.Begin(testKey)
	check(f, err)
	dir, err := p.Dir("m")
	check(f, err)
	check(f, os.WriteFile(filepath.Join(dir, "x"), []byte("hello"), 0o600))
	_, err = p.Seal(context.Background(), Info{})
	check(f, err)
	var seed []wire
	for _, fr := range frames(f, a, testKey) {
		seed = append(seed, wire{fr.Kind, fr.Path, fr.Size, fr.Chunk, fr.Digest})
	}
	data, err := json.Marshal(seed)
	check(f, err)
	f.Add(data)
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		var ws []wire
		if json.Unmarshal(data, &ws) != nil {
			return
		}
		outer, err := os.MkdirTemp(base, "")
		check(t, err)
		defer os.RemoveAll(outer)
		s, err := Open(filepath.Join(outer, "images"))
		check(t, err)
		r, err := s.Receive(testKey, "")
		check(t, err)
		for _, w := range ws {
			if r.Put(Frame{w.K, w.P, w.N, w.C, w.D}) != nil {
				break
			}
		}
		if _, err := r.Seal(context.Background()); err == nil {
			if _, err := s.Verify(context.Background(), testKey, ""); err != nil {
				t.Fatal(err)
			}
		} else {
			check(t, r.Discard())
			if left := tree(t, s.dir); len(left) != 0 {
				t.Fatalf("left behind: %q", left)
			}
		}
		if names, _ := os.ReadDir(outer); len(names) != 1 {
			t.Fatalf("written outside: %v", names)
		}
	})
}
