package target

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// TestPathsOfTwoKinds: what comes from two hosts cannot have one path as files of two kinds.
func TestPathsOfTwoKinds(t *testing.T) {
	socket := func(source, member string) Arrival {
		return Arrival{Source: source, Member: member, Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Path: "/srv/common"}}}}}
	}
	stored := func(source, member string) Arrival {
		return Arrival{Source: source, Member: member, Files: []files.Stored{{Path: "/srv/x", Links: []string{"/srv/common"}}}}
	}
	made := func(source, member string, mode uint32) Arrival {
		return Arrival{Source: source, Member: member, Made: []files.Seen{{Path: "/srv/common", Mode: mode}}}
	}
	seen := func(source, member string, mode uint32) Arrival {
		return Arrival{Source: source, Member: member, Seen: []files.Seen{{Path: "/srv/common", Mode: mode}}}
	}
	for name, tt := range map[string]struct {
		coming []Arrival
		want   string
	}{
		"a socket and a file":          {[]Arrival{socket("hostA", "a"), stored("hostB", "b")}, "b: /srv/common would be a regular file, and is a UNIX socket of a"},
		"a file and a socket":          {[]Arrival{stored("hostA", "a"), socket("hostB", "b")}, "b: /srv/common would be a UNIX socket, and is a regular file of a"},
		"a FIFO and a folder":          {[]Arrival{made("hostA", "a", unix.S_IFIFO), made("hostB", "b", unix.S_IFDIR)}, "would be a folder, and is a FIFO of a"},
		"a file that was read, a FIFO": {[]Arrival{seen("hostA", "a", unix.S_IFREG), made("hostB", "b", unix.S_IFIFO)}, "would be a FIFO"},
		"two files":                    {[]Arrival{stored("hostA", "a"), stored("hostB", "b")}, ""},
		"a device and a device":        {[]Arrival{seen("hostA", "a", unix.S_IFCHR), seen("hostB", "b", unix.S_IFCHR)}, ""},
		"a kind that is not known":     {[]Arrival{seen("hostA", "a", 0), socket("hostB", "b")}, ""},
		"members of one host":          {[]Arrival{socket("hostA", "a"), stored("hostA", "b")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{Target: Target{Coming: tt.coming}}
			p.claims()
			switch text := strings.Join(p.found, "\n"); {
			case tt.want == "" && text != "":
				t.Errorf("found %s", text)
			case !strings.Contains(text, tt.want):
				t.Errorf("no %q in %q", tt.want, text)
			}
		})
	}
}
