package files

// Stored is a regular file that a member could write at the cut: through a descriptor, or through a shared mapping. Its content is
// in the cut, and a restore puts it back as it was: what the member wrote after the cut, it will write again.
type Stored struct {
	// Path is a name that the file had at the cut. "" if it had none that is known; then Gone has one.
	Path  string   `json:"path"`
	Links []string `json:"links,omitempty"` // further names of the same file (hard links)
	Gone  []string `json:"gone,omitempty"`  // names under which it was opened and which were removed while it had others

	Name   string `json:"name"`             // of its content, in the files folder of Holder
	Holder string `json:"holder,omitempty"` // the member whose folder holds the content; "" is the member itself
	Size   int64  `json:"size"`             // bytes
	Blocks int64  `json:"blocks,omitempty"` // bytes that it took on its disk: fewer than Size if it was sparse
	Mode   uint32 `json:"mode"`             // all of 07777
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Dev    uint64 `json:"dev,omitempty"` // with Ino, the file's identity on the host of the cut
	Ino    uint64 `json:"ino,omitempty"`
	After  bool   `json:"after"` // only ever appended to: its head was copied after the thaw
}

// Names are all that the file had and has, removed ones too.
func (s Stored) Names() []string {
	var names []string
	if s.Path != "" {
		names = append(names, s.Path)
	}
	return append(append(names, s.Links...), s.Gone...)
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

// Tree is one member as Take looks at it.
type Tree struct {
	Member string
	Pids   []int  // its processes, as this host sees them
	Root   string // where its paths begin, e.g. /proc/PID/root of its cell's PID 1
}
