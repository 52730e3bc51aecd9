package image

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent"
)

// Handed is a file that the keeper opens for CRIU.
type Handed struct {
	agent.Handed

	Fd int // its number in CRIU
}

const (
	// firstHanded is the first number of a descriptor that is handed to CRIU: beyond those that the keeper has.
	firstHanded = 300
	// handedPrefix begins the keys by which the images name what is handed. CRIU looks a name up as it is in the image.
	handedPrefix = "/ss-Handed/"
)

// GiveFiles changes the images in dir so that CRIU opens the files that hand chooses through descriptors, and returns these with the
// entries for CRIU's request. It gives the files that only the images hold numbers that no other CRIU of this host uses: CRIU makes names
// of them, beside the names that the files had.
func GiveFiles(dir string, hand func(agent.ImageFile) (*agent.Handed, error)) ([]Handed, []*rpc.InheritFd, error) {
	remaps, err := readRemaps(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := remaps.renumber(dir); err != nil {
		return nil, nil, err
	}
	path := filepath.Join(dir, "files.img")
	img, err := decode(path, "files", &fdinfo.FileEntry{})
	if err != nil {
		return nil, nil, err
	}
	var out []Handed
	var keys []*rpc.InheritFd
	for _, e := range img.Entries {
		entry, ok := e.Message.(*fdinfo.FileEntry)
		if !ok || entry.GetReg() == nil || hand == nil {
			continue
		}
		reg := entry.GetReg()
		removed := remaps.linked(reg.GetId())
		ino, err := remaps.ghost(dir, reg.GetId())
		if err != nil {
			return nil, nil, err
		}
		if remaps.has(reg.GetId()) && !removed && ino == 0 || remaps.isLink(reg.GetId()) || kernelMade(reg.GetName()) || !filepath.IsAbs(reg.GetName()) {
			continue
		}
		h, err := hand(agent.ImageFile{Name: filepath.Clean(reg.GetName()), Mode: reg.GetMode(), Removed: removed || ino != 0, Ino: ino})
		if err != nil {
			return nil, nil, err
		}
		if h == nil {
			continue
		}
		fd := firstHanded + len(out)
		keys = append(keys, give(reg, fd))
		if h.AnySize {
			reg.Size = nil
		}
		out = append(out, Handed{*h, fd})
		remaps.drop(reg.GetId())
	}
	if len(out) > 0 {
		if err := encode(path, img); err != nil {
			return nil, nil, err
		}
	}
	return out, keys, remaps.write(dir)
}

// Unnamed says whether the images hold files without a name, or with another one than they were opened by. CRIU gives each the name that it had, for a
// moment, and if that is in use the same name with a suffix, which is always the same.
func Unnamed(dir string) (bool, error) {
	remaps, err := readRemaps(dir)
	if err != nil {
		return false, err
	}
	for _, e := range remaps.entries() {
		if named(e) {
			return true, nil
		}
	}
	return false, nil
}

// named says whether CRIU gives the file its name for a moment.
func named(e *remap_file_path.RemapFilePathEntry) bool {
	return e.GetRemapType() == remap_file_path.RemapType_GHOST || e.GetRemapType() == remap_file_path.RemapType_LINKED
}

// give makes CRIU open the file through a descriptor (RegFileEntry.ext, open_path of criu/files-reg.c): under that key it finds it, and opens
// it again by /proc, with the flags of the entry.
func give(reg *regfile.RegFileEntry, fd int) *rpc.InheritFd {
	key := fmt.Sprintf("%s%d", handedPrefix, reg.GetId())
	reg.Name, reg.Ext = proto.String(key), proto.Bool(true)
	reg.Flags = proto.Uint32(reg.GetFlags() &^ unix.O_NOFOLLOW) // the way through /proc is a link
	return &rpc.InheritFd{Key: proto.String(key), Fd: proto.Int32(int32(fd))}
}

// remaps are the files of an image folder whose names had been removed at the dump.
type remaps struct {
	img     *crit.CriuImage
	changed bool
}

func readRemaps(dir string) (*remaps, error) {
	path := filepath.Join(dir, "remap-fpath.img")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return &remaps{}, nil
	}
	img, err := decode(path, "remap-fpath", &remap_file_path.RemapFilePathEntry{})
	return &remaps{img: img}, err
}

func (r *remaps) entries() []*remap_file_path.RemapFilePathEntry {
	if r.img == nil {
		return nil
	}
	var out []*remap_file_path.RemapFilePathEntry
	for _, e := range r.img.Entries {
		if entry, ok := e.Message.(*remap_file_path.RemapFilePathEntry); ok {
			out = append(out, entry)
		}
	}
	return out
}

func (r *remaps) has(id uint32) bool {
	for _, e := range r.entries() {
		if e.GetOrigId() == id {
			return true
		}
	}
	return false
}

// linked says whether the file has other names.
func (r *remaps) linked(id uint32) bool {
	for _, e := range r.entries() {
		if e.GetOrigId() == id && e.GetRemapType() == remap_file_path.RemapType_LINKED {
			return true
		}
	}
	return false
}

// isLink says whether the entry is a name that CRIU itself had given a file at the dump.
func (r *remaps) isLink(id uint32) bool {
	for _, e := range r.entries() {
		if e.GetRemapId() == id && e.GetRemapType() == remap_file_path.RemapType_LINKED {
			return true
		}
	}
	return false
}

// drop makes a file one with a name again.
func (r *remaps) drop(id uint32) {
	if r.img == nil {
		return
	}
	kept := r.img.Entries[:0]
	for _, e := range r.img.Entries {
		if entry, ok := e.Message.(*remap_file_path.RemapFilePathEntry); ok && entry.GetOrigId() == id {
			r.changed = true
			continue
		}
		kept = append(kept, e)
	}
	r.img.Entries = kept
}

// renumber gives the files that only the images hold other numbers.
func (r *remaps) renumber(dir string) error {
	var random [4]byte
	_, _ = rand.Read(random[:]) // it never fails (crypto/rand)
	next := binary.LittleEndian.Uint32(random[:])&0x3fffffff | 0x20000000
	numbers := map[uint32]uint32{}
	for _, e := range r.entries() {
		if e.GetRemapType() != remap_file_path.RemapType_GHOST {
			continue
		}
		to, ok := numbers[e.GetRemapId()]
		if !ok {
			to = next
			next++
			numbers[e.GetRemapId()] = to
			if err := os.Rename(ghostFile(dir, e.GetRemapId()), ghostFile(dir, to)); err != nil {
				return fmt.Errorf("rename the image of a deleted file: %w", err)
			}
		}
		e.RemapId, r.changed = proto.Uint32(to), true
	}
	return nil
}

// ghost is the number that a file without any name had at the dump; 0 if it had a name.
func (r *remaps) ghost(dir string, id uint32) (uint64, error) {
	for _, e := range r.entries() {
		if e.GetOrigId() != id || e.GetRemapType() != remap_file_path.RemapType_GHOST {
			continue
		}
		ghost, err := readHead(ghostFile(dir, e.GetRemapId()), "ghost-file", &ghost_file.GhostFileEntry{})
		if err != nil {
			return 0, err
		}
		return ghost.GetIno(), nil
	}
	return 0, nil
}

func ghostFile(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("ghost-file-%x.img", id))
}

func (r *remaps) write(dir string) error {
	if !r.changed {
		return nil
	}
	return encode(filepath.Join(dir, "remap-fpath.img"), r.img)
}
