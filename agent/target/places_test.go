package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// mount mounts a tmpfs with these flags, and returns its folder. Whatever make does comes before the flags are in force.
func mount(t *testing.T, flags uintptr, prepare func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatalf("run as root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if prepare != nil {
		prepare(dir)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPlacesOfFiles needs root. What CRIU or the agent makes needs a folder that takes it, and a program a file that can be executed.
func TestPlacesOfFiles(t *testing.T) {
	program := func(mode os.FileMode) func(string) {
		return func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "program"), []byte("x"), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	plain, readOnly := t.TempDir(), mount(t, unix.MS_RDONLY, nil)
	noexec := mount(t, unix.MS_NOEXEC, program(0o755))
	closed := t.TempDir()
	program(0o644)(closed)
	nowhere := filepath.Join(plain, "link")
	if err := os.Symlink(filepath.Join(plain, "missing"), nowhere); err != nil {
		t.Fatal(err)
	}
	removed := func(path string) Arrival {
		return Arrival{Needs: Needs{Objects: NeededObjects{Unlinked: []string{path}}}}
	}
	runs := func(dir string) Arrival {
		return Arrival{Needs: Needs{Files: []NeededFile{{Path: filepath.Join(dir, "program"), Size: 1, Mapped: true, Program: true}}}}
	}
	for name, tt := range map[string]struct {
		coming Arrival
		want   string // "": nothing is found
	}{
		"removed file":                        {removed(filepath.Join(plain, "f")), ""},
		"removed file in a removed folder":    {removed(filepath.Join(plain, "gone", "f")), ""},
		"removed file, read-only":             {removed(filepath.Join(readOnly, "f")), "mounted read-only"},
		"removed file, the folder is a file":  {removed(filepath.Join(closed, "program", "f")), "was a folder"},
		"removed file, the folder is a link":  {removed(filepath.Join(nowhere, "f")), "leads nowhere"},
		"removed file with a long name":       {removed(filepath.Join(plain, strings.Repeat("n", 240))), "too long by 3"},
		"UNIX socket":                         {Arrival{Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Path: filepath.Join(plain, "s")}}}}}, ""},
		"UNIX socket, read-only":              {Arrival{Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Path: filepath.Join(readOnly, "s")}}}}}, "mounted read-only"},
		"FIFO, read-only":                     {Arrival{Made: []files.Seen{{Path: filepath.Join(readOnly, "fifo"), Mode: unix.S_IFIFO | 0o600}}}, "mounted read-only"},
		"program, noexec":                     {runs(noexec), "mounted noexec"},
		"program that is not executable":      {runs(closed), "chmod +x"},
		"file that the kernel makes":          {Arrival{Needs: Needs{Objects: NeededObjects{Paths: []NeededPath{{Path: "/proc/sys/kernel/pid_max", Size: -1}}}}}, ""},
		"file that this kernel does not make": {Arrival{Needs: Needs{Objects: NeededObjects{Paths: []NeededPath{{Path: "/proc/sys/net/ipv4/conf/none0/tag", Size: -1}}}}}, "restore to a host that has it"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.coming.Source, tt.coming.Member = "hostA", "a"
			p := plan{Target: Target{Host: "hostB", Coming: []Arrival{tt.coming}}}
			p.paths()
			p.files()
			p.unixNames()
			text := strings.Join(p.found, "\n")
			if tt.want == "" && text != "" || !strings.Contains(text, tt.want) {
				t.Errorf("found %q, want %q", text, tt.want)
			}
		})
	}
}
