package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const bundle = `host: hostA
listen: "10.0.0.1:7070"
cert: agent.crt
key: /keys/agent.key
ca: ca.crt
`

func load(t *testing.T, text string) (config, string, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(path)
	return cfg, dir, err
}

func TestConfig(t *testing.T) {
	cfg, dir, err := load(t, bundle)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Cert != dir+"/agent.crt" || cfg.Key != "/keys/agent.key" || cfg.StateDir != "/var/lib/ss" || cfg.Cgroup != "ss" {
		t.Errorf("%+v", cfg)
	}
	for _, bad := range []string{"", bundle + "cgroups: ss\n", strings.Replace(bundle, "host: hostA", "", 1)} {
		if _, _, err := load(t, bad); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// TestFindCRIU: whatever the configuration names, the agent gets an absolute path, and starts.
func TestFindCRIU(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "my-criu"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	for name, want := range map[string]string{
		"my-criu":          bin + "/my-criu",
		"/opt/x/criu":      "/opt/x/criu",
		"bin/criu":         "/etc/ss/bin/criu",
		"./criu":           "/etc/ss/criu",
		"there-is-no-criu": installedCRIU,
	} {
		if got := findCRIU(name, "/etc/ss"); got != want {
			t.Errorf("criu: %s is %s, want %s", name, got, want)
		}
	}
	if got := findCRIU("", "/etc/ss"); !filepath.IsAbs(got) {
		t.Errorf("without a name: %s", got)
	}
}
