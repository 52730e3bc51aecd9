package sealed

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

type state struct {
	Job  string   `json:"job"`
	Pid  int      `json:"pid"`
	List []string `json:"list,omitempty"`
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.json")
	if _, err := Read(path, 1, new(state)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing there: %v", err)
	}
	want := state{"ring", 1001, []string{"a", "b<&>\u2028"}}
	for _, write := range []func(string, int, any) error{Write, WriteVolatile} {
		if err := write(path, 1, want); err != nil {
			t.Fatal(err)
		}
		var got state
		if schema, err := Read(path, 1, &got); err != nil || schema != 1 || got.Pid != want.Pid || !slices.Equal(got.List, want.List) {
			t.Fatalf("%+v, %d, %v", got, schema, err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := Write(path, 2, want); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, 1, new(state)); !errors.Is(err, ErrUnknownVersion) {
		t.Errorf("of a newer program: %v", err)
	}
	other := filepath.Join(filepath.Dir(path), "exit.json")
	if err := os.Rename(path, other); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(other, 2, new(state)); !errors.Is(err, ErrDamaged) {
		t.Errorf("in another file's place: %v", err)
	}
}

// TestEveryBit: no bit of a file can be another one, whatever the bytes around it make of it.
func TestEveryBit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "member.json")
	if err := Write(path, 1, state{"ring", 1001, []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(data) * 8 {
		bad := slices.Clone(data)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, 1, new(state)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit %d of byte %d: %v: %s", bit%8, bit/8, err, bad)
		}
	}
	for n := range data {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, 1, new(state)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
}

// TestOldFiles: a file of a program before this package is read, and only if it has the record's form.
func TestOldFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "member.json")
	for text, whole := range map[string]bool{
		`{"job":"ring","pid":7}`:                        true,
		"{\n  \"job\": \"ring\",\n  \"pid\": 7\n}\n":    true,
		`{"job":"ring","pid":7}{}`:                      false,
		`{"job":"ring","pid":"7"}`:                      false,
		`{"job":"ring","pie":7}`:                        false,
		`{"schema":1,"record":{"job":"ring","pid":7}}`:  false,
		`{"schemb":1,"crc32c":"00","record":{"pid":7}}`: false,
		`null x`: false,
		``:       false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got state
		schema, err := Read(path, 1, &got)
		if whole && (err != nil || schema != 0 || got.Pid != 7) || !whole && !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %+v, %d, %v", text, got, schema, err)
		}
	}
}

// TestNotAFile: what is not a regular file is damaged, and nobody waits for it.
func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("d", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "link"} {
		if _, err := Read(filepath.Join(dir, name), 1, new(state)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
