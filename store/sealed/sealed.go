package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"ss/internal/disk"
)

// Errors; test with errors.Is.
var (
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrUnknownVersion: a newer program wrote it.
	ErrUnknownVersion = errors.New("written by a newer version of this program")
)

// MaxLength bounds a state file, in bytes.
const MaxLength = 64 << 20

// envelope is the form of a file: one line of JSON. The checksum (CRC-32C) covers the file's name, a zero byte, the schema, a zero byte and the
// bytes of the record, so that one file cannot stand in another's place.
type envelope struct {
	Schema int             `json:"schema"`
	CRC32C string          `json:"crc32c"`
	Record json.RawMessage `json:"record"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func wrap(name string, schema int, record []byte) []byte {
	sum := crc32.Checksum(append(fmt.Appendf(nil, "%s\x00%d\x00", name, schema), record...), castagnoli)
	return fmt.Appendf(nil, `{"schema":%d,"crc32c":"%08x","record":%s}`+"\n", schema, sum, record)
}

// Write makes path hold v, whole or not at all, also through a loss of power. schema, from 1 on, is the version of what v says.
func Write(path string, schema int, v any) error { return write(path, schema, v, true) }

// WriteVolatile is Write for what must survive the end of this process, and not that of the machine: it does not wait for the disk.
func WriteVolatile(path string, schema int, v any) error { return write(path, schema, v, false) }

func write(path string, schema int, v any, durable bool) error {
	record, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeWhole(path, wrap(filepath.Base(path), schema, record), durable)
}

// WriteWhole makes path hold data as it is, for what has a signature of its own: whole or not at all, also through a loss of power.
func WriteWhole(path string, data []byte) error { return writeWhole(path, data, true) }

func writeWhole(path string, data []byte, durable bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, ".tmp-"+name+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if durable {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if durable {
		if err = disk.SyncDir(filepath.Clean(dir)); err != nil {
			return err
		}
	}
	return f.Close()
}

// Read reads into v what Write wrote, and returns its schema, at most known. A file of programs before this package, a record without more, has
// schema 0: nothing tells whether it is what was written, but that it must have the form of v and nothing else. Errors wrap fs.ErrNotExist, ErrDamaged
// or ErrUnknownVersion. v is of no use after an error.
func Read(path string, known int, v any) (schema int, err error) {
	data, err := disk.ReadSmall(path, MaxLength)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		return 0, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	bad := func(format string, args ...any) (int, error) {
		return 0, fmt.Errorf("%s: %s: %w", path, fmt.Sprintf(format, args...), ErrDamaged)
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return bad("%v", err)
	}
	if e.Schema >= 1 && bytes.Equal(data, wrap(filepath.Base(path), e.Schema, e.Record)) {
		if e.Schema > known {
			return 0, fmt.Errorf("%s: schema %d, this program knows %d: %w", path, e.Schema, known, ErrUnknownVersion)
		}
		if err := json.Unmarshal(e.Record, v); err != nil {
			return bad("%v", err)
		}
		return e.Schema, nil
	}
	// An envelope with a flipped bit is not a record: no record has these fields.
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bad("it fails its checksum, and is not a file of an older version: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows the record")
	}
	return 0, nil
}
