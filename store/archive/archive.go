package archive

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// An export is a tar:
//
//	cut.json                    the cut's signed manifest (store.CutFile)
//	HOST/meta.json              what the set of HOST's images says of its members
//	HOST/MEMBER/config.dump     for checkpointctl: what the container is called, and when it was recorded
//	HOST/MEMBER/spec.dump       likewise: its command and environment
//	HOST/MEMBER/stats-dump      likewise: CRIU's statistics, as in checkpoint/
//	HOST/MEMBER/checkpoint/…    CRIU's images, MEMBER/images/… of the set
//	HOST/MEMBER/ss/…            the rest of the set's MEMBER/…
//	SHA256SUMS                  of every file before it, in order, as sha256sum -c reads it
//
// Each HOST/MEMBER is what checkpointctl expects of a container's checkpoint. The archive has one form: what is between the files is
// checked as well as what is in them.
const (
	cutEntry  = "cut.json"
	metaEntry = "meta.json"
	sumsEntry = "SHA256SUMS"

	configEntry = "config.dump"
	specEntry   = "spec.dump"
	statsEntry  = "stats-dump"

	imagesFolder = "images"     // in a set
	criuFolder   = "checkpoint" // in an archive
	restFolder   = "ss"         // likewise
)

var (
	// ErrDamaged says that the file is not an export as Writer wrote it.
	ErrDamaged = errors.New("the export is damaged")
	// ErrReserved says that a host or member has the name of a file that every export has, so it cannot be in one.
	ErrReserved = errors.New("a host or member has the name of a file of every export")
)

// File is the head of a file in an export.
type File struct {
	Path string // in the set: MEMBER/images/core-1.img; of an export's first file "": the set's meta
	Size int64
	Mode uint32
}

// Source reads one file after another.
type Source interface {
	// Next goes to the next file; io.EOF after the last.
	Next() (File, error)
	io.Reader // of the file that Next gave
}

// Bounds of what is read into memory.
const (
	maxCutEntry  = 64 << 20
	maxMetaEntry = 32 << 20
	maxSumsEntry = 256 << 20
	maxEntries   = 1 << 20
	maxStats     = 64 << 10
	maxPath      = 4096
)

// archiveName is where a file of a host's set stands in an archive.
func archiveName(host, file string) (string, error) {
	if err := plainPath(file); err != nil {
		return "", err
	}
	member, rest, ok := strings.Cut(file, "/")
	if !ok {
		return "", fmt.Errorf("file %q of the images of %s belongs to no member", file, host)
	}
	if member == metaEntry || host == cutEntry || host == sumsEntry {
		return "", fmt.Errorf("%s/%s: %w", host, member, ErrReserved)
	}
	if in, ok := strings.CutPrefix(rest, imagesFolder+"/"); ok {
		return path.Join(host, member, criuFolder, in), nil
	}
	return path.Join(host, member, restFolder, rest), nil
}

// setName is the reverse: the host, and the file's path in its set. What is in the archive for others only has "" for a path.
func setName(name string) (host, file string, err error) {
	if err := plainPath(name); err != nil {
		return "", "", err
	}
	parts := strings.SplitN(name, "/", 4)
	switch {
	case len(parts) == 3 && (parts[2] == configEntry || parts[2] == specEntry || parts[2] == statsEntry):
		return parts[0], "", nil
	case len(parts) == 4 && parts[2] == criuFolder:
		return parts[0], path.Join(parts[1], imagesFolder, parts[3]), nil
	case len(parts) == 4 && parts[2] == restFolder && !strings.HasPrefix(parts[3], imagesFolder+"/"):
		return parts[0], path.Join(parts[1], parts[3]), nil
	}
	return "", "", fmt.Errorf("%q is not a file of an export", name)
}

// plainPath refuses a path that could lead elsewhere, or that sha256sum would write in another form.
func plainPath(p string) error {
	bad := len(p) > maxPath || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == '\uFFFD' })
	for _, element := range strings.Split(p, "/") {
		bad = bad || element == "" || element == "." || element == ".."
	}
	if bad {
		return fmt.Errorf("path %q cannot be in an export", p)
	}
	return nil
}
