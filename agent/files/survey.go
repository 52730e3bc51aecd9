package files

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Surveyed is what Survey has seen.
type Surveyed struct {
	Refused []string // why Take could not do its work
	Size    int64    // bytes that the files take on their disks
	Frozen  int64    // how many of them would have to be read while the members stand still
	Largest []Large  // of those, the largest first
	Names   Names    // for Take
	Ahead   *Ahead   // for Take
}

// Large is a file that makes members stand still for long.
type Large struct {
	Path   string
	Member string // one that holds it
	Bytes  int64  // that it takes on its disk
}

// Survey looks at what running members hold. dir is where the files will be copied to, which says whether they can be cloned; "" if there is no such folder.
func Survey(ctx context.Context, trees []Tree, dir string) (Surveyed, error) {
	s, err := look(ctx, trees, false)
	if err != nil {
		return Surveyed{}, err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	out := Surveyed{Names: Names{}, Ahead: &Ahead{}}
	if err := out.Names.find(ctx, s); err != nil {
		return Surveyed{}, err
	}
	out.Refused = append(s.sameLostName(), s.refused...)
	for _, t := range trees {
		out.Refused = append(out.Refused, unspeakable(t.Member, s.seen[t.Member])...)
	}
	if err := s.tooMany(); err != nil {
		out.Refused = append(out.Refused, err.Error())
	}
	text, holes := s.text, int64(0)
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() {
			out.ghost(f)
			continue
		}
		text += attributesSize(f.handles[0].path())
		if empty := f.st.Size - f.st.Blocks*512; empty > 0 && !f.appended() || empty > maxHoles {
			holes += empty
			if holes > maxHoles {
				out.Refused = append(out.Refused, fmt.Sprintf("%s has %d GiB of holes, and at most %d GiB of them in all are looked through: make it smaller", cmp.Or(append(f.live(), f.handles[0].path())...), empty>>30, int64(maxHoles)>>30))
				holes = math.MinInt64 / 2 // said once
			}
		}
		if why := f.lost(out.Names[key]); why != "" {
			out.Refused = append(out.Refused, why)
		}
		taken := f.st.Blocks * 512
		out.Size += taken
		if !f.appended() && !inMemory(f) && !out.Ahead.clonable(dir, f) {
			out.Frozen += taken
			out.Largest = append(out.Largest, Large{Path: cmp.Or(append(f.live(), f.handles[0].path())...), Member: f.members[0], Bytes: taken})
		}
	}
	if text > maxText {
		out.Refused = append(out.Refused, errTooMuchText.Error())
	}
	out.Ahead.room = out.Size + out.Size/10 + 16<<20
	slices.SortStableFunc(out.Largest, func(a, b Large) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return out, nil
}

var errTooMuchText = fmt.Errorf("the names and extended attributes of the files take more than %d MiB: remove some", maxText>>20)

// maxHoles bounds the holes of files, in bytes: they take no room, but time, in the cut and on each restore.
const maxHoles = 64 << 30

// Holding is what a running member has open or mapped.
type Holding struct {
	Seen    []Seen
	Written []string // what /proc calls the files whose content would be in a cut
}

// Look lists what a running member has open or mapped.
func Look(ctx context.Context, t Tree) (Holding, error) {
	s, err := look(ctx, []Tree{t}, true)
	if err != nil {
		return Holding{}, err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	h := Holding{Seen: s.seen[t.Member]}
	for _, key := range s.order {
		f := s.files[key]
		for link := range f.links {
			if f.kept() {
				h.Written = append(h.Written, link)
			}
		}
	}
	return h, nil
}

// maxGhost is the largest file without a name that CRIU puts into its images.
const maxGhost = 1<<32 - 1

// ghost counts a file that has no name any more: CRIU copies it while the members stand still.
func (out *Surveyed) ghost(f *held) {
	taken := f.st.Blocks * 512
	if f.st.Nlink > 0 || len(f.handles) == 0 || inMemory(f) {
		return
	}
	l := Large{Path: f.handles[0].path(), Member: f.members[0], Bytes: taken}
	if link, err := os.Readlink(l.Path); err == nil {
		l.Path = link
	}
	if f.st.Size > maxGhost {
		out.Refused = append(out.Refused, fmt.Sprintf("process %d has %s open, which has %d MiB and no name any more, and CRIU takes at most 4 GiB of such a file: close it, or give it a name", f.handles[0].pid, l.Path, f.st.Size>>20))
	}
	out.Size += taken
	out.Frozen += taken
	out.Largest = append(out.Largest, l)
}

// unspeakable refuses names that are not UTF-8: no list of a cut can hold them.
func unspeakable(member string, seen []Seen) []string {
	var out []string
	for _, s := range seen {
		if !utf8.ValidString(s.Path) {
			out = append(out, fmt.Sprintf("%s has %q open, or works in it, and that name is not UTF-8: rename it", member, s.Path))
		}
	}
	return out
}

// sameLostName refuses two files that were opened by one name, which each has lost while it has others: the images name both alike.
func (s *scan) sameLostName() []string {
	var out []string
	seen := map[string]bool{}
	for _, key := range s.order {
		f := s.files[key]
		if f.st.Nlink == 0 || !f.kept() {
			continue
		}
		for link, root := range f.links {
			if !strings.HasSuffix(link, deleted) || f.is(root, link) {
				continue
			}
			if seen[link] {
				out = append(out, fmt.Sprintf("process %d holds one of two files that were opened as %s and lost that name while they have others: open each by the name that it has", f.handles[0].pid, strings.TrimSuffix(link, deleted)))
			}
			seen[link] = true
		}
	}
	return out
}

// lost says why the file could not be found again in place, "" if it could: it has no name that is known, and its file system knows no other way.
func (f *held) lost(names []string) string {
	h := f.handles[0]
	link, err := os.Readlink(h.path())
	if f.st.Nlink == 0 || err != nil || !strings.HasSuffix(link, deleted) || len(f.live()) > 0 || len(names) > 0 || handleOf(h.path()) != "" {
		return ""
	}
	return fmt.Sprintf("process %d opened %s by a name that was removed, and which other name the file has is not to be found: open it by the name that it has", h.pid, strings.TrimSuffix(link, deleted))
}

// tooMany says if members hold more files that they can write than this process may hold with them: a descriptor is needed for each, and
// the agent's other jobs and callers need some, too.
func (s *scan) tooMany() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of descriptors: %w", err)
	}
	n := 0
	for _, f := range s.files {
		if f.kept() {
			n++
		}
	}
	if most := limit.Cur / 4; uint64(n) > most {
		return fmt.Errorf("the members have %d files open that they may write, and the agent can hold %d with them: close some, or raise LimitNOFILE of ssagent (it is %d)", n, most, limit.Cur)
	}
	return nil
}

// inMemory says whether the file is on a tmpfs: memory, like the rest of the member's.
func inMemory(f *held) bool {
	var fs unix.Statfs_t
	return unix.Statfs(f.handles[0].path(), &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}
