package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// kinds are the objects that a set is made of.
var kinds = map[string]func(m Manifest) string{
	"manifest": func(m Manifest) string { return SetName(m.Key()) },
	"index":    func(m Manifest) string { return ObjectName(m.Job, m.Index.Digest) },
	"pack":     func(m Manifest) string { return ObjectName(m.Job, m.Packs[0].Digest) },
}

// TestEveryDamageIsFoundAndHealed flips bits, and cuts ends off. What a restore does, Fetch and then Unpack, finds each; and heals it where there is another copy.
func TestEveryDamageIsFoundAndHealed(t *testing.T) {
	const flips, truncations = 1000, 64
	for kind, nameOf := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, other := newStore(t), newStore(t)
			content := files{"hostA-1/pages-1.img": append(random(5<<12, 1), make([]byte, 9000)...), "hostA-1/core-1.img": []byte("registers")}
			m := sealed(t, s, key1, content).Manifest
			_, err := s.Push(context.Background(), key1, asPeer(other))
			ok(t, err)
			ok(t, s.Commit(key1))
			d := damaging{s, m, nameOf(m), []Source{asSource("hostB", other)}, filepath.Join(t.TempDir(), "out"), content}
			info, err := os.Stat(s.objects.Path(d.name))
			ok(t, err)
			for i := range int64(flips) {
				// Spread over the whole object, and over the bits of a byte.
				bit := i*info.Size()*8/flips + i%8
				d.check(t, fmt.Sprintf("bit %d", bit), func(path string) { flip(t, path, bit) })
			}
			for i := range int64(truncations) {
				size := i * info.Size() / truncations
				d.check(t, fmt.Sprintf("cut at %d", size), func(path string) { ok(t, os.Truncate(path, size)) })
			}
		})
	}
}

type damaging struct {
	s       *Store
	m       Manifest
	name    string
	sources []Source
	out     string
	content files
}

func (d damaging) check(t *testing.T, what string, harm func(path string)) {
	t.Helper()
	ctx := context.Background()
	path := d.s.objects.Path(d.name)
	harm(path)
	// What is unpacked without a look is right, or nothing is.
	if err := unpacksTo(d.s, key1, d.m.Digest, d.out, d.content); err != nil && !isIntegrity(err) {
		t.Fatalf("%s: %v", what, err)
	} else if entries, _ := os.ReadDir(d.out); len(entries) != 0 {
		t.Fatalf("%s: left behind in spite of an error", what)
	}
	_, err := d.s.Fetch(ctx, key1, d.m.Digest, false, nil)
	if err == nil {
		t.Fatalf("%s: not found", what)
	}
	wantDamage(t, err, d.name)
	if _, err = d.s.Fetch(ctx, key1, d.m.Digest, false, d.sources); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := unpacksTo(d.s, key1, d.m.Digest, d.out, d.content); err != nil {
		t.Fatalf("%s: healed, and yet %v", what, err)
	}
	if sets, err := d.s.Sets(); err != nil || len(sets) != 1 || !sets[0].Committed {
		t.Fatalf("%s: %v, %v", what, sets, err)
	}
	damaged, err := d.s.Damaged()
	if err != nil || len(damaged) != 1 || !damaged[0].Healed {
		t.Fatalf("%s: %+v, %v", what, damaged, err)
	}
}

// TestManifestDamageIsFoundWithoutItsDigest: a Collect has no digest to compare with.
func TestManifestDamageIsFoundWithoutItsDigest(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	m := sealed(t, s, key1, sample()).Manifest
	path := s.objects.Path(SetName(key1))
	form, err := os.ReadFile(path)
	ok(t, err)
	for bit := range int64(len(form) * 8) {
		bent := append([]byte(nil), form...)
		bent[bit/8] ^= 1 << (bit % 8)
		if _, err := DecodeManifest(bent); !isIntegrity(err) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	flip(t, path, 1234)
	before := objectsOf(t, s, "ring")
	_, err = s.Collect(ctx, "", false)
	wantDamage(t, err, SetName(key1))
	ok(t, s.RemovePartials(ctx))
	if now := objectsOf(t, s, "ring"); len(now) != len(before) {
		t.Fatalf("objects are gone: %q", now)
	}
	if sets, err := s.Sets(); err != nil || len(sets) != 1 || sets[0].Manifest.Schema != 0 {
		t.Fatal(sets, err)
	}
	if damaged, err := s.Damaged(); err != nil || len(damaged) != 1 || damaged[0].Healed || damaged[0].Digest != key1.Snapshot+"/"+key1.Host {
		t.Fatalf("%+v, %v", damaged, err)
	}
	ok(t, os.WriteFile(path, form, 0o600))
	same(t, s, key1, m.Digest, sample())
}

// TestDamageDoesNotFailASnapshot: what cannot be read is not built on.
func TestDamageDoesNotFailASnapshot(t *testing.T) {
	for kind, nameOf := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := newStore(t)
			m := sealed(t, s, key1, sample()).Manifest
			path := s.objects.Path(nameOf(m))
			form, err := os.ReadFile(path)
			ok(t, err)
			ok(t, os.Truncate(path, int64(len(form)-1)))
			made := sealed(t, s, key2, sample())
			if len(made.Ingested.Packs) == 0 {
				t.Fatalf("it builds on what is damaged: %+v", made.Ingested)
			}
			same(t, s, key2, made.Manifest.Digest, sample())
			if damaged, err := s.Damaged(); err != nil || len(damaged) != 1 {
				t.Fatalf("%+v, %v", damaged, err)
			}
			ok(t, os.WriteFile(path, form, 0o600))
		})
	}
}

func TestQuarantineOutlivesTheProcess(t *testing.T) {
	ctx := context.Background()
	s, other := newStore(t), newStore(t)
	m := sealed(t, s, key1, sample()).Manifest
	_, err := s.Push(ctx, key1, asPeer(other))
	ok(t, err)
	name := ObjectName("ring", m.Packs[0].Digest)
	flip(t, s.objects.Path(name), 77)
	_, err = s.Verify(ctx, key1, m.Digest)
	wantDamage(t, err, name)
	_, err = s.Fetch(ctx, key1, m.Digest, true, nil)
	wantDamage(t, err, name)

	again, err := Open(s.dir, Options{})
	ok(t, err)
	damaged, err := again.Damaged()
	if err != nil || len(damaged) != 1 || damaged[0].Digest != m.Packs[0].Digest || damaged[0].Healed || damaged[0].Found.IsZero() {
		t.Fatalf("%+v, %v", damaged, err)
	}
	_, err = again.Fetch(ctx, key1, m.Digest, false, []Source{asSource("hostB", other)})
	ok(t, err)
	if damaged, err := again.Damaged(); err != nil || len(damaged) != 1 || !damaged[0].Healed {
		t.Fatalf("%+v, %v", damaged, err)
	}
	// It goes when it is of no more use, and not before.
	_, err = again.Collect(ctx, "", false)
	ok(t, err)
	third, err := Open(s.dir, Options{})
	ok(t, err)
	if damaged, err := third.Damaged(); err != nil || len(damaged) != 1 {
		t.Fatalf("%+v, %v", damaged, err)
	}
	later := third.now().Add(quarantineTime + 1)
	third.now = func() time.Time { return later }
	_, err = third.Collect(ctx, "", false)
	ok(t, err)
	if damaged, err := third.Damaged(); err != nil || len(damaged) != 0 {
		t.Fatalf("%+v, %v", damaged, err)
	}
}
