package upkeep

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ss/store"
)

// Place is where a catalogue is, for Rebuilder: the folder of a file (Folder), or a database.
type Place interface {
	// String is what people call it.
	String() string
	// Taken says whether there is a catalogue, whole or not.
	Taken() bool
	// Open opens it.
	Open(ctx context.Context) (*store.Catalogue, error)
	// Salvage finds hosts in a catalogue that cannot be opened.
	Salvage() []store.Host
	// Write makes a catalogue of what was found. With replace it puts one that is there aside, and says where that is now; if it fails, the old one
	// is in its place. where is store.Catalogue.Where's.
	Write(ctx context.Context, where string, r store.Rebuilt, replace bool) (aside string, err error)
}

// Folder is the folder of a cluster, with its catalogue in a file.
type Folder string

func (f Folder) String() string { return string(f) }

func (f Folder) file() string { return filepath.Join(string(f), store.FileName) }

// Taken says whether there is something by the catalogue's name.
func (f Folder) Taken() bool {
	_, err := os.Lstat(f.file())
	return err == nil
}

// Open is store.Open.
func (f Folder) Open(ctx context.Context) (*store.Catalogue, error) {
	return store.Open(ctx, string(f))
}

// Salvage is store.SalvageHosts.
func (f Folder) Salvage() []store.Host { return store.SalvageHosts(string(f)) }

// Write renames a catalogue that is there, and creates the new one.
func (f Folder) Write(_ context.Context, where string, r store.Rebuilt, replace bool) (aside string, err error) {
	if replace {
		aside = f.file() + ".replaced-" + time.Now().UTC().Format("20060102-150405.000")
		if err := os.Rename(f.file(), aside); errors.Is(err, fs.ErrNotExist) {
			aside = ""
		} else if err != nil {
			return "", err
		}
	}
	if err := store.CreateRebuilt(string(f), where, r); err != nil {
		if aside != "" {
			err = errors.Join(err, os.Rename(aside, f.file()))
		}
		return "", err
	}
	return aside, nil
}
