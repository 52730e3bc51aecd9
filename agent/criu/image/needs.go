package image

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/agent/target"
)

// Bits of VmaEntry.status, criu/include/image.h.
const (
	vmaFilePrivate = 1 << 6
	vmaFileShared  = 1 << 7
)

// Needs reads what the images in dir need of the host they are restored on. Not among the files: devices, what
// /proc and /sys make, and deleted files that the images hold themselves.
func (Editor) Needs(dir string) (target.Needs, error) {
	var n target.Needs
	entries, err := readFiles(dir)
	if err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	ghosts, err := ghostFiles(dir)
	if err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	files := neededFiles(entries, ghosts)
	if n.Pids, err = files.readTree(dir); err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	n.Files, n.Dirs = files.list()
	sockets, err := socketsOf(entries)
	if err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	for _, sk := range sockets {
		local, remote, err := SockAddrs(sk)
		switch {
		case err != nil:
			return n, fmt.Errorf("what the images need: %w", err)
		case listening(sk):
			n.Listen = append(n.Listen, local)
		case connected(sk) || connecting(sk):
			n.Conns = append(n.Conns, target.NeededConn{Local: local, Remote: remote})
		}
	}
	if n.Objects, err = neededObjects(dir, entries, ghosts); err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	if n.Objects.Ghosts, err = ghostsOf(dir, entries, files); err != nil {
		return n, fmt.Errorf("what the images need: %w", err)
	}
	return n, nil
}

// fileSet is the regular files and folders of the images, by the number they have there.
type fileSet struct {
	files map[uint32]*target.NeededFile
	dirs  map[uint32]string
	used  map[string]bool // folders: working directories, roots, opened ones

	programs, mapped map[uint32]bool // files that processes were started from, and have mapped to be run; deleted ones too
}

func neededFiles(entries []*fdinfo.FileEntry, ghosts map[uint32]bool) *fileSet {
	set := &fileSet{files: map[uint32]*target.NeededFile{}, dirs: map[uint32]string{}, used: map[string]bool{}, programs: map[uint32]bool{}, mapped: map[uint32]bool{}}
	for _, e := range entries {
		reg := e.GetReg()
		if e.GetType() != fdinfo.FdTypes_REG || reg == nil || ghosts[reg.GetId()] {
			continue
		}
		path := filepath.Join("/", reg.GetName())
		switch {
		case reg.GetMode()&unix.S_IFMT == unix.S_IFDIR:
			set.dirs[reg.GetId()] = path
		case reg.GetMode()&unix.S_IFMT == unix.S_IFREG && !kernelMade(path):
			access := reg.GetFlags() & unix.O_ACCMODE
			set.files[reg.GetId()] = &target.NeededFile{
				Path: path, Size: int64(reg.GetSize()), BuildID: buildID(reg),
				Write:  access == unix.O_WRONLY || access == unix.O_RDWR,
				Append: reg.GetFlags()&unix.O_APPEND != 0,
			}
		}
	}
	return set
}

func kernelMade(path string) bool {
	return strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/")
}

// ghostFiles are the numbers of the files whose content is in the images because they have no name any more.
func ghostFiles(dir string) (map[uint32]bool, error) {
	path := filepath.Join(dir, "remap-fpath.img")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	entries, err := ReadAll(path, "remap-fpath", &remap_file_path.RemapFilePathEntry{})
	if err != nil {
		return nil, err
	}
	ghosts := map[uint32]bool{}
	for _, e := range entries {
		// A linked one is not left out: its number is that of the link that CRIU made beside it.
		if e.GetRemapType() != remap_file_path.RemapType_LINKED {
			ghosts[e.GetOrigId()] = true
		}
	}
	return ghosts, nil
}

// readTree goes through the processes: it marks what they have mapped and where they work, and returns their
// PIDs and those of their threads.
func (s *fileSet) readTree(dir string) ([]int, error) {
	tree, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range tree {
		pids = append(pids, int(p.GetPid()))
		if err := s.readProcess(dir, p.GetPid()); err != nil {
			return nil, err
		}
		// Of a zombie, which has no memory, CRIU writes what happens to stand where the numbers of threads would.
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("mm-%d.img", p.GetPid()))); errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, t := range p.GetThreads() {
			pids = append(pids, int(t))
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// readProcess marks the files of one process. A zombie has neither memory nor folders.
func (s *fileSet) readProcess(dir string, pid uint32) error {
	memory, err := ReadOne(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)), &mm.MmEntry{})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.programs[memory.GetExeFileId()] = true
	if f := s.files[memory.GetExeFileId()]; f != nil {
		f.Mapped, f.Program = true, true
	}
	for _, vma := range memory.GetVmas() {
		if vma.GetStatus()&(vmaFilePrivate|vmaFileShared) == 0 || vma.GetShmid() > 1<<32-1 {
			continue
		}
		runs := vma.GetProt()&unix.PROT_EXEC != 0
		if runs {
			s.mapped[uint32(vma.GetShmid())] = true
		}
		if f := s.files[uint32(vma.GetShmid())]; f != nil {
			f.Mapped = f.Mapped || runs
			f.Write = f.Write || vma.GetFdflags()&unix.O_ACCMODE != unix.O_RDONLY // by which CRIU opens what is mapped
		}
	}
	places, err := ReadOne(filepath.Join(dir, fmt.Sprintf("fs-%d.img", pid)), &fs.FsEntry{})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, id := range []uint32{places.GetCwdId(), places.GetRootId()} {
		if path, ok := s.dirs[id]; ok {
			s.used[path] = true
		}
	}
	return nil
}

// list merges what there is by path and sorts it.
func (s *fileSet) list() ([]target.NeededFile, []string) {
	byPath := map[string]target.NeededFile{}
	for _, f := range s.files {
		if f.Mapped && f.BuildID == "" {
			f.BuildID = files.BuildID(f.Path)
		}
		have, ok := byPath[f.Path]
		if ok {
			f.Program, f.Mapped, f.Write, f.Append = f.Program || have.Program, f.Mapped || have.Mapped, f.Write || have.Write, f.Append || have.Append
			f.BuildID, f.Size = cmp.Or(f.BuildID, have.BuildID), max(f.Size, have.Size)
		}
		byPath[f.Path] = *f
	}
	files := make([]target.NeededFile, 0, len(byPath))
	for _, f := range byPath {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b target.NeededFile) int { return cmp.Compare(a.Path, b.Path) })
	for _, path := range s.dirs {
		if !kernelMade(path) {
			s.used[path] = true
		}
	}
	dirs := make([]string, 0, len(s.used))
	for path := range s.used {
		dirs = append(dirs, path)
	}
	slices.Sort(dirs)
	return files, dirs
}

// buildID is the GNU build id that CRIU noted, "" if the file has none. CRIU pads it to whole words.
func buildID(reg *regfile.RegFileEntry) string {
	var b []byte
	for _, w := range reg.GetBuildId() {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return hex.EncodeToString(b)
}

func readTree(dir string) ([]*pstree.PstreeEntry, error) {
	tree, err := ReadAll(filepath.Join(dir, "pstree.img"), "pstree", &pstree.PstreeEntry{})
	if err != nil {
		return nil, err
	}
	if len(tree) == 0 {
		return nil, errors.New("image pstree.img holds no process")
	}
	return tree, nil
}

// ForeignSession says whether the session of the images' root was led by a process outside the tree.
func ForeignSession(dir string) (bool, error) {
	tree, err := readTree(dir)
	if err != nil {
		return false, err
	}
	for _, p := range tree {
		if p.GetPpid() == 0 {
			return p.GetSid() != p.GetPid(), nil
		}
	}
	return false, errors.New("image pstree.img has no root")
}
