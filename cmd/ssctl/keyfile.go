package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ss/store"
	"ss/store/keys"
)

const (
	// imagesKey is the file in the cluster's folder with the age identity that opens the jobs' keys.
	imagesKey = "images.key"
	// maxKeyFile bounds what is read of such a file.
	maxKeyFile = 1 << 20
)

// makeIdentity draws the cluster's age identity and writes it to path, durably and for its owner only. One that is there is never replaced: it may
// be the only one that opens some images.
func makeIdentity(path string) (recipient string, err error) {
	id, recipient, err := keys.NewIdentity()
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%s is there already, and may be the only key to some images: move it away: %w", path, store.ErrConflict)
	}
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "# opens the keys of all jobs' images; written by ssctl init\n# public key: %s\n%s\n", recipient, id)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return recipient, errors.Join(d.Sync(), d.Close())
}

// readIdentities reads age identities from a file of lines, as age-keygen writes it. The file must be closed to others.
func readIdentities(path string) ([]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxKeyFile)
	}
	ids := parseIdentities(string(data))
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s holds no age identity (AGE-SECRET-KEY-1…)", path)
	}
	return ids, nil
}

func parseIdentities(text string) []string {
	var ids []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			ids = append(ids, line)
		}
	}
	return ids
}

// identities are what opens the keys of images: those of --identity, or else the cluster's own.
func (a *app) identities() ([]string, error) {
	if a.identity != "" {
		return readIdentities(a.identity)
	}
	return readIdentities(filepath.Join(a.dir, imagesKey))
}
