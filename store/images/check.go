package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ss/store/blob"
)

// Check reads everything there is and says what does not fit together: objects without their digest, sets whose objects are missing,
// leftovers. It is for tests, and changes nothing. Nothing else may go on.
func (s *Store) Check(ctx context.Context) error {
	c := &checking{s: s, sizes: map[string]int64{}, used: map[string]bool{}}
	err := s.eachStaged(func(dir string, _ bool) error {
		c.fault("%s: left over of a dump", dir)
		return nil
	})
	for _, step := range []func(context.Context) error{c.files, c.objects, c.sets, c.garbage} {
		if err == nil {
			err = step(ctx)
		}
	}
	return errors.Join(append(c.faults, err)...)
}

type checking struct {
	s      *Store
	sizes  map[string]int64 // of the objects, by name
	used   map[string]bool  // by sets
	faults []error
}

func (c *checking) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

// files looks for what is neither an object nor put aside.
func (c *checking) files(context.Context) error {
	return filepath.WalkDir(c.s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(c.s.dir, path)
		if err != nil {
			return err
		}
		_, mark := parseMarkName(name)
		_, rest, _ := strings.Cut(name, "/"+quarantineFolder+"/")
		switch info, err := d.Info(); {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			c.fault("%s: not a regular file", name)
		case info.Mode().Perm()&0o077 != 0:
			c.fault("%s: open to others", name)
		case !visible(name) && !mark && (rest == "" || filepath.Base(name) == replacing):
			c.fault("%s: left over", name)
		}
		return nil
	})
}

// objects compares each with its name.
func (c *checking) objects(ctx context.Context) error {
	for info, err := range c.s.objects.List(ctx, "") {
		if err != nil {
			return err
		}
		job, digest, ok := parseObjectName(info.Name)
		if !ok {
			continue
		}
		c.sizes[info.Name] = info.Size
		if err := sumIn(ctx, c.s.objects, job, ObjectRef{Digest: digest, Size: info.Size}, nil); err != nil {
			c.fault("%w", err)
		}
	}
	return nil
}

// sets looks for each set's objects, and each mark's set.
func (c *checking) sets(ctx context.Context) error {
	keys, err := c.s.keys(ctx, "")
	if err != nil {
		return err
	}
	for _, key := range keys {
		m, _, err := readManifest(ctx, c.s.objects, key, "")
		if err != nil {
			c.fault("%w", err)
			continue
		}
		for _, ref := range m.Objects() {
			name := ObjectName(m.Job, ref.Digest)
			c.used[name] = true
			if size, ok := c.sizes[name]; !ok || size != ref.Size {
				c.fault("%s: %w: %s, %d bytes", SetName(key), ErrMissing, name, ref.Size)
			} else if _, err := c.s.look(key.Job, ref, nil); err != nil {
				c.fault("%s: %w", SetName(key), err)
			}
		}
	}
	for info, err := range c.s.objects.List(ctx, "") {
		if err != nil {
			return err
		}
		if key, ok := parseMarkName(info.Name); ok {
			if _, err := c.s.objects.Stat(ctx, SetName(key)); errors.Is(err, blob.ErrNotFound) {
				c.fault("%s: a mark without a set", info.Name)
			}
		}
	}
	return nil
}

// garbage looks for objects that no set refers to, and for empty folders.
func (c *checking) garbage(context.Context) error {
	for name := range c.sizes {
		if !c.used[name] {
			c.fault("%s: no set refers to it", name)
		}
	}
	jobs, err := c.s.jobs()
	for _, job := range jobs {
		entries, readErr := os.ReadDir(filepath.Join(c.s.dir, job))
		if err = errors.Join(err, readErr); len(entries) == 0 {
			c.fault("%s: an empty folder", job)
		}
	}
	return err
}
