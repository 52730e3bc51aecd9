package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ss/store/blob"
)

// Garbage is what a Collect removed, or would.
type Garbage struct {
	Objects int
	Bytes   int64
}

// Collect removes the objects of a job ("": of all) that no set refers to. It runs beside everything else: what an ingest or a push to this
// host under way builds on stays. With dry it only counts. Of a job of which a manifest is damaged, or of a newer program, nothing is removed, as nobody
// can say what it refers to; the error says so, and the other jobs are done nevertheless.
func (s *Store) Collect(ctx context.Context, job string, dry bool) (Garbage, error) {
	jobs := []string{job}
	var err error
	if job == "" {
		jobs, err = s.jobs()
	}
	var all Garbage
	for _, job := range jobs {
		g, jobErr := s.collect(ctx, job, dry)
		all.Objects += g.Objects
		all.Bytes += g.Bytes
		if jobErr != nil {
			err = errors.Join(err, fmt.Errorf("collect what no images of job %s use: %w", job, jobErr))
		}
	}
	return all, err
}

func (s *Store) collect(ctx context.Context, job string, dry bool) (g Garbage, err error) {
	w := s.pins.watch() // before the sets are read: see pins
	defer s.pins.unwatch(w)
	garbage, used, err := unused(ctx, s.objects, job)
	if err != nil {
		return g, err
	}
	for _, info := range garbage {
		if err := s.pause(ctx); err != nil {
			return g, err
		}
		remove := func() error { return s.objects.Remove(ctx, info.Name) }
		if dry {
			remove = func() error { return nil }
		}
		gone, err := s.pins.unlessKept(w, info.Name, remove)
		if err != nil {
			return g, err
		}
		if gone {
			g.Objects++
			g.Bytes += info.Size
		}
	}
	if dry {
		return g, nil
	}
	return g, s.expireAside(ctx, job, used)
}

// unused lists a job's objects that none of its sets refers to, and returns the names of those that some set does. The objects are
// listed before the sets are: one that comes in between is not listed, and one whose set comes in between is pinned.
func unused(ctx context.Context, r blob.Reader, job string) (garbage []blob.Info, used map[string]bool, err error) {
	var all []blob.Info
	for info, err := range r.List(ctx, job+"/"+objectsFolder+"/") {
		if err != nil {
			return nil, nil, err
		}
		if _, _, ok := parseObjectName(info.Name); ok {
			all = append(all, info)
		}
	}
	keys, err := keysIn(ctx, r, job)
	if err != nil {
		return nil, nil, err
	}
	used = map[string]bool{}
	for _, key := range keys {
		m, _, err := readManifest(ctx, r, key, "")
		if errors.Is(err, ErrNotFound) {
			continue // removed since
		}
		if err != nil {
			return nil, nil, fmt.Errorf("nothing is removed as long as this set cannot be read, fetch it again or remove it: %w", err)
		}
		for _, name := range m.names() {
			used[name] = true
		}
	}
	for _, info := range all {
		if !used[info.Name] {
			garbage = append(garbage, info)
		}
	}
	return garbage, used, nil
}

// RemovePartials removes what was begun and never became whole: staged dumps, temporary files, objects that no set refers to. It is
// for the start of an agent. Damage is not an error here: it is noted.
func (s *Store) RemovePartials(ctx context.Context) error {
	err := errors.Join(s.clearStaging(), s.objects.RemovePartials(0), s.clearMarks(ctx))
	jobs, jobsErr := s.jobs()
	err = errors.Join(err, jobsErr)
	for _, job := range jobs {
		err = errors.Join(err, s.clearReplacing(job))
		_, collectErr := s.collect(ctx, job, false)
		switch {
		case collectErr == nil:
		case isIntegrity(collectErr):
			for _, fault := range faultsOf(job, collectErr) {
				if key, ok := parseSetName(fault.Object); ok {
					s.note(job, key.Snapshot+"/"+key.Host, fault)
				}
			}
		default:
			err = errors.Join(err, collectErr)
		}
	}
	if err != nil {
		return fmt.Errorf("remove partial images: %w", err)
	}
	return nil
}

// clearStaging removes the staged dumps, and nothing else that somebody may have put into the folder.
func (s *Store) clearStaging() error {
	s.stageMu.Lock()
	defer s.stageMu.Unlock()
	return s.eachStaged(func(dir string, dump bool) error {
		var err error
		if dump {
			err = s.removeAll(dir)
		}
		pruneDirs(s.staging, dir)
		pruneDirs(s.staging, filepath.Dir(dir))
		return err
	})
}

// eachStaged calls f for the folder of every dump, and for folders of jobs and snapshots without any.
func (s *Store) eachStaged(f func(dir string, dump bool) error) error {
	jobs, err := folderNames(s.staging)
	for _, job := range jobs {
		snapshots, namesErr := folderNames(filepath.Join(s.staging, job))
		err = errors.Join(err, namesErr)
		if len(snapshots) == 0 {
			err = errors.Join(err, f(filepath.Join(s.staging, job), false))
		}
		for _, snapshot := range snapshots {
			dir := filepath.Join(s.staging, job, snapshot)
			hosts, namesErr := folderNames(dir)
			err = errors.Join(err, namesErr)
			if len(hosts) == 0 {
				err = errors.Join(err, f(dir, false))
			}
			for _, host := range hosts {
				err = errors.Join(err, f(filepath.Join(dir, host), true))
			}
		}
	}
	return err
}

// clearMarks removes marks whose set is not there.
func (s *Store) clearMarks(ctx context.Context) error {
	jobs, err := s.jobs()
	if err != nil {
		return err
	}
	for _, job := range jobs {
		for info, err := range s.objects.List(ctx, job+"/"+marksFolder+"/") {
			if err != nil {
				return err
			}
			key, ok := parseMarkName(info.Name)
			if !ok {
				continue
			}
			if there, err := s.has(key); err != nil || there {
				if err != nil {
					return err
				}
				continue
			}
			if err := s.objects.Remove(ctx, info.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// clearReplacing removes what replace was about to put in a place when it was stopped.
func (s *Store) clearReplacing(job string) error {
	path := filepath.Join(s.dir, job, quarantineFolder, replacing)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := s.removeAll(path)
	pruneDirs(s.dir, filepath.Dir(path))
	return err
}
