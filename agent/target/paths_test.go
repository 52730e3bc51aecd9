package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// TestLeftLink: a file that had been removed cannot be restored where its name and the name that CRIU takes then are in use.
func TestLeftLink(t *testing.T) {
	for name, tt := range map[string]struct {
		there []string
		found bool
	}{
		"neither name": {nil, false},
		"the name":     {[]string{"program"}, false},
		"the link":     {[]string{"program.cr_link"}, false}, // CRIU does not need it
		"both":         {[]string{"program", "program.cr_link"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "program")
			for _, f := range tt.there {
				if err := os.WriteFile(filepath.Join(filepath.Dir(path), f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := plan{Target: Target{Coming: []Arrival{{Source: "hostA", Member: "a", Needs: Needs{Objects: NeededObjects{Unlinked: []string{path}}}}}}}
			p.paths()
			text := strings.Join(p.found, "\n")
			if found := strings.Contains(text, "rm "+path+".cr_link"); found != tt.found {
				t.Errorf("found %q", text)
			}
		})
	}
}

// TestKindsChange: what had a name at the cut, and is not in it, may be of another kind by now. CRIU opens it when the live job has ended.
func TestKindsChange(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	wrote(t, file, 0o600)
	folder := files.Seen{Path: file, Mode: unix.S_IFDIR | 0o755}
	watch := func(path string, made ...files.Seen) Arrival {
		return Arrival{Needs: Needs{Objects: NeededObjects{Watched: []string{path}}}, Made: made}
	}
	for name, tt := range map[string]struct {
		coming Arrival
		words  []string
	}{
		"a file":                     {Arrival{Needs: Needs{Files: []NeededFile{{Path: file}}}}, nil},
		"a file that is a folder":    {Arrival{Needs: Needs{Files: []NeededFile{{Path: dir, Size: 9}}}}, []string{dir + " is a folder, and was a regular file", "put the right one there"}},
		"a folder that is a file":    {Arrival{Needs: Needs{Dirs: []string{file}}}, []string{"there is no folder " + file}},
		"a watched folder":           {watch(dir, files.Seen{Path: dir, Mode: unix.S_IFDIR | 0o755}), nil},
		"a watched file":             {watch(file), nil},
		"a watched folder is a file": {watch(file, folder), []string{"it watches the folder " + file, "a regular file has that name now"}},
	} {
		t.Run(name, func(t *testing.T) {
			finds(t, tt.coming, func(p *plan) { p.paths(); p.files() }, tt.words...)
		})
	}
}

// TestSpellings: names that no list of a cut can hold are refused while they are known.
func TestSpellings(t *testing.T) {
	const odd = "/srv/\xff"
	for _, o := range []NeededObjects{{Watched: []string{odd}}, {Unix: []NeededUnix{{Path: odd}}}, {Dialled: []string{odd}}, {Paths: []NeededPath{{Path: odd}}}} {
		finds(t, Arrival{Needs: Needs{Objects: o}}, (*plan).spellings, `"/srv/\xff"`, "not UTF-8")
	}
	finds(t, Arrival{Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Abstract: "\xff"}}}}}, (*plan).spellings)
}

// TestOneName: two UNIX sockets of one member may have one abstract name, as what a listener has accepted has its listener's. Those of two hosts cannot.
func TestOneName(t *testing.T) {
	sock := []NeededUnix{{Abstract: "x", Stream: true}, {Abstract: "x"}}
	p := plan{Target: Target{Coming: []Arrival{{Source: "hostA", Member: "a", Needs: Needs{Objects: NeededObjects{Unix: sock}}}}}}
	p.unixNames()
	if len(p.found) > 0 {
		t.Errorf("of one member: %q", p.found)
	}
	p.Coming = append(p.Coming, Arrival{Source: "hostB", Member: "b", Needs: Needs{Objects: NeededObjects{Unix: sock[:1]}}})
	p.unixNames()
	if len(p.found) != 1 || !strings.Contains(p.found[0], "b: the UNIX socket @x would be a's as well") {
		t.Errorf("of two hosts: %q", p.found)
	}
}

// TestSameFile: what one host's member has in the cut must not be put where another host's member has a file of its own. Two names may be one file here.
func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wrote(t, filepath.Join(real, "there"), 0o600)
	stored := func(source, path string) Arrival {
		return Arrival{Source: source, Member: source + "-1", Files: []files.Stored{{Path: path}}}
	}
	reads := func(source, path string) Arrival {
		return Arrival{Source: source, Member: source + "-1", Needs: Needs{Files: []NeededFile{{Path: path}}}}
	}
	for name, tt := range map[string]struct {
		a, b  Arrival
		words []string
	}{
		"two files":                   {stored("hostA", dir+"/x"), stored("hostB", dir+"/y"), nil},
		"one name":                    {stored("hostA", dir+"/x"), stored("hostB", dir+"/x"), []string{"hostB-1: the file " + dir + "/x would be hostA-1's of hostA as well"}},
		"one file by two names":       {stored("hostA", real+"/there"), stored("hostB", dir+"/link/there"), []string{"the file " + dir + "/link/there would be hostA-1's " + real + "/there of hostA"}},
		"one folder by two names":     {stored("hostA", real+"/new/x"), stored("hostB", dir+"/link/new/x"), []string{"would be hostA-1's " + real + "/new/x of hostA"}},
		"the other reads its own":     {stored("hostA", dir+"/x"), reads("hostB", dir+"/x"), []string{"hostB-1: the file " + dir + "/x, which it has open, would be hostA-1's of hostA: restore them to different hosts"}},
		"the other comes first":       {reads("hostA", real+"/there"), stored("hostB", dir+"/link/there"), []string{"hostA-1: the file " + real + "/there, which it has open"}},
		"both read":                   {reads("hostA", dir+"/x"), reads("hostB", dir+"/x"), nil},
		"members of one host, stored": {stored("hostA", dir+"/x"), stored("hostA", dir+"/x"), nil},
		"members of one host, read":   {stored("hostA", dir+"/x"), reads("hostA", dir+"/x"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{Target: Target{Host: "hostC", Coming: []Arrival{tt.a, tt.b}}}
			p.sameFiles()
			if len(p.found) != min(len(tt.words), 1) {
				t.Fatalf("found %q", p.found)
			}
			for _, w := range tt.words {
				if !strings.Contains(p.found[0], w) {
					t.Errorf("%q has no %q", p.found[0], w)
				}
			}
		})
	}
}
