package images

import (
	"fmt"
	"path/filepath"

	"ss/store/blob"
)

// maxUnknown bounds what other agents may put here under jobs of which this host has no word, all together, in bytes.
const maxUnknown = 16 << 20

// SetKnown says of which jobs this host has word. What other agents put under other jobs is bounded, and is garbage at once where no set refers to it.
func (s *Store) SetKnown(known func(job string) bool) {
	s.knownMu.Lock()
	defer s.knownMu.Unlock()
	s.knownJob = known
}

func (s *Store) knows(job string) bool {
	s.knownMu.Lock()
	known := s.knownJob
	s.knownMu.Unlock()
	return known == nil || known(job)
}

// admit refuses an object of a job of which this host has no word, if it would be too much.
func (s *Store) admit(job string, size int64) error {
	if s.knows(job) {
		return nil
	}
	jobs, err := s.jobs()
	if err != nil {
		return err
	}
	var used int64
	for _, other := range jobs {
		if s.knows(other) {
			continue
		}
		n, err := usedBelow(filepath.Join(s.dir, other))
		if err != nil {
			return err
		}
		used += n
	}
	if size > maxUnknown-used {
		return fmt.Errorf("this host has no word of job %s, and takes %d MiB at most of such jobs: %w", job, maxUnknown>>20, blob.ErrDenied)
	}
	return nil
}
