package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	if cfg.Staging != "" || cfg.StagingLimit != 0 || cfg.RateLimit != 0 || cfg.VaultCredentials != "" || cfg.ScrubRate != 8<<20 || cfg.ScrubPause != 24*time.Hour || cfg.FilesLimit != 512<<20 {
		t.Errorf("what nobody says of images: %+v", cfg)
	}
	for _, bad := range []string{
		"", bundle + "cgroups: ss\n", strings.Replace(bundle, "host: hostA", "", 1),
		bundle + "staging_limit: much\n", bundle + "rate_limit: -1\n", bundle + "rate_limit: [1MiB]\n", bundle + "scrub_rate: 1.5MiB\n",
		bundle + "scrub_pause: 0s\n", bundle + "scrub_pause: -24h\n", bundle + "scrub_pause: daily\n", bundle + "staging: {a: b}\n", bundle + "files_limit: 0\n",
	} {
		if _, _, err := load(t, bad); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// TestListen: an agent does not start at an address that nobody can reach it at.
func TestListen(t *testing.T) {
	for addr, want := range map[string]string{
		"255.255.255.255:7070": "broadcast", "[fe80::1]:7070": "without a zone", "[ff02::1]:7070": "multicast", "224.0.0.1:7070": "multicast",
		"0.0.0.0:7070": "", "[::]:7070": "", ":7070": "", "localhost:7070": "", "[fe80::1%eth0]:7070": "", "10.0.0.1:7070": "",
	} {
		_, _, err := load(t, strings.Replace(bundle, "10.0.0.1:7070", addr, 1))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ip addr")) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestConfigOfImages(t *testing.T) {
	cfg, dir, err := load(t, bundle+`staging: dumps
staging_limit: 8 GiB
rate_limit: 100MiB
vault_credentials: s3.yaml
scrub_rate: 0
scrub_pause: 168h
`)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Staging != dir+"/dumps" || cfg.StagingLimit != 8<<30 || cfg.RateLimit != 100<<20 || cfg.VaultCredentials != dir+"/s3.yaml" {
		t.Errorf("%+v", cfg)
	}
	if cfg.ScrubRate != 0 || cfg.ScrubPause != 7*24*time.Hour {
		t.Errorf("%+v", cfg)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{
		"0": 0, "4096": 4096, "17B": 17, "1KiB": 1024, "100MiB": 100 << 20, "8 GiB": 8 << 30, "2TiB": 2 << 40,
		"3kB": 3000, "3KB": 3000, "10MB": 10e6, "1 GB": 1e9, "7TB": 7e12, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "MiB", "-1", "-1MiB", "+1", "1.5GiB", "1e9", "0x10", "1_000", "1  MiB", " 1MiB", "1MiB ", "1mib", "1M", "1iB", "1BB", "1 MiB/s",
		"9223372036854775808", "8388608TiB", "99999999999999999999MB",
	} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

// FuzzConfig: whatever a file says, it is refused or makes sense.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(bundle))
	f.Add([]byte(bundle + "staging: dumps\nstaging_limit: 8GiB\nrate_limit: 1MB\nscrub_rate: 0\nscrub_pause: 1h\nvault_credentials: v\n"))
	f.Add([]byte("host: &a [*a]\n"))
	f.Add([]byte(bundle + "---\nhost: hostB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := parseConfig(b, "/etc/ss")
		if err != nil {
			return
		}
		if cfg.Host == "" || cfg.Listen == "" || cfg.StagingLimit < 0 || cfg.RateLimit < 0 || cfg.ScrubRate < 0 || cfg.ScrubPause <= 0 || cfg.FilesLimit <= 0 {
			t.Errorf("%+v", cfg)
		}
		for _, p := range []string{cfg.Cert, cfg.Key, cfg.CA} {
			if !filepath.IsAbs(p) {
				t.Errorf("%q counts from nowhere", p)
			}
		}
	})
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
