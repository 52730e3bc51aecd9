package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
