package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ss/marker"
	"ss/store/sealed"
)

// journalSchema is the version of what a journal says.
const journalSchema = 1

// journal keeps one marker.Entry per job, so that an agent that was killed knows what to undo. An
// entry is written before the first action it speaks of starts.
type journal struct{ dir string }

func (j journal) path(job string) string { return filepath.Join(j.dir, job+".json") }

func (j journal) put(e marker.Entry) error {
	if err := sealed.Write(j.path(string(e.Key.Job)), journalSchema, e); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// load reads the entries, by job. Of a job whose file is damaged, or speaks of another job, there is none: it is in bad.
func (j journal) load() (entries map[string]marker.Entry, bad map[string]error, err error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read the journal: %w", err)
	}
	entries, bad = map[string]marker.Entry{}, map[string]error{}
	for _, f := range files {
		job, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue // a temporary file that a crash left
		}
		var e marker.Entry
		_, err := sealed.Read(j.path(job), journalSchema, &e)
		if err == nil && string(e.Key.Job) != job {
			err = fmt.Errorf("it is that of job %q: %w", e.Key.Job, sealed.ErrDamaged)
		}
		if err != nil {
			bad[job] = err
			continue
		}
		entries[job] = e
	}
	return entries, bad, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
