package files

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Stored is a regular file that a member could write at the cut: through a descriptor, or through a shared mapping. Its content is
// in the cut, and a restore puts it back as it was: what the member wrote after the cut, it will write again.
type Stored struct {
	// Path is a name that the file had at the cut. "" if it had none that is known; then Gone has one.
	Path  string   `json:"path"`
	Links []string `json:"links,omitempty"` // further names of the same file (hard links)
	Gone  []string `json:"gone,omitempty"`  // names under which it was opened and which were removed while it had others

	// Deleted: it had no name at all, and two members shared it.
	Deleted bool `json:"deleted,omitempty"`
	// Handle finds the file on the host of the cut where no name does; "" where its file system has no such.
	Handle string `json:"handle,omitempty"`

	Name   string `json:"name"`             // of its content, in the files folder of Holder
	Holder string `json:"holder,omitempty"` // the member whose folder holds the content; "" is the member itself
	Size   int64  `json:"size"`             // bytes
	Blocks int64  `json:"blocks,omitempty"` // bytes that it took on its disk: fewer than Size if it was sparse
	Mode   uint32 `json:"mode"`             // all of 07777
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Dev    uint64 `json:"dev,omitempty"` // with Ino, the file's identity on the host of the cut
	Ino    uint64 `json:"ino,omitempty"`
	// Modified is when the file was last written to, in nanoseconds since 1970; 0 where the cut does not say.
	Modified int64 `json:"modified,omitempty"`
	// Attributes are those extended attributes that a user may set (user.*).
	Attributes map[string][]byte `json:"attributes,omitempty"`
	After      bool              `json:"after"` // only ever appended to, and large: its head was copied after the thaw
}

// Names are all that the file had and has, removed ones too.
func (s Stored) Names() []string {
	var names []string
	if s.Path != "" {
		names = append(names, s.Path)
	}
	return append(append(names, s.Links...), s.Gone...)
}

// Check says why a description that comes from outside, as one in an archive, cannot be one that Take made.
func (s Stored) Check() error {
	names := s.Names()
	if len(names) == 0 {
		return errors.New("a file of the cut has no name")
	}
	for _, name := range names {
		if !filepath.IsAbs(name) || filepath.Clean(name) != name || name == "/" || strings.ContainsRune(name, 0) {
			return fmt.Errorf("%q cannot be the name of a file of a cut", name)
		}
	}
	const most = math.MaxUint32 - 1 // (uid_t) -1 means no user at all
	if s.Size < 0 || s.Blocks < 0 || s.Mode&^0o7777 != 0 || s.UID < 0 || s.GID < 0 || s.UID > most || s.GID > most {
		return fmt.Errorf("%s: %d bytes (%d on disk), mode %o, user %d, group %d: no file is like that", names[0], s.Size, s.Blocks, s.Mode, s.UID, s.GID)
	}
	return nil
}

// CheckAll is Check of each, and says if two want one name.
func CheckAll(list []Stored) error {
	named := map[string]bool{}
	for _, s := range list {
		if err := s.Check(); err != nil {
			return err
		}
		for _, name := range append([]string{s.Path}, s.Links...) {
			if name != "" && named[name] {
				return fmt.Errorf("two files of the cut are called %q", name)
			}
			named[name] = true
		}
	}
	return nil
}

// Seen is a file or folder that a member had open, mapped, or worked in at the cut, with what tells it from another one.
type Seen struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // with the type (S_IFMT)
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Size int64  `json:"size"`
	// BuildID is the GNU build id in hex, of a file that was mapped as a program.
	BuildID string `json:"build_id,omitempty"`
}

// Rewritten says whether path is still the very file that a member only read at the cut, on the host of the cut, and that others have made longer or shorter
// since. The member goes on reading where it was, as it would have if it had run on.
func Rewritten(path string, seen []Seen) bool {
	i := slices.IndexFunc(seen, func(s Seen) bool { return s.Path == path })
	if i < 0 || seen[i].Mode&unix.S_IFMT != unix.S_IFREG || seen[i].BuildID != "" {
		return false
	}
	st, err := Stat(path)
	return err == nil && st.Dev == seen[i].Dev && st.Ino == seen[i].Ino && st.Size != seen[i].Size
}

// Tree is one member as Take looks at it.
type Tree struct {
	Member string
	Pids   []int  // its processes, as this host sees them
	Root   string // where its paths begin, e.g. /proc/PID/root of its cell's PID 1
	// Folders are those whose files are part of the cut, whoever has them open.
	Folders []string
}
