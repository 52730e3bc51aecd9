package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ss/store/internal/disk"
)

// Partial is an image set in the making. Nobody sees it until Seal.
type Partial struct {
	s      *Store
	key    Key
	dir    string
	sealed bool
	moved  bool // it has its final name, perhaps not durably
}

// Info is what a manifest says beside what is in the files.
type Info struct {
	Epoch uint64
	Meta  json.RawMessage // any JSON value, or nil
}

// Begin starts an image set. Where there is one of that key already, whole or partial, the error wraps
// ErrExists.
func (s *Store) Begin(key Key) (*Partial, error) {
	if err := s.has(key); err == nil {
		return nil, fmt.Errorf("begin images of %s: %w", key, ErrExists)
	} else if !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("begin images: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Partial{s: s, key: key, dir: s.partialDir(key)}
	err := s.makeParents(key)
	if err == nil {
		err = s.mkdir(p.dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("begin images of %s: another is at it, or was interrupted: %w", key, ErrExists)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin images of %s: %w", key, err), s.prune(key))
	}
	return p, nil
}

// Key is the set's.
func (p *Partial) Key() Key { return p.key }

// Dir makes, the first time, and returns the folder for a member's images (0700). What is put there
// must be regular files, in folders at will.
func (p *Partial) Dir(member string) (string, error) {
	if !validMember(member) {
		return "", fmt.Errorf("images of %s: member %q: %w", p.key, member, ErrInvalid)
	}
	dir := filepath.Join(p.dir, member)
	if err := p.s.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("images of %s: %w", p.key, err)
	}
	return dir, nil
}

// Seal hashes every file, makes all of it durable, and then makes it the set of its key, in doubt until
// Commit. Nothing may write to it any more. After an error, Discard it. Cancelling ctx stops it while
// the set is still invisible, and has no effect later.
func (p *Partial) Seal(ctx context.Context, info Info) (Manifest, error) {
	m, err := p.seal(ctx, info)
	if err != nil {
		return Manifest{}, fmt.Errorf("seal images of %s: %w", p.key, err)
	}
	return m, nil
}

func (p *Partial) seal(ctx context.Context, info Info) (Manifest, error) {
	files, dirs, err := p.scan()
	if err != nil {
		return Manifest{}, err
	}
	if err := inParallel(ctx, len(files), func(ctx context.Context, i int, buf []byte) error {
		return p.sealFile(ctx, &files[i], buf)
	}); err != nil {
		return Manifest{}, err
	}
	m := Manifest{
		Schema: schema, Job: p.key.Job, Snapshot: p.key.Snapshot, Epoch: info.Epoch, Host: p.key.Host,
		Created: time.Now().UTC().Round(time.Millisecond), Files: files, Meta: info.Meta,
	}
	data, err := m.encode()
	if err != nil {
		return Manifest{}, err
	}
	// What is written must be readable: the same function decides both.
	if m, err = decodeManifest(data); err != nil {
		return Manifest{}, err
	}
	return m, p.publish(dirs, data)
}

// scan lists the files by path and the folders that hold any, and makes them their owner's alone.
func (p *Partial) scan() (files []File, dirs []string, err error) {
	files = []File{} // not null in the manifest
	err = filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		if !d.Type().IsRegular() {
			return &IntegrityError{Path: rel, Kind: KindType, Want: "a regular file", Got: d.Type().String()}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() & modeMask
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		files = append(files, File{Path: rel, Mode: uint32(mode)})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	// WalkDir goes folder by folder; the manifest is in the order of whole paths.
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, foldersOf(files), p.dropEmpty(foldersOf(files))
}

// dropEmpty removes folders without files: the manifest does not list them, so they would not arrive elsewhere.
func (p *Partial) dropEmpty(used []string) error {
	var empty []string
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == p.dir {
			return err
		}
		rel, err := filepath.Rel(p.dir, path)
		if _, found := slices.BinarySearch(used, rel); !found {
			empty = append(empty, path)
		}
		return err
	})
	for _, path := range slices.Backward(empty) { // the inner ones first
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// foldersOf lists, sorted, the folders that files lie in.
func foldersOf(files []File) []string {
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, parents(f.Path)...)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// sealFile hashes one file while the kernel writes it out.
func (p *Partial) sealFile(ctx context.Context, file *File, buf []byte) error {
	f, _, err := disk.OpenRegular(filepath.Join(p.dir, file.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	synced := make(chan error, 1)
	go func() { synced <- p.s.syncFile(f) }()
	file.SHA256, file.CRC32C, file.Size, err = hashFile(ctx, f, buf)
	if err = errors.Join(err, <-synced); err != nil {
		return fmt.Errorf("%s: %w", file.Path, err)
	}
	return nil
}

// publish makes the folders durable, writes the manifest, and gives the set its name: in this order,
// so that what has the name is whole, whenever the power fails.
func (p *Partial) publish(dirs []string, manifest []byte) error {
	for _, dir := range slices.Backward(dirs) { // the inner ones first
		if err := p.s.syncDir(filepath.Join(p.dir, dir)); err != nil {
			return err
		}
	}
	if err := p.s.createFile(filepath.Join(p.dir, manifestName), manifest); err != nil {
		return err
	}
	if err := p.s.syncDir(p.dir); err != nil {
		return err
	}
	final := p.s.setDir(p.key)
	if err := p.s.rename(p.dir, final); err != nil { // a set is never empty, so rename(2) replaces none
		return err
	}
	p.moved = true
	if err := p.s.syncDir(filepath.Dir(final)); err != nil {
		return err
	}
	p.sealed = true
	return nil
}

// Discard removes the set in the making, also when Seal failed at its last step. After a Seal that
// went well, and after another Discard, it does nothing.
func (p *Partial) Discard() error {
	if p.sealed {
		return nil
	}
	if p.moved {
		if err := p.s.Remove(p.key); err != nil {
			return err
		}
		p.sealed = true
		return nil
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if err := errors.Join(p.s.removeAll(p.dir), p.s.prune(p.key)); err != nil {
		return fmt.Errorf("discard images of %s: %w", p.key, err)
	}
	p.sealed = true // another may begin under this key now; this one is done with
	return nil
}
