package proc

import (
	"bufio"
	"iter"
	"os"
	"strings"
)

// Mapping is a line of /proc/PID/maps that has a path, or a name of the kernel's.
type Mapping struct {
	Range      string // START-END, as in the names of /proc/PID/map_files
	Device     string // MAJOR:MINOR
	Inode      string // "0" if no file is mapped
	Path       string
	Shared     bool
	Executable bool
}

// lineMax bounds a line, in bytes: a path has four thousand at most, and a newline in it takes four.
const lineMax = 1 << 20

// Mappings lists the mappings of a process that are named. The error, if there is one, comes last.
func Mappings(pid int) iter.Seq2[Mapping, error] {
	return func(yield func(Mapping, error) bool) {
		f, err := os.Open(Path(pid, "maps"))
		if err != nil {
			yield(Mapping{}, err)
			return
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, lineMax)
		for lines.Scan() {
			if m, ok := parseMapping(lines.Text()); ok && !yield(m, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Mapping{}, err)
		}
	}
}

// parseMapping reads START-END PERMS OFFSET DEV INODE PATH.
func parseMapping(line string) (Mapping, bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 6 || len(f[1]) < 4 {
		return Mapping{}, false
	}
	path := strings.TrimLeft(f[5], " ")
	if path == "" {
		return Mapping{}, false
	}
	// The kernel writes a newline in a path as \012 here, and nothing else otherwise.
	return Mapping{
		Range: trimZeros(f[0]), Device: f[3], Inode: f[4], Path: strings.ReplaceAll(path, `\012`, "\n"), Shared: f[1][3] == 's', Executable: f[1][2] == 'x',
	}, true
}

// trimZeros makes of a range in maps the name that map_files has for it: without leading zeros.
func trimZeros(region string) string {
	from, to, _ := strings.Cut(region, "-")
	return strings.TrimLeft(from, "0") + "-" + strings.TrimLeft(to, "0")
}

// MappedFile names the file of a mapping, for calls that take a path.
func MappedFile(pid int, region string) string { return Path(pid, "map_files/"+region) }
