package bolt

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/internal/disk"
	"ss/store/kv"
)

// Beside the file lies its sum, SHA-256 of all its bytes: so a flipped bit is found, wherever it is, without knowing what bbolt means by it. A
// writer first makes the sum unknown, durably, and writes the new one when bbolt is done. After a crash in between it stays unknown until the next
// transaction: bbolt's own order of writing has kept the file whole then. The file's time of modification is noted with it: where that is another one,
// somebody has put a copy there, and the sum says nothing of it. A disk that loses bits changes no times. Where the sum says nothing, another process looks at the file (examine.go).
const (
	sumSuffix  = ".sha256"
	sumUnknown = "unknown"
	sumLength  = 2*sha256.Size + 1 + 20 // with the time, in nanoseconds
)

// checkSum compares an open, locked file with its sum. Where the sum says nothing of the file, known is false: there is none, as with an older
// program's, a writer has died, or another program has put another file there, a copy that somebody made.
func checkSum(f *os.File) (known bool, err error) {
	data, err := disk.ReadSmall(f.Name()+sumSuffix, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, written, ok := strings.Cut(strings.TrimSpace(string(data)), " ")
	if !ok || want == sumUnknown {
		return false, nil
	}
	is, err := sumOf(f)
	if err != nil {
		return false, err
	}
	if is == want {
		return true, nil
	}
	if at, err := writtenAt(f); err != nil || at != strings.TrimSpace(written) {
		return false, err
	}
	return true, fmt.Errorf("%s has SHA-256 %s, and it was written with %s: %w; put a copy of the folder back, or ssctl catalog rebuild --replace", f.Name(), is, want, kv.ErrCorrupt)
}

// writtenAt is a file's time of modification.
func writtenAt(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(info.ModTime().UnixNano(), 10), nil
}

func sumOf(f *os.File) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, MaxFile)); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// unseal makes the sum unknown. It is durable before the file changes: else a sum from before the change might outlive it.
func unseal(path string) error { return putSum(path, sumUnknown+" ", true) }

// seal writes the sum of the file as it is now. It need not be durable: without it the sum is unknown.
func seal(path string) error {
	f, _, err := disk.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := sumOf(f)
	if err != nil {
		return err
	}
	at, err := writtenAt(f)
	if err != nil {
		return err
	}
	return putSum(path, sum+" "+at, false)
}

// putSum writes the sum in place, always as many bytes.
func putSum(path, sum string, durable bool) error {
	f, err := os.OpenFile(path+sumSuffix, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "%-*s\n", sumLength, sum), 0)
	if err == nil && durable {
		err = unix.Fdatasync(int(f.Fd()))
	}
	return errors.Join(err, f.Close())
}
