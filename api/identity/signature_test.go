package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"
	"time"
)

func TestSign(t *testing.T) {
	a, other := testAuthority(t), testAuthority(t)
	admin, agent := valid(t, a, RoleAdmin, "me"), valid(t, a, RoleAgent, "hostA")
	data := []byte("what was recorded")
	signature, certificate, err := admin.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Credentials{admin, agent, valid(t, a, RoleObserver, "eye")} { // everyone of the cluster can check it
		if err := c.VerifySigned(data, signature, certificate); err != nil {
			t.Errorf("%s: %v", c.Identity(), err)
		}
	}
	for _, c := range []*Credentials{agent, valid(t, a, RoleObserver, "eye")} {
		if _, _, err := c.Sign(data); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s signs: %v", c.Identity(), err)
		}
	}

	now := time.Now()
	id := func(role Role) Identity { return Identity{Cluster: a.cluster, Role: role, Name: "me"} }
	expired := issue(t, a, id(RoleAdmin), now.Add(-50*time.Minute), now.Add(-time.Minute))
	if signature, certificate, err := expired.Sign(data); err != nil || agent.VerifySigned(data, signature, certificate) != nil {
		t.Errorf("an admin whose certificate expired: %v, %v", err, agent.VerifySigned(data, signature, certificate))
	}
	selfSigned := testAuthority(t) // claims this cluster
	selfSigned.cluster = a.cluster
	forged := *agent // an agent that takes itself for an admin
	forged.id.Role = RoleAdmin
	alien := issue(t, a, Identity{Cluster: other.cluster, Role: RoleAdmin, Name: "me"}, now.Add(-time.Hour), now.Add(time.Hour))
	for name, c := range map[string]*Credentials{
		"an admin of another cluster":              valid(t, other, RoleAdmin, "me"),
		"one whose certificate an impostor signed": issue(t, selfSigned, id(RoleAdmin), now.Add(-50*time.Minute), now.Add(time.Hour)),
		"an agent": &forged,
		"our signature, but another cluster's identity": alien,
	} {
		signature, certificate, err := c.Sign(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := admin.VerifySigned(data, signature, certificate); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignatureFitsItsDataOnly(t *testing.T) {
	a := testAuthority(t)
	admin, second := valid(t, a, RoleAdmin, "me"), valid(t, a, RoleAdmin, "me2")
	data := []byte("what was recorded")
	signature, certificate, err := admin.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	_, another, err := second.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	plain, err := ecdsa.SignASN1(rand.Reader, admin.cert.PrivateKey.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ data, signature, certificate []byte }{
		"other data":                  {[]byte("what was not"), signature, certificate},
		"no data":                     {nil, signature, certificate},
		"no signature":                {data, nil, certificate},
		"no certificate":              {data, signature, nil},
		"another admin's certificate": {data, signature, another},
		"two certificates":            {data, signature, append(bytes.Clone(certificate), another...)},
		"a line feed more":            {data, signature, append(bytes.Clone(certificate), '\n')},
		"text before the certificate": {data, signature, append([]byte("x\n"), certificate...)},
		"a signature and more":        {data, append(bytes.Clone(signature), 0), certificate},
		"a signature without prefix":  {data, plain, certificate},
	} {
		if err := admin.VerifySigned(tt.data, tt.signature, tt.certificate); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range len(certificate) * 8 {
		bad := bytes.Clone(certificate)
		bad[i/8] ^= 1 << (i % 8)
		if admin.VerifySigned(data, signature, bad) == nil {
			t.Fatalf("bit %d of the certificate: not found", i)
		}
	}
	for i := range len(signature) * 8 {
		bad := bytes.Clone(signature)
		bad[i/8] ^= 1 << (i % 8)
		if admin.VerifySigned(data, bad, certificate) == nil {
			t.Fatalf("bit %d of the signature: not found", i)
		}
	}
}
