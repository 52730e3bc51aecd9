package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ss/standing"
	"ss/store/sealed"
)

// recordSchema is the version of a record's file.
const recordSchema = 1

func (s *standings) save(r standing.Record) error {
	return sealed.Write(filepath.Join(s.dir, r.Job+".json"), recordSchema, r)
}

// load reads every record. A damaged one is set aside: the job's other hosts and ssctl show the statement again.
func (s *standings) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read where members stand: %w", err)
	}
	for _, e := range entries {
		job, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		r, err := readRecord(path, job)
		if err != nil {
			s.a.log.Error("a record of where members stand is damaged and set aside; other hosts are asked", "path", path, "error", err)
			if err := os.Rename(path, path+".damaged"); err != nil {
				return err
			}
			continue
		}
		s.job(job).rec = r
	}
	return nil
}

func readRecord(path, job string) (standing.Record, error) {
	var r standing.Record
	schema, err := sealed.Read(path, recordSchema, &r)
	switch {
	case err != nil:
		return standing.Record{}, err
	case schema == 0:
		return standing.Record{}, errors.New("it has no checksum")
	case r.Job != job:
		return standing.Record{}, fmt.Errorf("it is of job %q", r.Job)
	}
	return r, nil
}
