package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"ss/internal/disk"
	"ss/names"
	"ss/store/blob"
)

// Options are how a store treats its host.
type Options struct {
	Staging      string // where dumps land; "": the folder "staging" beside the images
	StagingLimit int64  // bytes that all dumps may take there; 0: what is free
	// KeepDumps leaves the plain files of each job's last set in the staging folder, for UnpackKept.
	KeepDumps bool
	RateLimit int64 // bytes per second that Push and Fetch move, all together; 0: no limit
	// Pause is called before each piece of work that can wait, and waits as long as it should not be done: members stand still. nil: never.
	Pause func(ctx context.Context) error
}

// Store keeps image sets on one host. It is safe for concurrent use; each Partial belongs to one goroutine at a time. One process at a
// time uses a folder.
type Store struct {
	dir     string
	staging string
	frees   bool // see Frees
	opt     Options
	objects *blob.Dir
	limiter *rate.Limiter // nil: no limit
	pins    *pins
	now     func() time.Time                   // tests have clocks of their own
	step    func(op, path string, n int) error // see ops.go; nil outside tests

	// setMu is over what changes under the name of a set: its manifest and its mark.
	setMu sync.Mutex
	// stageMu is over the folders of jobs and snapshots in the staging folder.
	stageMu sync.Mutex
	kept    keptDumps

	// asideMu is over the quarantine.
	asideMu sync.Mutex

	knownMu  sync.Mutex
	knownJob func(job string) bool // nil: all jobs are known

	noteMu sync.Mutex
	notes  []Damage // oldest first, one an object
}

// Set is a whole image set.
type Set struct {
	Key       Key
	Committed bool // its cut exists; where false it is in doubt
	// Manifest is zero where it is damaged. Such a set is listed, as it is there: Verify says what is wrong, and Fetch heals it.
	Manifest Manifest
}

// Open uses dir, which is made 0700 if it is missing. It refuses one that is open to others, one of an older form that is not empty, and one with
// sets of a form that this program does not know (ErrUnknownVersion; it says what to do). It removes nothing: RemovePartials does.
func Open(dir string, opt Options) (*Store, error) {
	s, err := open(dir, opt)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return s, nil
}

func open(dir string, opt Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	staging := opt.Staging
	if staging == "" {
		staging = filepath.Join(filepath.Dir(dir), "staging")
	}
	if staging, err = filepath.Abs(staging); err != nil {
		return nil, err
	}
	for _, d := range []string{dir, staging} {
		if err := disk.PrivateDir(d); err != nil {
			return nil, err
		}
	}
	if err := refuseOldLayout(dir); err != nil {
		return nil, err
	}
	objects, err := blob.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, staging: staging, opt: opt, objects: objects, now: time.Now}
	s.pins = newPins(func() time.Time { return s.now() })
	if err := s.refuseUnknown(context.Background()); err != nil {
		return nil, err
	}
	if err := s.probeStaging(); err != nil {
		return nil, err
	}
	if opt.RateLimit > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(opt.RateLimit), int(max(piece, min(opt.RateLimit, 1<<20))))
	}
	return s, nil
}

// refuseOldLayout refuses a folder that programs before the objects wrote: DIR/JOB/SNAPSHOT/HOST/manifest.json. Nothing of it can be
// used here, and nothing of it may be lost unasked.
func refuseOldLayout(dir string) error {
	jobs, err := folderNames(dir)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		folders, err := folderNames(filepath.Join(dir, job))
		if err != nil {
			return err
		}
		for _, folder := range folders {
			switch folder {
			case objectsFolder, setsFolder, cutsFolder, marksFolder, removedFolder:
				continue
			}
			path := filepath.Join(dir, job, folder)
			entries, err := os.ReadDir(path)
			if err != nil {
				return err
			}
			if len(entries) > 0 {
				return fmt.Errorf("%s holds images of an older form (%s), which this program cannot read: restore or remove those cuts with the program "+
					"that made them, or move the folder away, and start again: %w", dir, path, ErrUnknownVersion)
			}
		}
	}
	return nil
}

// refuseUnknown refuses a folder in which there is a set of a form that is not known here. An agent that was put back to an older version must not
// tidy up among images of which it cannot say what they consist of. Damage is not a reason: RemovePartials notes it.
func (s *Store) refuseUnknown(ctx context.Context) error {
	keys, err := s.keys(ctx, "")
	if err != nil {
		return err
	}
	for _, key := range keys {
		if _, _, err := readManifest(ctx, s.objects, key, ""); errors.Is(err, ErrUnknownVersion) {
			return fmt.Errorf("%s: images of %s: %w; nothing was changed", s.dir, key, err)
		}
	}
	return nil
}

// folderNames lists the folders in dir that have plain names, sorted; none if dir is gone.
func folderNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ns []string
	for _, e := range entries {
		if e.IsDir() && names.Valid(e.Name()) {
			ns = append(ns, e.Name())
		}
	}
	return ns, err
}

// jobs lists the jobs of which something is here.
func (s *Store) jobs() ([]string, error) { return folderNames(s.dir) }

// Space is the number of bytes that can still be written: for dumps, and for objects. Where both lie on one file system both take from
// the same room.
func (s *Store) Space() (staging, objects int64, err error) {
	objects, err = disk.Free(s.dir)
	if err != nil {
		return 0, 0, err
	}
	staging, err = s.stagingLeft()
	return staging, objects, err
}

// stagingLeft is what dumps may still take in the staging folder, in bytes.
func (s *Store) stagingLeft() (int64, error) {
	free, err := disk.Free(s.staging)
	if err != nil || s.opt.StagingLimit <= 0 {
		return free, err
	}
	used, err := usedBelow(s.staging)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", s.staging, err)
	}
	return max(0, min(free, s.opt.StagingLimit-used)), nil
}

// usedBelow is the room that the files below dir take, in bytes. Files that go meanwhile do not matter.
func usedBelow(dir string) (int64, error) {
	var used int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					used += st.Blocks * 512 // stat(2): in units of 512 bytes, whatever the file system's block is
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return used, err
}

// noRoom makes errors that say that a disk is full or a quota used up wrap ErrNoSpace.
func (s *Store) noRoom(err error) error {
	if full(err) {
		return fmt.Errorf("%w in %s: remove cuts that are not needed, run gc, or give it a larger disk: %w", ErrNoSpace, s.dir, err)
	}
	return err
}

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, blob.ErrFull)
}

// pause waits as long as work that can wait should.
func (s *Store) pause(ctx context.Context) error {
	if s.opt.Pause != nil {
		if err := s.opt.Pause(ctx); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// paced is called after each piece of n bytes, at most piece, that was moved to or from another host.
func (s *Store) paced(ctx context.Context, n int) error {
	if err := s.pause(ctx); err != nil {
		return err
	}
	if s.limiter == nil || n == 0 {
		return nil
	}
	return s.limiter.WaitN(ctx, n)
}
