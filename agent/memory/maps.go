package memory

import (
	"strings"

	"ss/agent"
	"ss/agent/proc"
)

// mapping is one of a process.
type mapping struct {
	agent.PageRange

	perms string // rwxp
	inode uint64
	name  string
}

// mappings reads a process's mappings, in the order of their addresses.
func mappings(pid int) ([]mapping, error) {
	all, err := proc.Regions(pid)
	out := make([]mapping, 0, len(all))
	for _, r := range all {
		out = append(out, mapping{PageRange: agent.PageRange{Start: r.Start, End: r.End}, perms: r.Perms, inode: r.Inode, name: r.Name})
	}
	return out, err
}

// ours says whether a mapping is one that we may copy: private, anonymous and readable. CRIU puts its code into a mapping that is executable, and takes it
// out again, so what such a mapping holds while CRIU is at work is not the program's. The kernel's own mappings ([vdso], [vvar] …) and
// files with and without names are CRIU's; so are pages of the kernel's asynchronous I/O and of hugetlb, which show as files.
func (m mapping) ours() bool {
	return m.perms[0] == 'r' && m.perms[2] == '-' && m.perms[3] == 'p' && m.inode == 0 &&
		(m.name == "" || m.name == "[heap]" || m.name == "[stack]" || strings.HasPrefix(m.name, "[anon:"))
}
