package identity

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAuthorityOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := CreateAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, "ca.key": 0o600, "ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", name, info.Mode().Perm(), want)
		}
	}
	before, _ := os.ReadFile(filepath.Join(dir, "ca.key"))
	if _, err := CreateAuthority(dir); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second create: %v", err)
	}
	after, _ := os.ReadFile(filepath.Join(dir, "ca.key"))
	if string(before) != string(after) {
		t.Fatal("the key was replaced")
	}
	b, err := LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Cluster() != b.Cluster() || len(a.Cluster()) != 32 {
		t.Fatalf("clusters %q, %q", a.Cluster(), b.Cluster())
	}
	if life := time.Until(b.cert.NotAfter); life < 3649*24*time.Hour {
		t.Fatalf("authority lives %v", life)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestBundleOnDisk(t *testing.T) {
	a := testAuthority(t)
	dir := filepath.Join(t.TempDir(), "hostA")
	path := func(name string) string { return filepath.Join(dir, name) }
	load := func() (*Credentials, error) {
		return LoadBundle(path("hostA.crt"), path("hostA.key"), path("ca.crt"))
	}
	b, err := a.Issue(RoleAgent, "hostA")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Write(dir, "hostA"); err != nil {
		t.Fatal(err)
	}
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Identity{a.cluster, RoleAgent, "hostA"}); c.Identity() != want {
		t.Fatalf("identity %v", c.Identity())
	}
	if left := time.Until(c.NotAfter()); left < 364*24*time.Hour || left > 366*24*time.Hour {
		t.Fatalf("valid for %v", left)
	}
	renewed, _ := a.Issue(RoleAgent, "hostA")
	if err := renewed.Write(dir, "hostA"); err != nil {
		t.Fatalf("renew: %v", err)
	}
	if _, err := load(); err != nil {
		t.Fatal(err)
	}

}

func TestBundleRefused(t *testing.T) {
	a := testAuthority(t)
	dir := filepath.Join(t.TempDir(), "hostA")
	path := func(name string) string { return filepath.Join(dir, name) }
	load := func() (*Credentials, error) {
		return LoadBundle(path("hostA.crt"), path("hostA.key"), path("ca.crt"))
	}
	b, err := a.Issue(RoleAgent, "hostA")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Write(dir, "hostA"); err != nil {
		t.Fatal(err)
	}
	refused := func(what, want string) {
		t.Helper()
		if _, err := load(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", what, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(path("hostA.key"), 0o640))
	refused("key of the group", "chmod 600")
	must(os.Chmod(path("hostA.key"), 0o600))
	must(os.Chmod(dir, 0o770))
	refused("folder of the group", "chmod 700")
	if err := b.Write(dir, "hostA"); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("write into an open folder: %v", err)
	}
	must(os.Chmod(dir, 0o700))

	foreign, _ := testAuthority(t).Issue(RoleAgent, "hostA")
	if err := foreign.Write(dir, "hostA"); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster's bundle: %v", err)
	}
	must(os.WriteFile(path("hostA.crt"), foreign.CertPEM, 0o644))
	refused("certificate of another key", "key")
	must(os.WriteFile(path("hostA.key"), foreign.KeyPEM, 0o600))
	refused("certificate of another cluster", "of cluster")
	old, err := a.issue(b.Identity, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	must(err)
	must(old.Write(dir, "hostA"))
	refused("expired", "expired")
	must(os.Rename(path("hostA.key"), path("elsewhere")))
	must(os.Symlink("elsewhere", path("hostA.key")))
	refused("link to a key", "symbolic links")
	if err := b.Write(dir, "ca"); err == nil {
		t.Error("a bundle could overwrite the authority")
	}
	if err := b.Write(dir, "../x"); err == nil {
		t.Error("a bundle could leave its folder")
	}
}

func TestParse(t *testing.T) {
	cluster := strings.Repeat("0a", 16)
	good := Identity{cluster, RoleAgent, "host-1.rack_2"}
	if got, err := Parse(good.String()); err != nil || got != good {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{
		"", "ss://", "ss:///agent/a", "ss://" + cluster + "/agent", "ss://" + cluster + "/agent/", "ss://" + cluster + "/root/a",
		"ss://" + cluster + "/agent/a/b", "ss://" + cluster + "/agent/..", "ss://" + cluster + "/agent/a%2fb", "ss://" + cluster + "/agent/a?x=1",
		"https://" + cluster + "/agent/a", "ss://" + cluster + ":1/agent/a", "ss://x@" + cluster + "/agent/a", "ss://" + strings.ToUpper(cluster) + "/agent/a",
		"ss://" + cluster + "/agent/" + strings.Repeat("a", 64),
	} {
		if id, err := Parse(bad); !errors.Is(err, ErrIdentity) {
			t.Errorf("%q: %v, %v", bad, id, err)
		}
	}
	a, _ := url.Parse(good.String())
	for name, cert := range map[string]*x509.Certificate{"none": {}, "two": {URIs: []*url.URL{a, a}}, "nil": nil} {
		if _, err := OfCertificate(cert); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := testAuthority(t).Issue("root", "a"); !errors.Is(err, ErrIdentity) {
		t.Errorf("unknown role: %v", err)
	}
	if _, err := testAuthority(t).Issue(RoleAgent, "a/b"); !errors.Is(err, ErrIdentity) {
		t.Errorf("bad name: %v", err)
	}
}
