package files

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Folders that programs of the whole system share (Filesystem Hierarchy Standard 3.0). A restore of a job would take packages, accounts, logs and the data of
// other services back to the cut, and remove what came since. A job may have a folder of its own in them, as PostgreSQL has /var/lib/postgresql.
var systemFolders = []string{
	"/bin", "/boot", "/dev", "/dev/shm", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", proc.Root, "/root", "/run", "/run/lock", "/run/user", "/sbin", "/sys", "/tmp",
	"/usr", "/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/libx32", "/usr/local", "/usr/local/bin", "/usr/local/etc", "/usr/local/lib",
	"/usr/local/sbin", "/usr/local/share", "/usr/sbin", "/usr/share", "/usr/src",
	"/var", "/var/backups", "/var/cache", "/var/lib", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/systemd", "/var/local", "/var/log", "/var/mail", "/var/opt", "/var/run", "/var/spool", "/var/tmp",
}

// Folders in which nothing is a job's.
var systemTrees = []string{"/boot", proc.Root, "/sys", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/systemd"}

// ofTheSystem says why a folder cannot be a member's: it is a folder of the system's, or contains one, or is in one that holds nothing else.
func ofTheSystem(dir string) error {
	for _, system := range systemTrees {
		if dir != system && inside(system, dir) {
			return fmt.Errorf("%s cannot be a folder of a member: all in %s is the system's; name a folder that holds files of the job alone", dir, system)
		}
	}
	for _, system := range systemFolders {
		if inside(dir, system) {
			return fmt.Errorf("%s cannot be a folder of a member: a restore would make all files in %s, a folder of the whole system, what they were at the cut; name a folder that holds files of the job alone, such as /srv/NAME or /var/lib/NAME", dir, system)
		}
	}
	return nil
}

// CheckFolders says why folders cannot be a member's: the files of the system, of the agent itself, and of other jobs must not be made what they were.
// agents are the folders that the agent keeps its state in, others those of members of other jobs, by folder.
func CheckFolders(dirs, agents []string, others map[string]string) error {
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
			return fmt.Errorf("%q cannot be a folder of a member: write a folder's path without . and .., such as /var/lib/db", dir)
		}
		if err := ofTheSystem(dir); err != nil {
			return err
		}
		for _, own := range agents {
			if overlap(dir, own) {
				return fmt.Errorf("%s cannot be a folder of a member: the agent keeps its state in %s", dir, own)
			}
		}
		for other, whose := range others {
			if overlap(dir, other) {
				return fmt.Errorf("%s cannot be a folder of the member: %s is one of %s, and a restore of either job would change the other's files", dir, other, whose)
			}
		}
	}
	return nil
}

// overlap says whether one of two folders is, or contains, the other, by whatever way it is reached.
func overlap(a, b string) bool { return inside(a, b) || inside(b, a) }

// inside says whether a folder is, or contains, the other. What is missing is judged by its name and by the folder that it would be in.
func inside(outer, inner string) bool {
	if inner == outer || strings.HasPrefix(inner, outer+"/") {
		return true
	}
	var want, st unix.Stat_t
	if unix.Stat(outer, &want) != nil {
		return false
	}
	for inner = unlinked(inner); ; inner = filepath.Dir(inner) {
		if unix.Stat(inner, &st) == nil && idOf(&st) == idOf(&want) {
			return true
		}
		if inner == "/" || inner == "." {
			return false
		}
	}
}

// unlinked is the path without links, as far as it is there.
func unlinked(path string) string {
	for there, rest := path, ""; ; there, rest = filepath.Dir(there), filepath.Join(filepath.Base(there), rest) {
		if without, err := filepath.EvalSymlinks(there); err == nil {
			return filepath.Join(without, rest)
		}
		if there == "/" || there == "." {
			return path
		}
	}
}
