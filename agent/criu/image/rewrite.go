package image

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/internal/disk"
)

// Rewrite makes dst, 0700, hold the images of src with every address in moved replaced by what it maps to: both ends
// of connections, listening sockets, bound UDP sockets; IPv4, IPv6 and IPv4-mapped alike. What CRIU would not put back as it was is mended on the way (mend.go, seal.go). moved's addresses
// are unmapped. Images that do not change are hard links to src's, or copies where links cannot be; CRIU
// only ever reads them. Logs and statistics are left behind, for a restore writes its own. src is not touched.
func (Editor) Rewrite(src, dst string, moved map[netip.Addr]netip.Addr, ends []agent.EndChange) error {
	for old, to := range moved {
		if !old.IsValid() || !to.IsValid() || old.Is4In6() || to.Is4In6() {
			return fmt.Errorf("rewrite images: %s to %s is not a move of plain addresses", old, to)
		}
	}
	if same, err := sameDir(src, dst); err != nil || same {
		return errors.Join(err, sameErr(same, src))
	}
	if err := os.MkdirAll(dst, 0o700); err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	root, err := rootCore(src)
	if err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	again, err := connectingAgain(src, ends)
	if err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	sealed, err := sealedMemfds(src)
	if err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".img" {
			continue
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("rewrite images: %s is not a regular file", e.Name())
		}
		from, to := filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())
		switch name := e.Name(); {
		case name == "files.img":
			err = rewriteFiles(from, to, moved, ends)
		case again[name]:
			err = rewriteStream(from, to)
		case name == "pstree.img":
			err = rewriteTree(from, to)
		case name == root:
			err = rewriteRoot(from, to)
		case len(sealed) > 0 && strings.HasPrefix(name, "mm-"):
			err = rewriteMappings(from, to, sealed)
		default:
			err = linkFile(from, to)
		}
		if err != nil {
			return fmt.Errorf("rewrite images: %w", err)
		}
	}
	if err := disk.SyncDir(dst); err != nil {
		return fmt.Errorf("rewrite images: %w", err)
	}
	return nil
}

func rewriteFiles(from, to string, moved map[netip.Addr]netip.Addr, ends []agent.EndChange) error {
	img, err := decode(from, "files", &fdinfo.FileEntry{})
	if err != nil {
		return err
	}
	any := false
	for _, e := range img.Entries {
		file, ok := e.Message.(*fdinfo.FileEntry)
		if ok && mendTimer(file.GetTfd()) {
			any = true
		}
		if !ok || file.GetIsk() == nil {
			continue
		}
		turned, err := turnSocket(file.GetIsk(), ends)
		if err != nil {
			return err
		}
		changed, err := moveSocket(file.GetIsk(), moved)
		if err != nil {
			return err
		}
		any = any || turned || changed
	}
	if !any {
		return linkFile(from, to)
	}
	return encode(to, img)
}

// linkFile makes to another name of from, or a copy of it.
func linkFile(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.Link(from, to)
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if !errors.As(err, &errno) || (errno != unix.EXDEV && errno != unix.EPERM && errno != unix.EMLINK && errno != unix.EOPNOTSUPP) {
		return err
	}
	return copyFile(from, to)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			_ = os.Remove(to)
		}
	}()
	if _, err = io.Copy(out, in); err != nil {
		return err
	}
	return out.Sync()
}

func sameDir(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, fmt.Errorf("rewrite images: %w", err)
	}
	y, err := os.Stat(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("rewrite images: %w", err)
	}
	return os.SameFile(x, y), nil
}

func sameErr(same bool, dir string) error {
	if !same {
		return nil
	}
	return fmt.Errorf("rewrite images: %s onto itself", dir)
}
