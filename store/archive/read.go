package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"time"
)

// Reader reads an export. Trust nothing before its end: what Next gave is as it was written only once Next has returned io.EOF.
type Reader struct {
	raw  io.Reader // counted into got
	tar  *tar.Reader
	got  hash.Hash   // of the bytes that were read
	want hash.Hash   // of the archive that has the entries which were read
	form *tar.Writer // into want

	at    time.Time
	fixed bool // at is known
	name  string
	sum   hash.Hash // of the file that is being read
	sums  bytes.Buffer

	entries int
	seen    map[string]bool // names
	host    string          // whose files come now
}

// Entry is a file of a host's set.
type Entry struct {
	Host string
	Path string // "" is the set's meta, the first of its host
	Size int64
	Mode uint32
}

// NewReader reads an export from its beginning.
func NewReader(r io.Reader) *Reader {
	a := &Reader{got: sha256.New(), want: sha256.New(), seen: map[string]bool{}}
	a.raw = io.TeeReader(r, a.got)
	a.tar = tar.NewReader(a.raw)
	a.form = tar.NewWriter(a.want)
	return a
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// Manifest reads the first entry.
func (a *Reader) Manifest() ([]byte, error) {
	h, err := a.head()
	if err == nil && (h.Name != cutEntry || h.Size > maxCutEntry) {
		err = damaged("it begins with %q, %d bytes, and not with %s", h.Name, h.Size, cutEntry)
	}
	if errors.Is(err, io.EOF) {
		err = damaged("it is empty")
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(a)
}

// head goes to the next entry's head, which must be as we write it, and begins its digest.
func (a *Reader) head() (*tar.Header, error) {
	if err := a.endFile(); err != nil {
		return nil, err
	}
	h, err := a.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, damaged("%w", err)
	}
	if a.entries++; a.entries > maxEntries {
		return nil, damaged("it has more than %d entries", maxEntries)
	}
	if !a.fixed {
		a.at, a.fixed = h.ModTime, true
	}
	if h.Size < 0 || h.Typeflag != tar.TypeReg && (h.Typeflag != tar.TypeDir || h.Size != 0) || a.seen[h.Name] {
		return nil, damaged("entry %q, type %q, %d bytes", h.Name, h.Typeflag, h.Size)
	}
	a.seen[h.Name] = true
	for record := range h.PAXRecords { // a sparse file's few bytes could be any number of zeros
		if record != "path" && record != "size" {
			return nil, damaged("entry %q has the record %q", h.Name, record)
		}
	}
	if err := plainPath(strings.TrimSuffix(h.Name, "/")); err != nil {
		return nil, damaged("%w", err)
	}
	ours := header(h.Name, h.Size, uint32(h.Mode), a.at)
	if ours.Typeflag != h.Typeflag {
		return nil, damaged("entry %q, type %q", h.Name, h.Typeflag)
	}
	if err := a.form.WriteHeader(ours); err != nil {
		return nil, damaged("%w", err)
	}
	if h.Typeflag == tar.TypeReg {
		a.name, a.sum = h.Name, sha256.New()
	}
	return h, nil
}

// endFile reads what is left of a file and notes its digest.
func (a *Reader) endFile() error {
	if a.sum == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, a); err != nil {
		return err
	}
	if a.name != sumsEntry {
		writeSum(&a.sums, a.sum, a.name)
	}
	a.sum = nil
	return nil
}

// Read reads of the current file.
func (a *Reader) Read(p []byte) (int, error) {
	n, err := a.tar.Read(p)
	if n > 0 && a.sum != nil {
		_, _ = a.sum.Write(p[:n]) // a hash never fails
		if _, werr := a.form.Write(p[:n]); werr != nil {
			return n, damaged("%w", werr)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged("%s: %w", a.name, err)
	}
	return n, err
}

// Next goes to the next file of a set. io.EOF means that the archive is at its end, and all of it is as it was written.
func (a *Reader) Next() (Entry, error) {
	for {
		h, err := a.head()
		if errors.Is(err, io.EOF) {
			return Entry{}, damaged("it ends before %s", sumsEntry)
		}
		if err != nil {
			return Entry{}, err
		}
		if h.Name == sumsEntry {
			return Entry{}, a.finish(h)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		e, ours, err := a.entry(h)
		if err != nil || ours {
			return e, err
		}
	}
}

// entry says what a file is; ours is false of what is there for others.
func (a *Reader) entry(h *tar.Header) (e Entry, ours bool, err error) {
	e = Entry{Size: h.Size, Mode: uint32(h.Mode) & 0o700}
	if host, base := path.Split(h.Name); base == metaEntry && host != "" && !strings.Contains(strings.TrimSuffix(host, "/"), "/") {
		if h.Size > maxMetaEntry {
			return e, false, damaged("%s has %d bytes", h.Name, h.Size)
		}
		e.Host = strings.TrimSuffix(host, "/")
		a.host = e.Host
		return e, true, nil
	}
	if e.Host, e.Path, err = setName(h.Name); err != nil {
		return e, false, damaged("%w", err)
	}
	if e.Host != a.host {
		return e, false, damaged("%s is among the files of %q", h.Name, a.host)
	}
	return e, e.Path != "", nil
}

// finish compares all digests, and what stands between the files.
func (a *Reader) finish(h *tar.Header) error {
	if h.Size > maxSumsEntry {
		return damaged("%s has %d bytes", h.Name, h.Size)
	}
	sums, err := io.ReadAll(a)
	if err != nil {
		return err
	}
	if !bytes.Equal(sums, a.sums.Bytes()) {
		return damaged("%s", firstDifference(sums, a.sums.Bytes()))
	}
	if _, err := a.head(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = damaged("something follows %s", sumsEntry)
		}
		return err
	}
	if err := a.form.Close(); err != nil {
		return damaged("%w", err)
	}
	// The two empty blocks at the end have been read, and nothing may follow.
	if n, err := io.Copy(io.Discard, a.raw); err != nil || n > 0 {
		return damaged("%d bytes follow its end (%v)", n, err)
	}
	if !bytes.Equal(a.got.Sum(nil), a.want.Sum(nil)) {
		return damaged("what stands between its files is not what was written")
	}
	return io.EOF
}

// firstDifference names the first file whose digest is another.
func firstDifference(listed, found []byte) string {
	was, is := strings.Split(string(listed), "\n"), strings.Split(string(found), "\n")
	for i := range min(len(was), len(is)) {
		if was[i] == is[i] {
			continue
		}
		if sum, name, ok := strings.Cut(is[i], "  "); ok {
			return fmt.Sprintf("%s has SHA-256 %s, and %s does not say so", name, sum, sumsEntry)
		}
	}
	return fmt.Sprintf("%s lists %d files, there are %d", sumsEntry, len(was)-1, len(is)-1)
}
