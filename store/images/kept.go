package images

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ss/internal/disk"
)

// A kept dump is what was staged of a set that is whole: the files as CRIU wrote them, not encrypted, so that a restore on this host
// need not decode anything. It lasts until the job's next one here, or until the store is opened again: nothing depends on it. What is
// in it is compared with checksums before it is used, as it may have lain on a disk meanwhile.

// keptPart is the length of what one checksum covers, in bytes.
const keptPart = 16 << 20

// keptFile is one file of a kept dump.
type keptFile struct {
	path   string // in the dump
	size   int64
	mode   fs.FileMode
	crc32c []uint32 // of each part
}

// keptDump is the one that a job has here.
type keptDump struct {
	dir    string
	key    Key
	digest string // of the set's manifest
	files  []keptFile
}

// keptDumps has the kept dumps by job. The zero value has none.
type keptDumps struct {
	mu   sync.Mutex
	jobs map[string]*keptDump
}

// keep notes the plain files of a set that is sealed, and removes those of the job's last one. Where that fails there is none: a
// restore decodes, then.
func (p *Partial) keep(ctx context.Context, m Manifest) {
	d := &keptDump{dir: p.dir, key: p.key, digest: m.Digest}
	err := d.sum(ctx, p.s.pause)
	if err != nil {
		_ = p.clear() // tried again by Discard, and by RemovePartials
		return
	}
	p.gone = true // it is kept now
	k := &p.s.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.jobs == nil {
		k.jobs = map[string]*keptDump{}
	}
	p.s.dropKept(k.jobs[p.key.Job])
	delete(k.jobs, p.key.Job)
	// The set may have been removed while its files were summed. If it is removed after this, forget finds the dump.
	if there, err := p.s.has(p.key); err != nil || !there {
		p.s.dropKept(d)
		return
	}
	k.jobs[p.key.Job] = d
}

// DropKept removes the kept dumps of all jobs: their room is needed. Restores that have begun with one are not disturbed.
func (s *Store) DropKept() {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	for job, d := range s.kept.jobs {
		s.dropKept(d)
		delete(s.kept.jobs, job)
	}
}

// forget removes the kept dump of a set, if there is one.
func (s *Store) forget(key Key) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if d := s.kept.jobs[key.Job]; d != nil && d.key == key {
		s.dropKept(d)
		delete(s.kept.jobs, key.Job)
	}
}

// dropKept removes a dump's files; nil has none. What cannot be removed now is by RemovePartials.
func (s *Store) dropKept(d *keptDump) {
	if d == nil {
		return
	}
	s.stageMu.Lock()
	defer s.stageMu.Unlock()
	_ = s.removeAll(d.dir)
	pruneDirs(s.staging, filepath.Dir(d.dir))
}

// UnpackKept makes dir, and in it what Unpack would make, of the dump that was kept of a set (Options.KeepDumps). It says whether it could:
// where it was not kept, or is not what it was, dir is not there, and Fetch and Unpack are the way. The files are links: they are for reading only.
func (s *Store) UnpackKept(ctx context.Context, key Key, digest, dir string, want func(path string) bool) (bool, error) {
	s.kept.mu.Lock()
	d := s.kept.jobs[key.Job]
	s.kept.mu.Unlock()
	if d == nil || d.key != key || digest != "" && d.digest != digest {
		return false, nil
	}
	err := d.linkTo(ctx, dir, want)
	if err == nil {
		return true, nil
	}
	err = errors.Join(context.Cause(ctx), os.RemoveAll(dir))
	if err != nil {
		return false, fmt.Errorf("kept dump of %s: %w", key, err)
	}
	return false, nil
}

// sum lists the dump's files with their checksums.
func (d *keptDump) sum(ctx context.Context, pause func(context.Context) error) error {
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		parts := (info.Size() + keptPart - 1) / keptPart
		d.files = append(d.files, keptFile{rel, info.Size(), info.Mode().Perm(), make([]uint32, parts)})
		return err
	})
	if err != nil {
		return err
	}
	return eachPart(ctx, d.dir, d.files, func(ctx context.Context, f keptFile, i int, crc uint32) error {
		f.crc32c[i] = crc
		return pause(ctx)
	})
}

// linkTo links the files that want says into dir, and compares them there with their checksums, all processors at once.
func (d *keptDump) linkTo(ctx context.Context, dir string, want func(path string) bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := slices.DeleteFunc(slices.Clone(d.files), func(f keptFile) bool { return want != nil && !want(f.path) })
	for _, f := range files {
		to := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.Link(filepath.Join(d.dir, f.path), to); err != nil {
			return err
		}
	}
	return eachPart(ctx, dir, files, func(_ context.Context, f keptFile, i int, crc uint32) error {
		if crc != f.crc32c[i] {
			return fmt.Errorf("%s is not what it was", f.path)
		}
		return nil
	})
}

// eachPart calls visit with the checksum of every part of the files.
func eachPart(ctx context.Context, dir string, files []keptFile, visit func(ctx context.Context, f keptFile, i int, crc uint32) error) error {
	type part struct{ file, i int }
	var parts []part
	for n, f := range files {
		for i := range f.crc32c {
			parts = append(parts, part{n, i})
		}
	}
	return inParallel(ctx, processors(), len(parts), func(ctx context.Context, n int) error {
		f := files[parts[n].file]
		crc, err := sumPart(filepath.Join(dir, f.path), f, parts[n].i)
		if err != nil {
			return err
		}
		return visit(ctx, f, parts[n].i, crc)
	})
}

// sumPart is the checksum of a part of a file, which must be as it was. The part is mapped, not read, and its holes are neither.
func sumPart(path string, want keptFile, i int) (crc uint32, err error) {
	f, info, err := disk.OpenRegular(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if info.Size() != want.size || info.Mode().Perm() != want.mode {
		return 0, fmt.Errorf("%s is not what it was", path)
	}
	at := int64(i) * keptPart
	return sumSparse(f, at, min(at+keptPart, want.size))
}

// sumSparse is the CRC-32C of a file from at, where a page begins, to end. To map a hole takes memory for each page of it, and 10 GiB of them minutes beside a busy job.
func sumSparse(f *os.File, at, end int64) (crc uint32, err error) {
	page := int64(os.Getpagesize())
	for at < end {
		data, hole := extent(f, at, end)
		data &^= page - 1
		for ; at < data; at += int64(len(noData)) {
			crc = crc32.Update(crc, castagnoli, noData[:min(data-at, int64(len(noData)))])
		}
		if at = data; at == end {
			break
		}
		hole = min((hole+page-1)&^(page-1), end)
		if crc, err = sumWindow(f, crc, at, hole-at); err != nil {
			return 0, err
		}
		at = hole
	}
	return crc, nil
}

// noData is what a hole holds.
var noData [64 << 10]byte

// extent is the first stretch of data from at on, up to end; an empty one at end if there is none. A file system that cannot tell has data everywhere.
func extent(f *os.File, at, end int64) (data, hole int64) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO) || err == nil && data >= end:
		return end, end
	case err != nil:
		return at, end
	}
	if hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil || hole > end {
		hole = end
	}
	return data, hole
}
