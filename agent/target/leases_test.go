package target

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// openers have files open on the host.
type openers struct {
	nobody
	opens []HostOpen
}

func (o openers) Opens(_ context.Context, _ string, wanted map[FileID]bool) (out []HostOpen, _ error) {
	for _, h := range o.opens {
		if wanted[h.File] {
			out = append(out, h)
		}
	}
	return out, nil
}

// TestLeases compares leases with what others have open here, and with what members that come together have.
func TestLeases(t *testing.T) {
	dir := t.TempDir()
	path, link, other, missing := filepath.Join(dir, "one"), filepath.Join(dir, "link"), filepath.Join(dir, "two"), filepath.Join(dir, "missing")
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	leased := func(path string, write bool) Arrival {
		return Arrival{Source: "hostA", Member: "a", Needs: Needs{Objects: NeededObjects{Leases: []NeededLease{{path, write}}}}}
	}
	here := func(write bool) []HostOpen { return []HostOpen{{fileID(path), "process 7 (prog)", write}} }
	has := func(source, path string, write bool) Arrival {
		return Arrival{Source: source, Member: "b", Needs: Needs{Files: []NeededFile{{Path: path, Write: write}}}}
	}
	lives := func(path string, written bool) Arrival { // a member that runs, as a check sees it
		a := Arrival{Source: "hostB", Member: "b", Seen: []files.Seen{{Path: path, Mode: unix.S_IFREG}}}
		if written {
			a.Files = []files.Stored{{Path: path}}
		}
		return a
	}
	const taken, together = " can't be taken again while ", " of hostB has the file open"
	for name, tt := range map[string]struct {
		lives  []HostOpen
		coming []Arrival
		want   string // "" for nothing
	}{
		"write lease, open":                      {here(false), []Arrival{leased(path, true)}, "a: its write lease on " + path + taken + "process 7 (prog) has the file open: end that"},
		"write lease, open for writing":          {here(true), []Arrival{leased(path, true)}, "process 7 (prog) has the file open for writing: end that"},
		"read lease, open for writing":           {here(true), []Arrival{leased(path, false)}, "a: its read lease on " + path + taken + "process 7 (prog) has the file open for writing"},
		"read lease, open":                       {here(false), []Arrival{leased(path, false)}, ""},
		"another name of the file":               {here(false), []Arrival{leased(link, true)}, "its write lease on " + link},
		"another file":                           {here(true), []Arrival{leased(other, true)}, ""},
		"a file that is not here yet":            {here(true), []Arrival{leased(missing, true)}, ""},
		"members of two hosts":                   {nil, []Arrival{leased(path, true), has("hostB", path, false)}, "while b" + together + ": restore them to different hosts"},
		"members of two hosts, other order":      {nil, []Arrival{has("hostB", path, false), leased(path, true)}, together},
		"members of two hosts, file not here":    {nil, []Arrival{leased(missing, true), has("hostB", missing, false)}, together},
		"members of two hosts, another name":     {nil, []Arrival{leased(path, true), has("hostB", link, false)}, together},
		"members of two hosts, read and write":   {nil, []Arrival{leased(path, false), has("hostB", path, true)}, together + " for writing"},
		"members of two hosts, read and read":    {nil, []Arrival{leased(path, false), has("hostB", path, false)}, ""},
		"members of one host":                    {nil, []Arrival{leased(path, true), has("hostA", path, true)}, ""},
		"members of two hosts, two files":        {nil, []Arrival{leased(path, true), has("hostB", other, true)}, ""},
		"running members, read lease and writer": {nil, []Arrival{leased(path, false), lives(path, true)}, together + " for writing"},
		"running members, read lease and reader": {nil, []Arrival{leased(path, false), lives(path, false)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{Target: Target{Coming: tt.coming, Lives: openers{opens: tt.lives}}}
			if err := p.leases(t.Context()); err != nil {
				t.Fatal(err)
			}
			switch text := strings.Join(p.found, "\n"); {
			case tt.want == "" && text != "":
				t.Errorf("found %s", text)
			case !strings.Contains(text, tt.want):
				t.Errorf("no %q in %q", tt.want, text)
			}
		})
	}
}
