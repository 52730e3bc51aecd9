package target

import (
	"slices"

	"golang.org/x/sys/unix"
)

// claims looks for paths that members of different hosts want to be files of different kinds. On one host a path has one kind at a time, so the members of
// one never disagree. Two of one kind are compared where that kind is.
func (t *plan) claims() {
	type claim struct {
		kind string
		by   Arrival
	}
	first := map[string]claim{}
	for _, c := range t.Coming {
		for _, p := range c.claims() {
			o, ok := first[p.path]
			switch {
			case !ok:
				first[p.path] = claim{p.kind, c}
			case o.kind != p.kind && o.by.Source != c.Source:
				t.add(c, "%s would be %s, and is %s of %s: restore them to different hosts", p.path, p.kind, o.kind, o.by.Member)
			}
		}
	}
}

// claimed is a path that will be there when a member is restored, and what it will be.
type claimed struct{ path, kind string }

func (c Arrival) claims() []claimed {
	var out []claimed
	for _, u := range c.Needs.Objects.Unix {
		if u.Path != "" {
			out = append(out, claimed{u.Path, kindOf(unix.S_IFSOCK)})
		}
	}
	for _, f := range c.Files {
		for _, path := range append([]string{f.Path}, f.Links...) {
			if path != "" {
				out = append(out, claimed{path, kindOf(unix.S_IFREG)})
			}
		}
	}
	for _, s := range slices.Concat(c.Seen, c.Made) {
		if s.Mode&unix.S_IFMT != 0 { // cuts of earlier versions do not say of each
			out = append(out, claimed{s.Path, kindOf(s.Mode)})
		}
	}
	return out
}
