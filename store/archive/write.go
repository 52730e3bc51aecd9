package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"time"

	"ss/store"
)

// Writer writes an export. The first error stays.
type Writer struct {
	tar  *tar.Writer
	cut  store.Cut
	sums bytes.Buffer
	dirs map[string]bool

	Files int   // written so far
	Bytes int64 // of these
}

// NewWriter begins an export of a cut with its signed manifest.
func NewWriter(w io.Writer, cut store.Cut, manifest []byte) (*Writer, error) {
	a := &Writer{tar: tar.NewWriter(w), cut: cut, dirs: map[string]bool{}}
	return a, a.small(cutEntry, manifest)
}

// header is the only one that an entry may have. The time is the cut's.
func header(name string, size int64, mode uint32, at time.Time) *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: int64(mode & 0o700), ModTime: at.Truncate(time.Second), Format: tar.FormatPAX}
	if strings.HasSuffix(name, "/") {
		h.Typeflag = tar.TypeDir
	}
	return h
}

// small writes a file of ours.
func (a *Writer) small(name string, data []byte) error {
	return a.copy(name, int64(len(data)), 0o600, bytes.NewReader(data))
}

// copy writes one file and its digest, after the folders that it is in.
func (a *Writer) copy(name string, size int64, mode uint32, r io.Reader) error {
	if err := a.folders(path.Dir(name)); err != nil {
		return err
	}
	if err := a.tar.WriteHeader(header(name, size, mode, a.cut.Time)); err != nil {
		return err
	}
	sum := sha256.New()
	if n, err := io.Copy(io.MultiWriter(a.tar, sum), io.LimitReader(r, size)); err != nil || n != size {
		return fmt.Errorf("write %s, %d of %d bytes: %w", name, n, size, orShort(err))
	}
	writeSum(&a.sums, sum, name)
	a.Files++
	a.Bytes += size
	return nil
}

func orShort(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeSum writes a line as sha256sum does.
func writeSum(w io.Writer, sum hash.Hash, name string) {
	fmt.Fprintf(w, "%s  %s\n", hex.EncodeToString(sum.Sum(nil)), name)
}

// folders writes the entries of a folder, and of those it is in, once. checkpointctl looks for them.
func (a *Writer) folders(dir string) error {
	if dir == "." || a.dirs[dir] {
		return nil
	}
	if err := a.folders(path.Dir(dir)); err != nil {
		return err
	}
	a.dirs[dir] = true
	return a.tar.WriteHeader(header(dir+"/", 0, 0o700, a.cut.Time))
}

// Host writes one host's set, as an agent gives it. The set's meta has been begun.
func (a *Writer) Host(ch store.CutHost, meta File, from Source) error {
	if meta.Path != "" || meta.Size > maxMetaEntry {
		return fmt.Errorf("the images of %s begin with %q, %d bytes, and not with their description", ch.Host, meta.Path, meta.Size)
	}
	if err := a.copy(path.Join(ch.Host, metaEntry), meta.Size, 0o600, from); err != nil {
		return err
	}
	for _, m := range ch.Members {
		if err := a.member(ch.Host, m); err != nil {
			return err
		}
	}
	for {
		f, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.file(ch.Host, f, from); err != nil {
			return err
		}
	}
}

func (a *Writer) file(host string, f File, r io.Reader) error {
	name, err := archiveName(host, f.Path)
	if err != nil {
		return err
	}
	if member, ok := strings.CutSuffix(f.Path, "/"+imagesFolder+"/"+statsEntry); ok && f.Size <= maxStats {
		data, err := io.ReadAll(io.LimitReader(r, f.Size))
		if err != nil {
			return err
		}
		if err := a.small(path.Join(host, member, statsEntry), data); err != nil {
			return err
		}
		r = bytes.NewReader(data)
	}
	return a.copy(name, f.Size, f.Mode, r)
}

// member writes what checkpointctl wants to know of a container.
func (a *Writer) member(host string, m store.CutMember) error {
	config := map[string]any{
		"id": a.cut.ID, "name": m.Name, "runtime": "ss", "createdTime": a.cut.Time, "checkpointedTime": a.cut.Time,
		"restoredTime": time.Time{}, "restored": false,
	}
	// As https://github.com/opencontainers/runtime-spec has it.
	spec := map[string]any{
		"ociVersion": "1.2.0",
		"process":    map[string]any{"user": map[string]any{"uid": 0, "gid": 0}, "args": orEmpty(m.Command), "env": orEmpty(m.Env), "cwd": orRoot(m.Dir)},
		"hostname":   host,
		"annotations": map[string]string{
			"io.kubernetes.cri.container-name": m.Name, "io.kubernetes.cri.sandbox-name": a.cut.Job, "io.kubernetes.cri.sandbox-namespace": host,
			"ss.cut": a.cut.ID, "ss.job": a.cut.Job, "ss.host": host, "ss.member": m.Name,
		},
	}
	for _, f := range []struct {
		name string
		doc  any
	}{{configEntry, config}, {specEntry, spec}} {
		data, err := json.MarshalIndent(f.doc, "", "  ")
		if err != nil {
			return err
		}
		if err := a.small(path.Join(host, m.Name, f.name), append(data, '\n')); err != nil {
			return err
		}
	}
	return a.folders(path.Join(host, m.Name, criuFolder))
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// Close ends the archive with the digests of what is in it.
func (a *Writer) Close() error {
	if err := a.tar.WriteHeader(header(sumsEntry, int64(a.sums.Len()), 0o600, a.cut.Time)); err != nil {
		return err
	}
	if _, err := a.tar.Write(a.sums.Bytes()); err != nil {
		return err
	}
	return a.tar.Close()
}
