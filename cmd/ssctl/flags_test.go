package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/store"
)

// TestParseRemap: each host once, and both sides of each pair.
func TestParseRemap(t *testing.T) {
	got, err := parseRemap([]string{"hostA=hostC", "hostB=hostC"})
	if err != nil || !maps.Equal(got, map[string]string{"hostA": "hostC", "hostB": "hostC"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]string{{""}, {"a"}, {"a="}, {"=b"}, {"a=b=c"}, {"a=b", "a=c"}} {
		if got, err := parseRemap(bad); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

// FuzzParseRemap: whatever a person types, what is accepted can be told apart again.
func FuzzParseRemap(f *testing.F) {
	f.Add("hostA=hostB\nhostB=hostA")
	f.Add("a=b=c")
	f.Add("=\n")
	f.Fuzz(func(t *testing.T, text string) {
		pairs := strings.Split(text, "\n")
		got, err := parseRemap(pairs)
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Errorf("%v is not an error of usage", err)
			}
			return
		}
		if len(got) != len(pairs) {
			t.Errorf("%d pairs became %d", len(pairs), len(got))
		}
		for from, to := range got {
			if from == "" || to == "" || !slices.Contains(pairs, from+"="+to) {
				t.Errorf("%q=%q of %q", from, to, pairs)
			}
		}
	})
}

// TestParseHosts: a name and an address with a port.
func TestParseHosts(t *testing.T) {
	got, err := parseHosts([]string{"hostA=192.0.2.1:7070", "hostB=[2001:db8::1]:7070"})
	if err != nil || len(got) != 2 || got[1].Name != "hostB" || got[1].Addr != "[2001:db8::1]:7070" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]string{{"hostA"}, {"=192.0.2.1:1"}, {"hostA=192.0.2.1"}, {"hostA=192.0.2.1:"}, {"a=192.0.2.1:1", "a=192.0.2.2:1"}} {
		if got, err := parseHosts(bad); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

// TestPolicyFlags: what is not given stays, and vaults can be named, forbidden and left to the cluster.
func TestPolicyFlags(t *testing.T) {
	given := func(names ...string) func(string) bool {
		return func(n string) bool { return slices.Contains(names, n) }
	}
	p := store.Policy{Copies: 3, Vaults: []string{"file:///v"}, Keep: store.Keep{Last: 5}}
	policyFlags{daily: 7}.apply(&p, given("keep-daily"))
	if p.Copies != 3 || len(p.Vaults) != 1 || p.Keep != (store.Keep{Last: 5, Daily: 7}) {
		t.Errorf("%+v", p)
	}
	policyFlags{noVault: true, copies: 1}.apply(&p, given("copies", "no-vault"))
	if p.Copies != 1 || p.Vaults == nil || len(p.Vaults) != 0 {
		t.Errorf("no vault: %+v", p)
	}
	policyFlags{clusterVaults: true}.apply(&p, given("cluster-vaults"))
	if p.Vaults != nil {
		t.Errorf("the cluster's vaults: %+v", p)
	}
	policyFlags{vaults: []string{"s3://b/p"}}.apply(&p, given("vault"))
	if !slices.Equal(p.Vaults, []string{"s3://b/p"}) {
		t.Errorf("%+v", p)
	}
	for name, bad := range map[string]policyFlags{
		"no copies": {}, "two ways": {copies: 1, noVault: true, clusterVaults: true}, "negative": {copies: 1, weekly: -1}, "no vault's URL": {copies: 1, vaults: []string{"/mnt"}},
	} {
		if err := bad.check(given("copies")); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIdentityFile: what init writes can be read, is for its owner only, and is never written over.
func TestIdentityFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, imagesKey)
	recipient, err := makeIdentity(path)
	if err != nil || !strings.HasPrefix(recipient, "age1") {
		t.Fatalf("%q, %v", recipient, err)
	}
	ids, err := readIdentities(path)
	if err != nil || len(ids) != 1 || !strings.HasPrefix(ids[0], "AGE-SECRET-KEY-1") {
		t.Errorf("%d identities, %v", len(ids), err)
	}
	if _, err := makeIdentity(path); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second time: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readIdentities(path); err == nil {
		t.Error("a file that others can read was taken")
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("# nothing\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{empty, dir, filepath.Join(dir, "missing")} {
		if _, err := readIdentities(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestInitMakesAClusterOnce: the folder has all that it needs, and what is there is left alone.
func TestInitMakesAClusterOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ss")
	run := func(argv ...string) error {
		a := &app{stdout: new(strings.Builder), stderr: new(strings.Builder), documents: new(strings.Builder)}
		cmd := a.command()
		cmd.SetArgs(append([]string{"--dir", dir}, argv...))
		return cmd.ExecuteContext(t.Context())
	}
	if err := run("list"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := run("init", "--recovery-recipient", "age1nonsense"); !errors.Is(err, errUsage) {
		t.Errorf("nonsense: %v", err)
	}
	if err := run("init", "--vault", "file:///mnt/v"); err != nil {
		t.Fatal(err)
	}
	if err := run("init"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("again: %v", err)
	}
	cat, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	cluster, err := cat.Cluster(t.Context())
	if err != nil || len(cluster.Recipients) != 1 || !slices.Equal(cluster.Vaults, []string{"file:///mnt/v"}) || cluster.Open {
		t.Errorf("%+v, %v", cluster, err)
	}
	if err := os.Remove(filepath.Join(dir, store.FileName)); err != nil {
		t.Fatal(err)
	}
	if err := run("list"); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "catalog rebuild") {
		t.Errorf("without the catalogue: %v", err)
	}
}

// TestErrorsAreJSONAsWell: with -o json a command that fails prints one document on standard error, and nothing on standard output.
func TestErrorsAreJSONAsWell(t *testing.T) {
	var stdout, stderr, errorDocument strings.Builder
	a := &app{stdout: &stdout, stderr: &stderr, documents: &stdout, errorDocuments: &errorDocument}
	cmd := a.command()
	cmd.SetArgs([]string{"--dir", filepath.Join(t.TempDir(), "none"), "-o", "json", "list"})
	err := cmd.ExecuteContext(t.Context())
	a.complain(err, exitCode(err, false))
	var doc map[string]any
	if err := json.Unmarshal([]byte(errorDocument.String()), &doc); err != nil {
		t.Fatalf("%v: %s", err, errorDocument.String())
	}
	if doc["schema"] != "ss/error/1" || doc["kind"] != "not_found" || doc["exit_code"] != 10.0 || !strings.Contains(doc["message"].(string), "no cluster in") {
		t.Errorf("the document is %v", doc)
	}
	if stdout.Len() > 0 || stderr.Len() > 0 {
		t.Errorf("beside it: %s%s", stdout.String(), stderr.String())
	}
}
