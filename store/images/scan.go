package images

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"syscall"
)

// Scan is Verify for a restore that cannot wait: it reads every byte as well, but compares the checksums of the
// files' parts instead of their digests. A checksum finds every burst of up to 32 flipped bits, and any
// other damage but once in 2^32; it does not find what somebody has changed on purpose, who would have to
// be root here. It is as fast as memory, and uses every processor on one large file.
func (s *Store) Scan(ctx context.Context, key Key, wantDigest string) (Manifest, error) {
	m, err := s.scanSet(ctx, key, wantDigest)
	if err != nil {
		return Manifest{}, fmt.Errorf("scan images of %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) scanSet(ctx context.Context, key Key, want string) (Manifest, error) {
	m, err := s.trusted(key, want)
	if err != nil {
		return Manifest{}, err
	}
	type part struct {
		file  File
		index int64
	}
	var parts []part
	faults := make([]error, 0, len(m.Files))
	for _, f := range m.Files {
		if f.Size == 0 { // nothing to read, but it must be there
			if err := s.scanPart(key, f, 0); err != nil {
				faults = append(faults, err)
			}
		}
		for i := range f.parts() {
			parts = append(parts, part{f, i})
		}
	}
	found := make([]error, len(parts))
	if err := inParallel(ctx, len(parts), func(_ context.Context, i int, _ []byte) error {
		err := s.scanPart(key, parts[i].file, parts[i].index)
		if errors.As(err, new(*IntegrityError)) {
			found[i], err = err, nil // the others may have faults too
		}
		return err
	}); err != nil {
		return Manifest{}, err
	}
	extra, err := s.extra(key, m)
	return m, errors.Join(append(append(append(faults, found...), extra...), err)...)
}

// scanPart reads one part of a file and compares its checksum.
func (s *Store) scanPart(key Key, want File, index int64) error {
	f, err := s.openFile(key, want)
	if err != nil {
		return err
	}
	defer f.Close()
	if want.Size == 0 {
		return nil
	}
	crc, err := sumPart(f, want.Size, index)
	if err != nil {
		return fmt.Errorf("%s: %w", want.Path, err)
	}
	if got := crcText(crc); got != want.CRC32C[index] {
		return &IntegrityError{Path: want.Path, Kind: KindDigest, Want: want.CRC32C[index], Got: got}
	}
	return nil
}

// trusted reads a set's manifest and compares its digest with the one wanted (empty: not compared).
func (s *Store) trusted(key Key, want string) (Manifest, error) {
	data, err := s.manifestBytes(key)
	if err != nil {
		return Manifest{}, err
	}
	if got := digest(data); want != "" && got != want {
		return Manifest{}, &IntegrityError{Path: manifestName, Kind: KindDigest, Want: want, Got: got}
	}
	m, _, err := s.manifest(key)
	return m, err
}

// sumPart is the checksum of one part of a file of that size. The part is mapped, not read: what is in the page cache is
// summed where it lies. A disk that cannot give it raises a fault, which becomes an error.
func sumPart(f *os.File, size, index int64) (crc uint32, err error) {
	at := index * PartSize
	part, err := syscall.Mmap(int(f.Fd()), at, int(min(PartSize, size-at)), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map: %w", err)
	}
	defer func() { err = errors.Join(err, syscall.Munmap(part)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read: %v", r)
		}
	}()
	return crc32.Update(0, castagnoli, part), nil
}
