package main

import (
	"bytes"
	"fmt"
	"os"
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
	if cfg.CRIU == "" {
		cfg.CRIU = defaultCRIU()
	}
	return cfg, nil
}

// defaultCRIU is the CRIU that scripts/install-criu brought, or else the system's.
func defaultCRIU() string {
	const ours = "/opt/ss/criu/bin/criu"
	if _, err := os.Stat(ours); err == nil {
		return ours
	}
	return "criu"
}
