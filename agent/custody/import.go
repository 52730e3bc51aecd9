package custody

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ss/fault"
	"ss/store/images"
	"ss/store/keys"
)

// ImportOpen says what the plain files that follow are to become.
type ImportOpen struct {
	Key          images.Key
	Epoch        uint64
	Meta         []byte // what the exported set said of its members
	JobKey       keys.Job
	Copies       []Peer
	CopiesWanted int
	Vaults       []string
}

// Import is an image set in the making, of plain files that somebody sends. It belongs to one goroutine.
type Import struct {
	h       *Holder
	open    ImportOpen
	free    func()
	partial *images.Partial
	members map[string]bool
	files   int
	sealed  bool
	copies  *Copies
}

// Imported is what an Import made.
type Imported struct {
	Digest string
	Copies []string // hosts, this one first
	Vaults []string
}

// StartImport begins an image set that is as if it had been dumped here. The caller must Close the Import. A set may be that of another
// host; then no copies can be wanted, since an agent speaks for its own host only: Fetch makes them, on those hosts.
func (h *Holder) StartImport(open ImportOpen) (*Import, error) {
	im, err := h.startImport(open)
	return im, h.fault(err)
}

func (h *Holder) startImport(open ImportOpen) (*Import, error) {
	if err := checkKey(open.Key); err != nil {
		return nil, err
	}
	if open.Key.Host != h.cfg.Host && open.CopiesWanted > 0 {
		return nil, fault.New(fault.Usage, fmt.Sprintf("%s may not put images of %s on other hosts", h.cfg.Host, open.Key.Host), "have those fetch them from here, once they are imported")
	}
	list, err := memberNames(open.Meta)
	if err != nil {
		return nil, badImport("%v", err)
	}
	members := map[string]bool{}
	for _, name := range list {
		members[name] = true
	}
	free, err := h.jobs.Lock(open.Key.Job, "import "+open.Key.Snapshot)
	if err != nil {
		return nil, err
	}
	partial, err := h.cfg.Store.Begin(open.Key)
	if err != nil {
		free()
		return nil, err
	}
	return &Import{h: h, open: open, free: free, partial: partial, members: members}, nil
}

func badImport(format string, args ...any) error {
	return fault.New(fault.Usage, "the file is not an export of a cut: "+fmt.Sprintf(format, args...), "export the cut again")
}

// Put takes one file: f.Size bytes of r, no more and no less.
func (im *Import) Put(f PlainFile, r io.Reader) error {
	return im.h.fault(im.put(f, r))
}

// pathMax bounds a path, in bytes.
const pathMax = 1024

func (im *Import) put(f PlainFile, r io.Reader) (err error) {
	member, rest, _ := strings.Cut(f.Path, "/")
	switch {
	case len(f.Path) > pathMax || !fs.ValidPath(f.Path) || strings.ContainsAny(f.Path, "\x00\\"):
		return badImport("%.100q is not a path of a file in it", f.Path)
	case rest == "" || !im.members[member]:
		return badImport("%q belongs to no member", f.Path)
	case f.Size < 0:
		return badImport("%q has a size of %d", f.Path, f.Size)
	}
	dir, err := im.partial.Dir(member)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, filepath.FromSlash(rest))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return badImport("%q stands in it twice", f.Path)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	n, err := io.Copy(out, io.LimitReader(r, f.Size))
	if err != nil {
		return DiskFull(im.h.cfg.Staging, fmt.Errorf("%s: %w", path.Base(f.Path), err))
	}
	if n < f.Size {
		return badImport("%q ends after %d of %d bytes", f.Path, n, f.Size)
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		if n > 0 {
			return badImport("%q has more than its %d bytes", f.Path, f.Size)
		}
		return err
	}
	im.files++
	return out.Chmod(fs.FileMode(f.Mode&0o700 | 0o600))
}

// Seal makes the files an image set, and its copies. It stays in doubt until PutCut.
func (im *Import) Seal(ctx context.Context) (Imported, error) {
	out, err := im.seal(ctx)
	return out, im.h.fault(err)
}

func (im *Import) seal(ctx context.Context) (Imported, error) {
	if im.files == 0 {
		return Imported{}, badImport("it has no files")
	}
	im.copies = im.h.Copy(im.open.Key, im.open.Copies, im.open.CopiesWanted, im.open.Vaults)
	sealed, err := im.copies.Store(ctx, im.partial, images.Info{Epoch: im.open.Epoch, Meta: im.open.Meta, JobKey: im.open.JobKey})
	if err != nil {
		return Imported{}, err
	}
	im.sealed = true
	return Imported{Digest: sealed.Manifest.Digest, Copies: im.copies.Holders(), Vaults: im.copies.Vaults()}, nil
}

// Close removes what an import that has not come to its end has made, here and elsewhere.
func (im *Import) Close(ctx context.Context) error {
	defer im.free()
	if im.sealed {
		return nil
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	errs := []error{im.partial.Discard(), im.h.SettleCopy(im.open.Key, false)}
	if im.copies != nil {
		errs = append(errs, im.copies.Undo(ctx))
	}
	return im.h.fault(errors.Join(errs...))
}
