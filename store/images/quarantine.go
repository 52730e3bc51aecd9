package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// quarantineFolder is, in a job's folder, where what was found damaged is put aside, under the names it had. It begins with a
	// dot, so nothing in it is an object.
	quarantineFolder = ".quarantine"
	// quarantineTime is how long something stays put aside once it is healed, or no set needs it any more.
	quarantineTime = 7 * 24 * time.Hour
	// maxNotes bounds what is remembered of damage.
	maxNotes = 1000
)

// Damage is an object that was found damaged.
type Damage struct {
	Job    string
	Digest string // of an object; SNAPSHOT/HOST where it is a set's manifest
	Detail string // what was wrong with it, or who had it wrong
	Found  time.Time
	Healed bool
}

// note remembers that an object is damaged.
func (s *Store) note(job, what string, fault error) Damage {
	d := Damage{Job: job, Digest: what, Detail: fault.Error(), Found: s.now()}
	s.noteMu.Lock()
	defer s.noteMu.Unlock()
	s.notes = slices.DeleteFunc(s.notes, func(n Damage) bool { return n.Job == job && n.Digest == what })
	if len(s.notes) >= maxNotes {
		s.notes = slices.Delete(s.notes, 0, len(s.notes)-maxNotes+1)
	}
	s.notes = append(s.notes, d)
	return d
}

// healed remembers that an object is right again. One that was never noted is not noted now.
func (s *Store) healed(job, what string) {
	s.noteMu.Lock()
	defer s.noteMu.Unlock()
	for i := range s.notes {
		if s.notes[i].Job == job && s.notes[i].Digest == what {
			s.notes[i].Healed = true
		}
	}
}

// Damaged lists what was found damaged since the store was opened and what is still put aside (quarantined) on disk, newest last.
func (s *Store) Damaged() ([]Damage, error) {
	s.noteMu.Lock()
	all := slices.Clone(s.notes)
	s.noteMu.Unlock()
	known := map[[2]string]bool{}
	for _, d := range all {
		known[[2]string{d.Job, d.Digest}] = true
	}
	jobs, err := s.jobs()
	if err != nil {
		return nil, err
	}
	for _, job := range jobs {
		err := s.eachAside(job, func(a aside) error {
			if !known[[2]string{job, a.what}] {
				all = append(all, Damage{Job: job, Digest: a.what, Detail: "put aside as " + a.path, Found: a.since, Healed: a.healed})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b Damage) int { return a.Found.Compare(b.Found) })
	return all, nil
}

// aside is something that was put aside.
type aside struct {
	what   string // as in Damage.Digest
	path   string
	since  time.Time
	healed bool // something of that name is in place again
}

// eachAside calls f for what is put aside of a job.
func (s *Store) eachAside(job string, f func(aside) error) error {
	root := filepath.Join(s.dir, job, quarantineFolder)
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var what string
		if _, digest, ok := parseObjectName(job + "/" + rel); ok {
			what = digest
		} else if key, ok := parseSetName(job + "/" + rel); ok {
			what = key.Snapshot + "/" + key.Host
		} else {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		a := aside{what: what, path: path, since: info.ModTime()}
		if place, err := os.Lstat(filepath.Join(s.dir, job, rel)); err == nil {
			a.healed = !os.SameFile(place, info)
		}
		return f(a)
	})
}

// putAside moves a damaged object into the quarantine, if it is still the one that was found damaged: another may have healed it. An
// earlier one of that name there is replaced.
func (s *Store) putAside(job, digest string, was os.FileInfo) error {
	return s.aside(job, ObjectName(job, digest), was, s.rename)
}

// copyAside gives what is called name another name in the quarantine: it stays in place until something takes its place.
func (s *Store) copyAside(job, name string, was os.FileInfo) error {
	return s.aside(job, name, was, func(from, to string) error {
		if err := s.removeAll(to); err != nil {
			return err
		}
		return s.link(from, to)
	})
}

func (s *Store) aside(job, name string, was os.FileInfo, move func(from, to string) error) error {
	s.asideMu.Lock()
	defer s.asideMu.Unlock()
	from := s.objects.Path(name)
	now, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(was, now) {
		return nil
	}
	if err != nil {
		return err
	}
	rest, err := filepath.Rel(filepath.Join(s.dir, job), from)
	if err != nil {
		return err
	}
	folders := append([]string{job, quarantineFolder}, splitPath(filepath.Dir(rest))...)
	dir, err := s.makeDirs(s.dir, folders...)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(rest))
	if err := move(from, to); err != nil {
		return err
	}
	// When it was put aside is all that is kept of the event beside the bytes. It is of no harm if it is lost.
	_ = os.Chtimes(to, s.now(), s.now())
	return errors.Join(s.syncDir(dir), s.syncDir(filepath.Dir(from)))
}

// splitPath splits a relative path into its elements.
func splitPath(path string) []string {
	dir, base := filepath.Split(path)
	if dir == "" {
		return []string{base}
	}
	return append(splitPath(filepath.Clean(dir)), base)
}

// expireAside removes from the quarantine what was put aside long ago and is of no use any more. used says which objects sets refer to.
func (s *Store) expireAside(ctx context.Context, job string, used map[string]bool) error {
	return s.eachAside(job, func(a aside) error {
		if s.now().Sub(a.since) < quarantineTime || used[ObjectName(job, a.what)] && !a.healed {
			return context.Cause(ctx)
		}
		s.asideMu.Lock()
		defer s.asideMu.Unlock()
		if err := s.removeAll(a.path); err != nil {
			return err
		}
		pruneDirs(filepath.Join(s.dir, job), filepath.Dir(a.path))
		return nil
	})
}
