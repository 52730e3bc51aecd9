package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ss/store/blob"
	"ss/store/blob/blobtest"
)

// TestPeersAreABackend: what agents do with each other keeps the contract of all backends.
func TestPeersAreABackend(t *testing.T) {
	blobtest.Suite(t, func(t *testing.T) blobtest.Backend {
		s := newStore(t)
		view := s.ForPeers()
		return blobtest.Backend{
			Reader: view, Writer: view,
			Name: func(content []byte) string { return ObjectName("suite", digest(content)) },
			Partials: func(t *testing.T) []string {
				var left []string
				for _, path := range tree(t, s.dir) {
					if strings.HasPrefix(path, ".incoming/") {
						left = append(left, path)
					}
				}
				return left
			},
		}
	})
}

func put(s *Store, name string, data []byte) error {
	return s.ForPeers().Put(context.Background(), name, bytes.NewReader(data), int64(len(data)))
}

func TestPeersPutNothingWrong(t *testing.T) {
	ctx := context.Background()
	from, s := newStore(t), newStore(t)
	m := sealed(t, from, key1, sample()).Manifest
	form, err := readSmall(ctx, from.objects, SetName(key1), maxManifest)
	ok(t, err)

	wantErr(t, put(s, ObjectName("ring", digest([]byte("x"))), []byte("y")), blob.ErrDamaged)
	wantErr(t, put(s, ObjectName("ring", digest([]byte("x"))), nil), blob.ErrDamaged)
	wantErr(t, put(s, SetName(key1), form), ErrMissing, "put it and send the manifest again")
	wantErr(t, put(s, SetName(key2), form), blob.ErrDamaged, key1.String())
	wantErr(t, put(s, SetName(key1), form[1:]), blob.ErrDamaged)
	wantErr(t, put(s, CutName("ring", key1.Snapshot), []byte("x")), blob.ErrDenied)
	wantErr(t, put(s, markName(key1), nil), blob.ErrDenied)
	wantErr(t, put(s, "ring/other/x", []byte("x")), blob.ErrDenied)
	wantErr(t, put(s, "../x", []byte("x")), blob.ErrInvalid)
	if left := tree(t, s.dir); len(left) > 1 {
		t.Fatalf("left behind: %q", left)
	}

	_, err = from.Push(ctx, key1, asPeer(s))
	ok(t, err)
	ok(t, put(s, SetName(key1), form)) // again
	ok(t, s.Commit(key1))
	ok(t, s.PutCut(ctx, "ring", key1.Snapshot, []byte("signed")))
	var names []string
	for info, err := range s.ForPeers().List(ctx, "") {
		ok(t, err)
		names = append(names, info.Name)
	}
	if len(names) != len(m.Objects())+2 {
		t.Fatalf("shown: %q", names)
	}
	if _, err := s.ForPeers().Stat(ctx, markName(key1)); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal("the mark is shown")
	}
	if data, err := readSmall(ctx, s.ForPeers(), CutName("ring", key1.Snapshot), 100); err != nil || string(data) != "signed" {
		t.Fatal(data, err)
	}
}

// TestPeersAreKeptTheirWord: what a peer has put or found stays until its manifest can be there.
func TestPeersAreKeptTheirWord(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	now := time.Unix(1e9, 0)
	s.now = func() time.Time { return now }
	m := sealed(t, s, key1, sample()).Manifest
	ok(t, s.Remove(key1)) // all of it is garbage
	_, err := s.ForPeers().Stat(ctx, ObjectName("ring", m.Index.Digest))
	ok(t, err)
	name := ObjectName("ring", digest([]byte("x")))
	ok(t, put(s, name, []byte("x")))
	g, err := s.Collect(ctx, "ring", false)
	if err != nil || g.Objects != len(m.Packs) {
		t.Fatalf("%+v, %v", g, err)
	}
	now = now.Add(leaseTime)
	g, err = s.Collect(ctx, "ring", false)
	if err != nil || g.Objects != 2 {
		t.Fatalf("%+v, %v", g, err)
	}
}

func TestVault(t *testing.T) {
	ctx := context.Background()
	s, m, _ := pushed(t, 0)
	v, err := blob.OpenDir(t.TempDir() + "/vault")
	ok(t, err)
	for _, key := range []Key{key1, key2} {
		_, err := s.Push(ctx, key, v)
		ok(t, err)
		ok(t, v.Put(ctx, CutName(key.Job, key.Snapshot), strings.NewReader("signed"), 6))
	}
	got, err := VerifyIn(ctx, v, key2, m.Digest)
	if err != nil || got.Digest != m.Digest {
		t.Fatal(got, err)
	}
	for _, job := range []string{"", "ring"} {
		if keys, err := SetsIn(ctx, v, job); err != nil || fmt.Sprint(keys) != fmt.Sprint([]Key{key1, key2}) {
			t.Fatal(keys, err)
		}
	}
	if keys, err := SetsIn(ctx, v, "bank"); err != nil || len(keys) != 0 {
		t.Fatal(keys, err)
	}

	name := ObjectName("ring", m.Packs[1].Digest)
	flip(t, v.Path(name), 5)
	_, err = VerifyIn(ctx, v, key2, m.Digest)
	wantDamage(t, err, name)
	ok(t, v.Remove(ctx, name)) // as VerifyIn says
	moved, err := s.Push(ctx, key2, v)
	if err != nil || moved.Objects != 1 {
		t.Fatal(moved, err)
	}
	flip(t, v.Path(SetName(key2)), 5)
	_, err = CollectIn(ctx, v, "ring", false)
	wantDamage(t, err, SetName(key2))
	_, err = s.Push(ctx, key2, v)
	ok(t, err)
	_, err = VerifyIn(ctx, v, key2, m.Digest)
	ok(t, err)

	if g, err := CollectIn(ctx, v, "ring", false); err != nil || g.Objects != 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	if n, err := RemoveIn(ctx, v, "ring", key2.Snapshot); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	begun := map[string]time.Duration{"killed": 48 * time.Hour, "alive": time.Minute} // how long ago
	for name, ago := range begun {
		path := v.Path(".incoming/" + name)
		ok(t, os.WriteFile(path, []byte("half of it"), 0o600))
		ok(t, os.Chtimes(path, time.Time{}, time.Now().Add(-ago)))
	}
	dry, err := CollectIn(ctx, v, "ring", true)
	ok(t, err)
	if g, err := CollectIn(ctx, v, "ring", false); err != nil || g != dry || g.Objects != 2 {
		t.Fatalf("%+v, %v", g, err)
	}
	for name := range begun {
		if _, err := os.Stat(v.Path(".incoming/" + name)); (err == nil) != (name == "alive") {
			t.Errorf("a transfer that is %s: %v", name, err)
		}
	}
	_, err = VerifyIn(ctx, v, key1, "")
	ok(t, err)
	_, err = VerifyIn(ctx, v, key2, "")
	wantErr(t, err, ErrNotFound)
}

// manifests are forms to begin with.
func manifests() [][]byte {
	m := Manifest{
		Schema: schema, Job: "ring", Snapshot: "s1", Host: "hostA", Epoch: 7, Created: time.Unix(1e9, 5e6).UTC(), KeyID: "0123456789abcdef", Files: 3, Bytes: 1 << 40,
		Index: ObjectRef{digest([]byte("x")), 100, "01234567"},
		Packs: []ObjectRef{{digest([]byte("y")), 32 << 20, "89abcdef"}, {digest([]byte("z")), 5, "00000000"}},
	}
	whole, _ := m.encode()
	m.Packs = nil
	small, _ := m.encode()
	m.Schema = 3
	newer, _ := m.encode()
	return [][]byte{whole, small, newer, []byte(`{"schema":1}`), nil}
}

func TestManifestForms(t *testing.T) {
	forms := manifests()
	for _, form := range forms[:2] {
		if _, err := DecodeManifest(form); err != nil {
			t.Error(err)
		}
	}
	for _, form := range forms[2:4] {
		_, err := DecodeManifest(form)
		wantErr(t, err, ErrUnknownVersion, "schema")
	}
	// Nothing but the canonical form, also where the checksum is right.
	for _, change := range [][2]string{
		{`{"schema":2,`, `{"schema":2, `}, {`{"schema":2,`, `{"schema":0,`}, {`"files":3`, `"files":3.0`}, {`"files":3`, `"files":-3`}, {`"files":3`, `"Files":3`}, {`"files":3`, `"files":3,"x":1`},
		{`"host":"hostA"`, `"host":"../A"`}, {`"key":"0123456789abcdef"`, `"key":"0123456789ABCDEF"`}, {`"packs":[`, `"packs":null,"p":[`},
		{digest([]byte("z")), digest([]byte("y"))}, {`"size":5`, `"size":-5`}, {`"size":5`, `"size":9000000000000000000`}, {`"size":5`, `"size":0`},
	} {
		body := forms[0][:len(forms[0])-sumLength]
		bent := bytes.Replace(body, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(bent, body) {
			t.Fatalf("no %s", change[0])
		}
		form := fmt.Appendf(bent, "%s%s\"}\n", sumField, crcText(crcOf(bent)))
		if _, err := DecodeManifest(form); !isIntegrity(err) {
			t.Errorf("%s for %s: %v", change[1], change[0], err)
		}
	}
}

// FuzzDecodeManifest: whatever is taken is canonical, and nothing makes it panic. The checksum is put right, so that the fuzzer gets past it.
func FuzzDecodeManifest(f *testing.F) {
	for _, form := range manifests() {
		f.Add(form)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, form := range [][]byte{data, fmt.Appendf(bytes.Clone(data[:max(0, len(data)-sumLength)]), "%s%s\"}\n", sumField, crcText(crcOf(data[:max(0, len(data)-sumLength)])))} {
			m, err := DecodeManifest(form)
			if err != nil {
				if !isIntegrity(err) && !errors.Is(err, ErrUnknownVersion) {
					t.Fatalf("%v", err)
				}
				continue
			}
			if again, err := m.encode(); err != nil || !bytes.Equal(again, form) || !json.Valid(form) {
				t.Fatalf("%q became %q, %v", form, again, err)
			}
		}
	})
}
