package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ss/marker"
)

// journal keeps one marker.Entry per job, so that an agent that was killed knows what to undo. An
// entry is written before the first action it speaks of starts.
type journal struct{ dir string }

func (j journal) put(e marker.Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode the journal: %w", err)
	}
	if err := writeFile(filepath.Join(j.dir, string(e.Key.Job)+".json"), b); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

func (j journal) load() (map[string]marker.Entry, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	entries := map[string]marker.Entry{}
	for _, f := range files {
		job, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue // a temporary file that a crash left
		}
		b, err := os.ReadFile(filepath.Join(j.dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		var e marker.Entry
		if err := json.Unmarshal(b, &e); err != nil {
			return nil, fmt.Errorf("journal %s is damaged (%w); look at the members of job %s, thaw what is frozen, and remove the file", f.Name(), err, job)
		}
		entries[job] = e
	}
	return entries, nil
}

// writeFile writes a file whole or not at all: temp, fsync, rename, fsync of the folder.
func writeFile(path string, b []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), ignoreGone(os.Remove(tmp.Name())))
		}
	}()
	if _, err = tmp.Write(b); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
