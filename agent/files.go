package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ss/fault"
)

// StoredFile is a regular file that a member had open for writing, and its content in the cut. A
// restore puts it back as it was: what the member wrote after the cut, it will write again.
type StoredFile struct {
	Path  string `json:"path"`
	Name  string `json:"name"` // in the member's files folder
	Size  int64  `json:"size"`
	Mode  uint32 `json:"mode"`
	UID   int    `json:"uid"`
	GID   int    `json:"gid"`
	After bool   `json:"after"` // only ever appended to: its head was copied after the thaw
}

const (
	filesFolder = "files"
	filesIndex  = "files.json"
	// frozenCopyMax bounds what is copied while the member stands still.
	frozenCopyMax = 64 << 20
)

type copyTime int

const (
	whileFrozen copyTime = iota // files written anywhere: they must be copied before the member runs
	afterThaw                   // files only appended to: what stood in them at the cut still does
)

// copyFiles copies the files that m has open for writing into its part of the image set, each at the
// earliest time at which it may be.
func (w *work) copyFiles(ctx context.Context, m Member, images string, when copyTime) error {
	dir := filepath.Join(filepath.Dir(images), filesFolder)
	files, err := storedFiles(images)
	if err != nil {
		return err
	}
	if when == whileFrozen {
		if files, err = w.chooseFiles(m, images); err != nil || len(files) == 0 {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		b, err := json.Marshal(files)
		if err != nil {
			return fmt.Errorf("encode the list of files: %w", err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(images), filesIndex), b, 0o600); err != nil {
			return err
		}
	}
	for _, f := range files {
		if f.After != (when == afterThaw) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyHead(insideOf(m, f.Path), filepath.Join(dir, f.Name), f.Size); err != nil {
			return fmt.Errorf("copy %s: %w", f.Path, err)
		}
	}
	return nil
}

// insideOf is where this host sees a path of a member's own mount namespace.
func insideOf(m Member, path string) string {
	if m.Pid > 0 {
		return fmt.Sprintf("/proc/%d/root%s", m.Pid, path)
	}
	return path
}

func (w *work) chooseFiles(m Member, images string) ([]StoredFile, error) {
	needs, err := w.a.cfg.CRIU.Needs(images)
	if err != nil {
		return nil, fmt.Errorf("read the open files in the images: %w", err)
	}
	var files []StoredFile
	var frozen int64
	seen := map[string]bool{}
	for _, n := range needs.Files {
		if !n.Write || seen[n.Path] || strings.HasSuffix(n.Path, " (deleted)") {
			continue
		}
		seen[n.Path] = true
		var st unix.Stat_t
		if err := unix.Stat(insideOf(m, n.Path), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // unlinked, which CRIU keeps in its own images, or no regular file
		}
		f := StoredFile{
			Path: n.Path, Name: fmt.Sprintf("%d", len(files)), Size: st.Size, Mode: st.Mode & 0o7777,
			UID: int(st.Uid), GID: int(st.Gid), After: n.Append,
		}
		if !f.After {
			frozen += f.Size
		}
		files = append(files, f)
	}
	if frozen > frozenCopyMax {
		return nil, fault.New(fault.Refused, fmt.Sprintf("%s has %d MiB of files open that it may write anywhere in, and at most %d MiB are copied while it stands still", m.Name, frozen>>20, frozenCopyMax>>20), "close them, or open them for appending")
	}
	return files, nil
}

func storedFiles(images string) ([]StoredFile, error) {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(images), filesIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []StoredFile
	if err := json.Unmarshal(b, &files); err != nil {
		return nil, fmt.Errorf("list of files: %w", err)
	}
	return files, nil
}

// copyHead copies the first size bytes.
func copyHead(src, dst string, size int64) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	n, err := io.Copy(out, io.LimitReader(in, size))
	if err == nil && n < size {
		err = fmt.Errorf("it has shrunk from %d to %d bytes since the cut", size, n)
	}
	return err
}

// putBack makes a file what it was in the cut. The new content comes under the old name in one step,
// so that a restore that is broken off leaves the one or the other.
func putBack(src string, f StoredFile) error {
	tmp := f.Path + ".ss-restore"
	if err := copyHead(src, tmp, f.Size); err != nil {
		return errors.Join(err, ignoreGone(os.Remove(tmp)))
	}
	err := errors.Join(os.Chown(tmp, f.UID, f.GID), os.Chmod(tmp, os.FileMode(f.Mode).Perm()), os.Rename(tmp, f.Path))
	if err != nil {
		return errors.Join(err, ignoreGone(os.Remove(tmp)))
	}
	return syncDir(filepath.Dir(f.Path))
}
