package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"ss/agent"
	"ss/names"
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
	Memory   string `yaml:"memory"` // memoryTracked or memoryFrozen

	TrackedFrom      size          `yaml:"tracked_from"`      // members with less private memory are not tracked
	Twins            bool          `yaml:"twins"`             // a process that writes faster than it is copied gets a twin at the freeze
	TwinsFrom        size          `yaml:"twins_from"`        // from as much on that is left of it
	Staging          string        `yaml:"staging"`           // folder that dumps land in; "": in StateDir
	KeepDumps        bool          `yaml:"keep_dumps"`        // leave each job's last dump there, as it is
	StagingLimit     size          `yaml:"staging_limit"`     // what they may take there; 0: what is free
	FilesLimit       size          `yaml:"files_limit"`       // what is read of open files while members stand still
	RateLimit        size          `yaml:"rate_limit"`        // bytes per second to and from other hosts and vaults; 0: no limit
	VaultCredentials string        `yaml:"vault_credentials"` // file; "": the environment
	ScrubRate        size          `yaml:"scrub_rate"`        // bytes per second; 0: no scrub
	ScrubPause       time.Duration `yaml:"scrub_pause"`       // between two rounds
}

// How the memory of members is copied: while they run, where the kernel can tell what they write meanwhile, or while they stand still.
const (
	memoryTracked = "tracked"
	memoryFrozen  = "frozen"
)

func loadConfig(path string) (config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return config{}, fmt.Errorf("configuration: %w; ssctl host add writes it", err)
	}
	cfg, err := parseConfig(b, filepath.Dir(path))
	if err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	cfg.CRIU = findCRIU(cfg.CRIU, filepath.Dir(path))
	return cfg, nil
}

// parseConfig reads a configuration whose relative paths count from dir. A key that it does not know is an error.
func parseConfig(b []byte, dir string) (config, error) {
	cfg := config{StateDir: "/var/lib/ss", Cgroup: "ss", Memory: memoryTracked, TrackedFrom: 96 << 20, TwinsFrom: 64 << 20, FilesLimit: agent.DefaultFilesLimit, ScrubRate: 8 << 20, ScrubPause: 24 * time.Hour}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		return config{}, err
	}
	for _, f := range []struct{ name, value string }{
		{"host", cfg.Host}, {"listen", cfg.Listen}, {"cert", cfg.Cert}, {"key", cfg.Key}, {"ca", cfg.CA},
	} {
		if f.value == "" {
			return config{}, fmt.Errorf("%s is missing", f.name)
		}
	}
	if err := checkListen(cfg.Listen); err != nil {
		return config{}, err
	}
	if cfg.Memory != memoryTracked && cfg.Memory != memoryFrozen {
		return config{}, fmt.Errorf("memory: %q is neither %s nor %s", cfg.Memory, memoryTracked, memoryFrozen)
	}
	if cfg.FilesLimit <= 0 {
		return config{}, fmt.Errorf("files_limit: %d bytes are not a limit; write one like 512MiB", cfg.FilesLimit)
	}
	if cfg.ScrubPause <= 0 {
		return config{}, fmt.Errorf("scrub_pause: %s is not a pause; write one like 24h, or scrub_rate: 0 for no scrub", cfg.ScrubPause)
	}
	for _, p := range []*string{&cfg.Cert, &cfg.Key, &cfg.CA, &cfg.Staging, &cfg.VaultCredentials} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return cfg, nil
}

// checkListen refuses an address that the kernel lets an agent listen at and nobody can reach it at. All of the host's addresses at once (0.0.0.0, ::, or none) are fine.
func checkListen(addr string) error {
	ap, err := netip.ParseAddrPort(addr) // whether a name, or a port alone, can be listened at is found when that is done
	if what := names.NoAgentAt(ap.Addr()); err == nil && !ap.Addr().IsUnspecified() && what != "" {
		return fmt.Errorf("listen: %q is %s; write an address of this host, as ip addr lists them, or 0.0.0.0 for all", addr, what)
	}
	return nil
}

// installedCRIU is where scripts/install-criu puts the CRIU that works on this kernel.
const installedCRIU = "/opt/ss/criu/bin/criu"

// findCRIU gives the absolute path of a CRIU: a name is looked up, a relative path counts from dir. Nothing named means
// the one that install-criu brought, or else the system's. A CRIU that is nowhere is not a reason not to start, since
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
