package obstacles

import (
	"ss/agent/files"
	"ss/agent/proc"
)

// marks looks for a file or folder that inotify or fanotify watches on an overlay file system that does not know again the handles that it gives. CRIU looks for what is
// watched by its handle. kind is one of the two.
func (s *survey) marks(pid, fd int, kind string) {
	marks, err := proc.Marks(pid, fd)
	if err != nil {
		return // it was closed
	}
	for _, m := range marks {
		mount, fs, ok := proc.MountOf(pid, m.Major, m.Minor)
		if !ok || fs != "overlay" || !files.Lost(pid, mount, m.Handle) {
			continue
		}
		s.add(pid, "watches a file or folder (%s, descriptor %d) on the overlay file system at %s, where CRIU can't find it again: mount that with index=on,nfs_export=on, "+
			"or have it watch one on another file system", kind, fd, mount)
	}
}
