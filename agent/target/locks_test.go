package target

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// holders hold locks on the host.
type holders struct {
	nobody
	locks []HostLock
}

func (h holders) Locks(context.Context, string, []FileID) ([]HostLock, error) { return h.locks, nil }

// TestLocks compares locks with those that others hold here, and those of members that come together.
func TestLocks(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	flock := func(path string, write bool) NeededLock {
		return NeededLock{Path: path, Flock: true, Write: write, End: math.MaxInt64}
	}
	span := func(write bool, start, end int64) NeededLock {
		return NeededLock{Path: path, Write: write, Start: start, End: end}
	}
	from := func(source, member string, locks ...NeededLock) Arrival {
		return Arrival{Source: source, Member: member, Needs: Needs{Objects: NeededObjects{Locks: locks}}}
	}
	held := func(l NeededLock) []HostLock {
		var st unix.Stat_t
		if err := unix.Stat(l.Path, &st); err != nil {
			t.Fatal(err)
		}
		return []HostLock{{NeededLock: l, File: FileID{st.Dev, st.Ino}, Owner: "process 7 (prog)"}}
	}
	const together, here = "conflicts with one of a of hostA: restore them to different hosts", "conflicts with one that process 7 (prog) holds here"
	missing := filepath.Join(dir, "missing")
	for name, tt := range map[string]struct {
		lives  []HostLock
		coming []Arrival
		want   string // "" for nothing
	}{
		"exclusive and exclusive":         {held(flock(path, true)), []Arrival{from("hostA", "a", flock(path, true))}, "a: its exclusive lock on " + path + " (flock) " + here},
		"shared and exclusive":            {held(flock(path, true)), []Arrival{from("hostA", "a", flock(path, false))}, "its shared lock on"},
		"shared and shared":               {held(flock(path, false)), []Arrival{from("hostA", "a", flock(path, false))}, ""},
		"another name of the file":        {held(flock(path, true)), []Arrival{from("hostA", "a", flock(filepath.Join(dir, "link"), true))}, here},
		"another file":                    {held(flock(path, true)), []Arrival{from("hostA", "a", flock(other, true))}, ""},
		"flock and fcntl":                 {held(flock(path, true)), []Arrival{from("hostA", "a", span(true, 0, math.MaxInt64))}, ""},
		"ranges that meet":                {held(span(true, 9, 20)), []Arrival{from("hostA", "a", span(false, 0, 9))}, here},
		"ranges apart":                    {held(span(true, 10, 20)), []Arrival{from("hostA", "a", span(true, 0, 9))}, ""},
		"members of two hosts":            {nil, []Arrival{from("hostA", "a", flock(path, true)), from("hostB", "b", flock(path, false))}, together},
		"on a file that is not here yet":  {nil, []Arrival{from("hostA", "a", flock(missing, true)), from("hostB", "b", flock(missing, true))}, together},
		"members of two hosts, shared":    {nil, []Arrival{from("hostA", "a", flock(path, false)), from("hostB", "b", flock(path, false))}, ""},
		"members of one host, shared":     {nil, []Arrival{from("hostA", "a", flock(path, false)), from("hostA", "b", flock(path, false))}, ""},
		"one open file of two members":    {nil, []Arrival{from("hostA", "a", flock(path, true)), from("hostA", "b", flock(path, true))}, "start both as one member"},
		"two processes of one member":     {nil, []Arrival{from("hostA", "a", span(true, 0, 9), span(true, 0, 9))}, ""},
		"members of two hosts, two files": {nil, []Arrival{from("hostA", "a", flock(path, true)), from("hostB", "b", flock(other, true))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{Target: Target{Coming: tt.coming, Lives: holders{locks: tt.lives}}}
			if err := p.locks(t.Context()); err != nil {
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
