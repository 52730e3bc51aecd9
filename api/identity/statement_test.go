package identity

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// TestStatement: everyone of the cluster can read what an admin states, and nobody else can state anything.
func TestStatement(t *testing.T) {
	a, other := testAuthority(t), testAuthority(t)
	admin, agent := valid(t, a, RoleAdmin, "me"), valid(t, a, RoleAgent, "hostA")
	body := []byte(`{"cut":"20261122-104501-x7k2","n":1}`)
	s, err := admin.SignStatement("cut removed", body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := agent.OpenStatement("cut removed", s)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%s, %v", got, err)
	}
	if _, err := agent.SignStatement("cut removed", body); !errors.Is(err, ErrIdentity) {
		t.Errorf("an agent states: %v", err)
	}
	if _, err := agent.OpenStatement("hosts removed", s); !errors.Is(err, ErrIdentity) {
		t.Errorf("read as another kind: %v", err)
	}
	if _, err := valid(t, other, RoleAgent, "hostA").OpenStatement("cut removed", s); !errors.Is(err, ErrIdentity) {
		t.Errorf("read in another cluster: %v", err)
	}
	if err := agent.VerifySigned(body, s, nil); !errors.Is(err, ErrIdentity) {
		t.Errorf("taken for a signature: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte("{"), []byte("1\n2"), []byte(`{"a":1} x`)} {
		if _, err := admin.SignStatement("cut removed", bad); err == nil {
			t.Errorf("signed %q", bad)
		}
	}
	for _, kind := range []string{"", "Cut", "a\x00b", "a\"b"} {
		if _, err := admin.SignStatement(kind, body); err == nil {
			t.Errorf("signed kind %q", kind)
		}
	}
}

// TestStatementBits: no bit of a statement can be another one.
func TestStatementBits(t *testing.T) {
	a := testAuthority(t)
	admin := valid(t, a, RoleAdmin, "me")
	s, err := admin.SignStatement("cut removed", []byte(`{"n":1}`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(s) * 8 {
		bad := slices.Clone(s)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := admin.OpenStatement("cut removed", bad); err == nil {
			t.Fatalf("bit %d of byte %d does not matter: %q", i%8, i/8, bad)
		}
	}
}
