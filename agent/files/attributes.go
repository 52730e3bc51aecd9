package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

const (
	userAttribute = "user." // of the names that a file's owner may choose, see xattr(7)
	// attributesMax bounds what is stored of them for one file, in bytes; the common file systems keep no more.
	attributesMax = 64 << 10
)

// attributesOf reads the extended attributes of a file that its owner may set. A file system may have none.
func attributesOf(path string) map[string][]byte {
	names := make([]byte, attributesMax)
	n, err := unix.Listxattr(path, names)
	if err != nil || n <= 0 {
		return nil
	}
	out := map[string][]byte{}
	left := attributesMax
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if !strings.HasPrefix(string(name), userAttribute) {
			continue
		}
		value := make([]byte, left)
		size, err := unix.Getxattr(path, string(name), value)
		if err != nil {
			continue // it was removed meanwhile, or there are too many
		}
		out[string(name)] = value[:size]
		left -= size
	}
	return out
}

// attributesSize is how many bytes attributesOf would read, about.
func attributesSize(path string) int64 {
	names := make([]byte, attributesMax)
	n, err := unix.Listxattr(path, names)
	if err != nil || n <= 0 {
		return 0
	}
	var sum int64
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if strings.HasPrefix(string(name), userAttribute) {
			size, _ := unix.Getxattr(path, string(name), nil) // gone meanwhile: nothing
			sum += int64(len(name) + max(size, 0))
		}
	}
	return sum
}

// settle gives a file that was put back the attributes and the time that it had. It opens nothing, so nothing but this file can be reached.
func (s Stored) settle(file *os.File) error {
	fd := int(file.Fd())
	for name, value := range s.Attributes {
		if !strings.HasPrefix(name, userAttribute) {
			continue // a file from elsewhere may say anything
		}
		now := make([]byte, len(value)+1)
		if n, err := unix.Fgetxattr(fd, name, now); err == nil && bytes.Equal(now[:n], value) {
			continue
		}
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set the attribute %s of %s: %w", name, file.Name(), err)
		}
	}
	if s.Modified == 0 {
		return nil
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(s.Modified)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, proc.OwnFd(fd), times, 0); err != nil {
		return &os.PathError{Op: "set the time of", Path: file.Name(), Err: err}
	}
	return nil
}
