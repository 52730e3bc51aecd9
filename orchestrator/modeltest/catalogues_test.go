package modeltest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ss/orchestrator/upkeep"
	"ss/store"
	"ss/store/kv/memory"
)

// catalogues are those of the admins' folders and their backups, by path.
type catalogues interface {
	create(t *testing.T, dir string, c store.Cluster) (*store.Catalogue, error)
	copy(t *testing.T, from, to string)
	place(dir string) upkeep.Place
}

// files are catalogues as ssctl has them: bbolt's, one in each folder.
type files struct{}

func (files) create(_ *testing.T, dir string, c store.Cluster) (*store.Catalogue, error) {
	return store.Create(dir, c)
}

func (files) copy(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(from, store.FileName))
	if err == nil {
		err = os.MkdirAll(to, 0o700)
	}
	file := filepath.Join(to, store.FileName)
	if err = errors.Join(err, os.RemoveAll(file)); err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (files) place(dir string) upkeep.Place { return upkeep.Folder(dir) }

// spaces are catalogues in memory.
type spaces map[string]*memory.Space

func (s spaces) create(t *testing.T, dir string, c store.Cluster) (*store.Catalogue, error) {
	s[dir] = memory.NewSpace()
	return store.Init(t.Context(), s[dir].Open(), c)
}

func (s spaces) copy(_ *testing.T, from, to string) { s[to] = s[from].Clone() }

func (s spaces) place(dir string) upkeep.Place { return space{s, dir} }

// space is the place of one of them.
type space struct {
	all spaces
	dir string
}

func (p space) String() string { return p.dir }

func (p space) Taken() bool { return p.all[p.dir] != nil }

func (p space) Open(context.Context) (*store.Catalogue, error) {
	return store.New(p.all[p.dir].Open()), nil
}

func (p space) Salvage() []store.Host { return nil }

func (p space) Write(ctx context.Context, where string, r store.Rebuilt, _ bool) (string, error) {
	made := memory.NewSpace()
	if err := store.InitRebuilt(ctx, made.Open(), where, r); err != nil {
		return "", err
	}
	p.all[p.dir] = made
	return "", nil
}
