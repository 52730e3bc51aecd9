package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"ss/api/identity"
	"ss/store"
	"ss/store/keys"
)

// imagesKey is the file in the cluster's folder with the age identity that opens the jobs' keys.
const imagesKey = "images.key"

// makeIdentity draws the cluster's age identity and writes it to path, durably and for its owner only. One that is there is never replaced: it may
// be the only one that opens some images.
func makeIdentity(path string) (recipient string, err error) {
	id, recipient, err := keys.NewIdentity()
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("# opens the keys of all jobs' images; written by ssctl init\n# public key: %s\n%s\n", recipient, id)
	err = identity.WriteKey(path, []byte(text))
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%s is there already, and may be the only key to some images: move it away: %w", path, store.ErrConflict)
	}
	return recipient, err
}

// readIdentities reads age identities from a file of lines, as age-keygen writes it. The file must be closed to others.
func readIdentities(path string) ([]string, error) {
	data, err := identity.ReadKey(path)
	if err != nil {
		return nil, err
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
