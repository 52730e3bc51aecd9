package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// config is agent.yaml. Relative paths count from its folder.
type config struct {
	Host     string `yaml:"host"`
	Listen   string `yaml:"listen"`
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	CA       string `yaml:"ca"`
	StateDir string `yaml:"state_dir"`
	CRIU     string `yaml:"criu"`
	Cgroup   string `yaml:"cgroup"`
}

func loadConfig(path string) (config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return config{}, fmt.Errorf("configuration: %w; ssctl host add writes it", err)
	}
	cfg := config{StateDir: "/var/lib/ss", Cgroup: "ss"}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	for _, f := range []struct{ name, value string }{
		{"host", cfg.Host}, {"listen", cfg.Listen}, {"cert", cfg.Cert}, {"key", cfg.Key}, {"ca", cfg.CA},
	} {
		if f.value == "" {
			return config{}, fmt.Errorf("configuration %s: %s is missing", path, f.name)
		}
	}
	for _, p := range []*string{&cfg.Cert, &cfg.Key, &cfg.CA} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	cfg.CRIU = findCRIU(cfg.CRIU, filepath.Dir(path))
	return cfg, nil
}

// installedCRIU is where scripts/install-criu puts the CRIU that works on this kernel.
const installedCRIU = "/opt/ss/criu/bin/criu"

// findCRIU gives the absolute path of a CRIU: a name is looked up, a relative path counts from dir. Nothing named means
// the one that install-criu brought, or else the system's. A CRIU that is nowhere is no reason not to start, since
// members want their agent: the path is then where install-criu would put it, and ssctl host list says that none is there.
func findCRIU(name, dir string) string {
	if name == "" {
		if _, err := os.Stat(installedCRIU); err == nil {
			return installedCRIU
		}
		name = "criu"
	}
	if filepath.Base(name) != name {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name
	}
	if found, err := exec.LookPath(name); err == nil && filepath.IsAbs(found) {
		return found
	}
	// Whoever starts the agent by hand may have a PATH without these.
	for _, d := range []string{"/usr/local/sbin", "/usr/sbin"} {
		if found, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return found
		}
	}
	return installedCRIU
}
