package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ss/fault"
	"ss/internal/disk"
	"ss/store"
	"ss/store/archive"
	"ss/store/images"
	"ss/store/keys"
)

// ExportOptions says what goes out, and how.
type ExportOptions struct {
	Cut        string
	File       string
	Recipients []string // age recipients that the file is encrypted to; none: it is not
}

// ExportResult says what was written.
type ExportResult struct {
	Cut   store.Cut
	Files int
	Bytes int64 // of the files
}

// Export writes a cut into one file, from which Import makes it again elsewhere. The file is there whole, or not at all.
func (c *Cluster) Export(ctx context.Context, opt ExportOptions) (ExportResult, error) {
	cut, err := c.Catalogue.Cut(ctx, "", opt.Cut)
	if err != nil {
		return ExportResult{}, err
	}
	res := ExportResult{Cut: cut}
	if err := c.export(ctx, cut, opt, &res); err != nil {
		switch {
		case ctx.Err() != nil:
			err = &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "nothing was written"}
		case errors.Is(err, archive.ErrReserved):
			err = &fault.Error{Kind: fault.Refused, Err: err}
		}
		return res, &fault.Error{Op: "export", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	return res, nil
}

func (c *Cluster) export(ctx context.Context, cut store.Cut, opt ExportOptions, res *ExportResult) error {
	for _, r := range opt.Recipients {
		if err := keys.CheckRecipient(r); err != nil {
			return &fault.Error{Kind: fault.Usage, Err: err}
		}
	}
	key, err := c.CutKey(cut)
	if err != nil {
		return err
	}
	manifest, err := c.cutFile(ctx, cut)
	if err != nil {
		return err
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return err
	}
	return wholeFile(opt.File, func(f io.Writer) error {
		w := nopCloser(f)
		if len(opt.Recipients) > 0 {
			if w, err = keys.EncryptTo(f, opt.Recipients...); err != nil {
				return err
			}
		}
		a, err := archive.NewWriter(w, cut, manifest)
		if err != nil {
			return err
		}
		for _, h := range cut.Hosts {
			if err := c.exportHost(ctx, a, cut, h, key, statuses); err != nil {
				return err
			}
		}
		res.Files, res.Bytes = a.Files, a.Bytes
		return errors.Join(a.Close(), w.Close())
	})
}

// exportHost writes one host's images, as one of the agents that have them gives them.
func (c *Cluster) exportHost(ctx context.Context, a *archive.Writer, cut store.Cut, ch store.CutHost, key keys.Job, statuses []HostStatus) error {
	k := images.Key{Job: cut.Job, Snapshot: cut.ID, Host: ch.Host}
	from := Sources{Vaults: ch.Vaults}
	s := Census{Statuses: statuses}
	for _, p := range s.Participants(ch.Copies) {
		if _, err := c.Answering(statuses, p.Name); err == nil {
			from.Hosts = append(from.Hosts, p)
		}
	}
	if len(from.Hosts)+len(from.Vaults) == 0 {
		return fault.New(fault.Unreachable, fmt.Sprintf("no host that answers holds the images of %s (they are on %v)", ch.Host, ch.Copies), "start one of these hosts")
	}
	var r FileReader
	var meta PlainFile
	err := c.OnVault(ctx, statuses, ch.Copies, func(agent Agent) (err error) { // a host that holds them, or one that gets them from a vault
		if r, err = agent.ExportImages(ctx, k, ch.Manifest, key, from); err != nil {
			return err
		}
		if meta, err = r.Next(); err != nil {
			err = errors.Join(err, r.Close())
		}
		return err
	})
	if err == nil {
		c.Doing(ch.Host, "exporting")
		err = errors.Join(a.Host(ch, meta, r), r.Close())
	}
	if err != nil {
		return fmt.Errorf("images of %s: %w", ch.Host, err)
	}
	return nil
}

type writeNopCloser struct{ io.Writer }

func (writeNopCloser) Close() error { return nil }

func nopCloser(w io.Writer) io.WriteCloser { return writeNopCloser{w} }

// wholeFile makes path of what fill writes, for its owner only. Until that is all there, it is PATH.partial, which a failure removes.
func wholeFile(path string, fill func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return there(path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	partial := path + ".partial"
	f, err := partialFile(partial)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil { // under f's lock, and never over a file that came meanwhile
		err = unix.Renameat2(unix.AT_FDCWD, partial, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	switch {
	case errors.Is(err, unix.EINVAL): // a file system that cannot say so
		err = os.Rename(partial, path)
	case errors.Is(err, fs.ErrExist):
		err = there(path)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

func there(path string) error {
	return fault.New(fault.Conflict, path+" is there already", "choose another name, or remove it")
}

// partialFile begins a file that one export writes at a time. What one that died has left of it is written over.
func partialFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && !named(f, path) {
		return nil, errors.Join(fault.New(fault.Conflict, "another export writes "+path, "wait for its end, or choose another name"), f.Close())
	}
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Truncate(0))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin %s: %w", path, err), f.Close())
	}
	return f, nil
}

// named says whether an open file still has that name: the process that had it may have finished before we had its lock.
func named(f *os.File, path string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	at, err := os.Lstat(path)
	return err == nil && os.SameFile(is, at)
}
