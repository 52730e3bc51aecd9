package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/magic"
	"google.golang.org/protobuf/proto"
)

// magicOf is the name of the magic number that an image of this name must bear. Others are not read here.
var magicOf = map[string]string{
	"core":        "CORE",
	"files":       "FILES",
	"pstree":      "PSTREE",
	"mm":          "MM",
	"pagemap":     "PAGEMAP",
	"fs":          "FS",
	"ids":         "IDS",
	"fdinfo":      "FDINFO",
	"filelocks":   "FILE_LOCKS",
	"remap-fpath": "REMAP_FPATH",
	"tcp-stream":  "TCP_STREAM",
	"tty-info":    "TTY_INFO",
	"fifo-data":   "FIFO_DATA",
	"ghost-file":  "GHOST_FILE",
	"memfd":       "MEMFD_INODE",
	"stats-dump":  "STATS",
}

// decode reads an image whose entries are of the type of like. A file that is not such an image, that is cut
// short or whose lengths lie, gives an error. kind is a key of magicOf.
func decode(path, kind string, like proto.Message) (img *crit.CriuImage, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	// go-criu reads what lengths say without looking whether it is there.
	if err := checkFrames(f, kind); err != nil {
		return nil, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	defer func() {
		if p := recover(); p != nil {
			img, err = nil, fmt.Errorf("image %s cannot be decoded: %v", filepath.Base(path), p)
		}
	}()
	img, err = crit.New(f, nil, "", false, true).Decode(like)
	if err != nil {
		return nil, fmt.Errorf("image %s cannot be decoded: %w", filepath.Base(path), err)
	}
	return img, nil
}

// checkFrames checks the magic numbers and that the frames (a length of 4 bytes, little-endian, and as many bytes)
// fill the file exactly. In a TCP stream, in what FIFOs hold and in a file without a name, data follow the first frame. f is left at its start.
func checkFrames(f *os.File, kind string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	names := magic.LoadMagic().ByName
	want := uint32(names[magicOf[kind]])
	var head [8]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return fmt.Errorf("too short: %w", err)
	}
	outer, inner := binary.LittleEndian.Uint32(head[:4]), binary.LittleEndian.Uint32(head[4:])
	if (outer != uint32(names["IMG_COMMON"]) && outer != uint32(names["IMG_SERVICE"])) || inner != want {
		return fmt.Errorf("not a %s image (magic %#x %#x)", kind, outer, inner)
	}
	for at := int64(len(head)); at < info.Size(); {
		var size [4]byte
		if _, err := io.ReadFull(f, size[:]); err != nil {
			return fmt.Errorf("cut short at byte %d: %w", at, err)
		}
		at += 4 + int64(binary.LittleEndian.Uint32(size[:]))
		if at > info.Size() {
			return fmt.Errorf("cut short: an entry ends at byte %d of %d", at, info.Size())
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if kind == "tcp-stream" || kind == "fifo-data" || kind == "ghost-file" {
			break
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// ReadAll reads the entries of an image.
func ReadAll[T proto.Message](path, kind string, like T) ([]T, error) {
	img, err := decode(path, kind, like)
	if err != nil {
		return nil, err
	}
	entries, err := entriesOf[T](img)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	return entries, nil
}

func entriesOf[T proto.Message](img *crit.CriuImage) ([]T, error) {
	entries := make([]T, 0, len(img.Entries))
	for _, e := range img.Entries {
		entry, ok := e.Message.(T)
		if !ok {
			return nil, fmt.Errorf("an entry of type %T", e.Message)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// readHead reads the first entry of an image and nothing of what follows.
func readHead[T proto.Message](path, kind string, entry T) (T, error) {
	var none T
	f, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	if err := checkFrames(f, kind); err != nil {
		return none, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	var head [12]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return none, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	frame := make([]byte, binary.LittleEndian.Uint32(head[8:])) // checkFrames has seen that it is there
	if _, err := io.ReadFull(f, frame); err != nil {
		return none, fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	if err := proto.Unmarshal(frame, entry); err != nil {
		return none, fmt.Errorf("image %s cannot be decoded: %w", filepath.Base(path), err)
	}
	return entry, nil
}

// ReadOne reads the first entry of an image of which it is the only one that counts. The kind is the name's.
func ReadOne[T proto.Message](path string, like T) (T, error) {
	kind := filepath.Base(path)
	if _, ok := magicOf[kind]; !ok {
		kind = kind[:max(0, strings.LastIndexByte(kind, '-'))] // fs-1001.img
	}
	entries, err := ReadAll(path, kind, like)
	var none T
	if err != nil {
		return none, err
	}
	if len(entries) == 0 {
		return none, fmt.Errorf("image %s is empty", filepath.Base(path))
	}
	return entries[0], nil
}

// encode writes an image again, whole or not at all: it is at path when encode returns nil, and durable.
func encode(path string, img *crit.CriuImage) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("image %s cannot be encoded: %v", filepath.Base(path), p)
		}
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := crit.New(nil, f, "", false, false).Encode(img); err != nil {
		return fmt.Errorf("image %s cannot be encoded: %w", filepath.Base(path), err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}
