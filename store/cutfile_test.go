package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ss/api/identity"
)

// seal is a Signer and Verifier for tests that are not about signatures.
type seal struct{}

func (seal) Sign(data []byte) (signature, certificate []byte, err error) {
	sum := sha256.Sum256(data)
	return sum[:], []byte("-----a certificate-----\n"), nil
}

func (s seal) VerifySigned(data, signature, certificate []byte) error {
	want, cert, _ := s.Sign(data)
	if !bytes.Equal(want, signature) || !bytes.Equal(cert, certificate) {
		return errors.New("bad signature")
	}
	return nil
}

// admin is the real thing.
func admin(t testing.TB) *identity.Credentials {
	t.Helper()
	a, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Issue(identity.RoleAdmin, "me")
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func cutFile() CutFile {
	at := time.Date(2026, 11, 22, 10, 45, 1, 113e6, time.UTC)
	cut := sample(Attempt{ID: "20261122-104501-x7k2", Job: "ring", Epoch: 7})
	cut.Time, cut.Pinned, cut.Key, cut.KeyID = at, true, "-----BEGIN AGE…", "0123456789abcdef"
	cut.Hosts[0].Vaults = []string{"s3://bucket/prefix?a=b&c=<d>"}
	cut.Hosts[0].Members[0].Env = nil
	return CutFile{
		Schema: 2, Signed: at.Add(time.Second),
		Cluster: Cluster{ID: "abc", Created: at.Add(-time.Hour), Recipients: []string{"age1x"}, Vaults: []string{"file:///v"}},
		Job: Job{
			Name: "ring", Created: at.Add(-time.Minute), Placement: map[string][]Placed{"hostA": Running("hostA-1"), "hostB": {}},
			Policy: Policy{Copies: 3, Vaults: []string{}, Keep: Keep{Last: 5}}, Key: "-----BEGIN AGE…", KeyID: "0123456789abcdef", Epoch: 9,
		},
		Epoch: 9,
		Hosts: []Host{{Name: "hostA", Addr: "10.0.0.1:7070", Added: at}, {Name: "hostB", Addr: "10.0.0.2:7070", Added: at}},
		Cut:   cut,
	}
}

func TestCutFile(t *testing.T) {
	want, a := cutFile(), admin(t)
	data, err := want.Encode(a)
	check(t, err)
	if bytes.Count(data, []byte("\n")) != 1 || data[len(data)-1] != '\n' || !bytes.HasPrefix(data, []byte(`{"cut":{"schema":2,"signed":"2026-11-22T10:45:02.113Z","cluster":{`)) {
		t.Fatalf("form: %s", data)
	}
	got, err := DecodeCutFile(data, a)
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	_, err = DecodeCutFile(data, admin(t))
	wantErr(t, err, ErrCorrupt)
	wantErr(t, err, identity.ErrIdentity) // of another cluster

	// One value has one form, however it is put together.
	same := cutFile()
	same.Schema, same.Job.Epoch = 0, 0
	same.Hosts[0], same.Hosts[1] = same.Hosts[1], same.Hosts[0]
	same.Cut.Time = same.Cut.Time.In(time.FixedZone("", 3600))
	one, err := want.Encode(seal{})
	check(t, err)
	two, err := same.Encode(seal{})
	check(t, err)
	if !bytes.Equal(one, two) {
		t.Fatalf("two forms:\n%s\n%s", one, two)
	}
	if same.Hosts[0].Name != "hostB" {
		t.Error("Encode changed its receiver")
	}
	fresh := cutFile()
	fresh.Signed = time.Time{}
	before := now()
	data, err = fresh.Encode(seal{})
	check(t, err)
	got, err = DecodeCutFile(data, seal{})
	check(t, err)
	if got.Signed.Before(before) || got.Signed.After(now()) {
		t.Errorf("signed at %v", got.Signed)
	}
}

// TestCutFileOfAnyText: what is not UTF-8, or is written by JSON in a way of its own, has a form that is read back.
func TestCutFileOfAnyText(t *testing.T) {
	f := cutFile()
	f.Cut.Label = "a\xffb \u2028 <&> \"\\ \x00 \ufffd"
	f.Cut.Hosts[0].Members[0].Dir = "\xfe\xff"
	f.Cut.Hosts[0].Members[0].Command = nil
	f.Job.Placement, f.Job.Policy.Vaults = nil, nil
	data, err := f.Encode(seal{})
	check(t, err)
	got, err := DecodeCutFile(data, seal{})
	check(t, err)
	if got.Cut.Label != "a\ufffdb \u2028 <&> \"\\ \x00 \ufffd" || got.Job.Policy.Vaults != nil {
		t.Errorf("%q, %v", got.Cut.Label, got.Job.Policy.Vaults)
	}
}

// TestCutFileHasNoEnvironment: it is kept unencrypted by every holder, and variables are where programs have their passwords from.
func TestCutFileHasNoEnvironment(t *testing.T) {
	f := cutFile()
	f.Cut.Hosts[0].Members[0].Env = []string{"PASSWORD=hunter2"}
	data, err := f.Encode(seal{})
	check(t, err)
	if bytes.Contains(data, []byte("hunter2")) || bytes.Contains(data, []byte(`"env"`)) {
		t.Errorf("the environment is in %s", data)
	}
	if len(f.Cut.Hosts[0].Members[0].Env) != 1 {
		t.Error("Encode changed its receiver")
	}
	got, err := DecodeCutFile(data, seal{})
	check(t, err)
	if diff := cmp.Diff(cutFile(), got); diff != "" {
		t.Error(diff)
	}
	payload, err := json.Marshal(f)
	check(t, err)
	_, err = DecodeCutFile(signed(t, payload), seal{})
	wantErr(t, err, ErrCorrupt, "another form")
}

// TestDamagedCutFile: 1,000 flipped bits and 64 truncations; each is refused.
func TestDamagedCutFile(t *testing.T) {
	a := admin(t)
	data, err := cutFile().Encode(a)
	check(t, err)
	refused := func(what string, bad []byte) {
		t.Helper()
		if _, err := DecodeCutFile(bad, a); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	for i, bit := range rand.New(rand.NewPCG(seed, 1)).Perm(len(data) * 8)[:1000] {
		bad := bytes.Clone(data)
		bad[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("seed %d, flip %d, bit %d of byte %d", seed, i, bit%8, bit/8), bad)
	}
	for i := range 64 {
		size := i * (len(data) - 1) / 63
		refused(fmt.Sprintf("%d of %d bytes", size, len(data)), data[:size])
	}
	refused("a line feed more", append(bytes.Clone(data), '\n'))
	refused("two", append(bytes.Clone(data), data...))
	refused("too long", make([]byte, maxCutFile+1))
}

// signed puts a payload of whatever form into a signed file.
func signed(t testing.TB, payload []byte) []byte {
	t.Helper()
	signature, certificate, _ := seal{}.Sign(append([]byte(cutFileDomain), payload...))
	data, err := signedCut{payload, signature, string(certificate)}.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCutFileForms: an admin's signature does not make another form, or an impossible cut, a good one.
func TestCutFileForms(t *testing.T) {
	f := cutFile()
	payload, err := f.payload()
	check(t, err)
	text := string(payload)
	_, err = DecodeCutFile(signed(t, payload), seal{})
	check(t, err)
	_, err = DecodeCutFile(signed(t, []byte(strings.Replace(text, `"schema":2`, `"schema":3`, 1))), seal{})
	wantErr(t, err, ErrUnknownVersion, "schema 3", "newer ssctl")
	f.Cut.Imported = &Imported{From: "abc", Time: f.Signed}
	payload, err = f.payload()
	check(t, err)
	got, err := DecodeCutFile(signed(t, payload), seal{})
	check(t, err)
	if got.Schema != 2 || got.Cut.Imported == nil || got.Cut.Imported.From != "abc" {
		t.Errorf("imported: %+v", got)
	}
	_, err = DecodeCutFile(signed(t, []byte(strings.Replace(string(payload), `"schema":2`, `"schema":1`, 1))), seal{})
	wantErr(t, err, ErrCorrupt)
	_, err = DecodeCutFile(signed(t, []byte(`{"schema":7,"shape":"new"}`)), seal{})
	wantErr(t, err, ErrUnknownVersion)
	for name, bad := range map[string]string{
		"nothing":            `null`,
		"a blank":            strings.Replace(text, `"schema":2`, `"schema": 2`, 1),
		"a field more":       strings.Replace(text, `"schema":2`, `"schema":2,"more":2`, 1),
		"a field twice":      strings.Replace(text, `"schema":2`, `"schema":2,"schema":2`, 1),
		"a blank at its end": text + " ",
		"a field less":       strings.Replace(text, `"stopped":true,`, ``, 1),
		"another case":       strings.Replace(text, `"epoch"`, `"Epoch"`, 1),
		"another number":     strings.Replace(text, `"epoch":9`, `"epoch":9.0`, 1),
		"an escape":          strings.Replace(text, `"hostA"`, `"\u0068ostA"`, 1),
		"another zone":       strings.Replace(text, `10:45:02.113Z`, `11:45:02.113+01:00`, 1),
		"no time of signing": strings.Replace(text, `2026-11-22T10:45:02.113Z`, `0001-01-01T00:00:00Z`, 1),
	} {
		if bad == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := DecodeCutFile(signed(t, []byte(bad)), seal{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*CutFile){
		"another job's cut":      func(f *CutFile) { f.Cut.Job = "bank" },
		"a cut of the future":    func(f *CutFile) { f.Cut.Epoch = 10 },
		"an epoch near the end":  func(f *CutFile) { f.Epoch = 1 << 63 },
		"a job without a name":   func(f *CutFile) { f.Job.Name, f.Cut.Job = "", "" },
		"a name that is a path":  func(f *CutFile) { f.Cut.ID = "../x" },
		"a host twice":           func(f *CutFile) { f.Hosts = append(f.Hosts, f.Hosts[0]) },
		"a host without address": func(f *CutFile) { f.Hosts[0].Addr = "" },
		"no parts":               func(f *CutFile) { f.Cut.Hosts = nil },
		"a part twice":           func(f *CutFile) { f.Cut.Hosts = append(f.Cut.Hosts, f.Cut.Hosts[0]) },
		"no digest":              func(f *CutFile) { f.Cut.Hosts[0].Manifest = "AB" + strings.Repeat("ab", 31) },
		"a holder that is none":  func(f *CutFile) { f.Cut.Hosts[0].Copies = []string{"a b"} },
		"a member on two hosts":  func(f *CutFile) { f.Job.Placement["hostB"] = Running("hostA-1") },
		"half a key":             func(f *CutFile) { f.Job.KeyID = "" },
		"an impossible policy":   func(f *CutFile) { f.Job.Policy.Copies = 17 },
		"a year that JSON lacks": func(f *CutFile) { f.Cut.Time = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		f := cutFile()
		change(&f)
		if _, err := f.Encode(seal{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: encode: %v", name, err)
		}
		payload, err := json.Marshal(f)
		if err != nil {
			continue
		}
		if _, err := DecodeCutFile(signed(t, payload), seal{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: decode: %v", name, err)
		}
	}
}

func FuzzDecodeCutFile(f *testing.F) {
	payload, err := cutFile().payload()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Add(signed(f, payload))
	f.Add([]byte(`{"schema":1,"signed":"2026-11-22T10:45:02Z","cluster":{"id":"a","created":"2026-11-22T10:45:02Z","recipients":null}}`))
	f.Add([]byte(`{"cut":{},"signature":"","certificate":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The bytes as a file, and as what an admin has signed: no mutation would find a signature.
		for _, file := range [][]byte{data, signed(t, data)} {
			got, err := DecodeCutFile(file, seal{})
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
					t.Fatal(err)
				}
				continue
			}
			again, err := got.Encode(seal{})
			if err != nil || !bytes.Equal(again, file) {
				t.Fatalf("%v: %q became %q", err, file, again)
			}
			if r, _ := Reconcile([]CutFile{got}, nil); len(r.Jobs) != 1 || len(r.Cuts) != 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
