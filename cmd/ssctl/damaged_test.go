package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/fault"
	"ss/store"
	"ss/store/kv"
	"ss/store/kv/bolt"
)

// TestDamagedCatalogueSaysWhatToDo: whatever has become of the catalogue's file, each command fails, writes nothing to it, and advises to make it again from what the hosts hold. None advises a
// new cluster, and nobody waits.
func TestDamagedCatalogueSaysWhatToDo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ss")
	run := func(argv ...string) error {
		a := &app{stdout: new(strings.Builder), stderr: new(strings.Builder), documents: new(strings.Builder)}
		cmd := a.command()
		cmd.SetArgs(append([]string{"--dir", dir}, argv...))
		return cmd.ExecuteContext(t.Context())
	}
	if err := run("init"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, store.FileName)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign")
	db, err := bolt.Create(foreign, func(tx kv.Tx) error { return tx.Put("of another program", "key", []byte("value")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(foreign, bolt.FileName))
	if err != nil {
		t.Fatal(err)
	}
	set := func(data []byte) func() error { return func() error { return os.WriteFile(file, data, 0o600) } }
	for name, damage := range map[string]func() error{
		"empty":                          set(nil),
		"one byte":                       set(whole[:1]),
		"cut off within its first page":  set(whole[:1000]),
		"cut off behind its first pages": set(whole[:8192]),
		"cut off in the middle":          set(whole[:len(whole)/2]),
		"zeros":                          set(make([]byte, len(whole))),
		"zeros at its end":               set(append(bytes.Clone(whole[:8192]), make([]byte, len(whole)-8192)...)),
		"a text":                         set([]byte("not a database, but a text that is longer than nothing")),
		"another program's database":     set(other),
		"a folder":                       func() error { return os.Mkdir(file, 0o700) },
		"a FIFO":                         func() error { return unix.Mkfifo(file, 0o600) },
		"a device":                       func() error { return unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"a link in a circle":             func() error { return os.Symlink(store.FileName, file) },
		"a link that leads nowhere":      func() error { return os.Symlink("none", file) },
		"a link to a FIFO":               func() error { return errors.Join(unix.Mkfifo(dir+"/fifo", 0o600), os.Symlink("fifo", file)) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a device" && os.Geteuid() != 0 {
				t.Skip("only root makes a device: make test runs it")
			}
			if err := errors.Join(os.RemoveAll(file), damage()); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			var before []byte
			if info.Mode().IsRegular() {
				if before, err = os.ReadFile(file); err != nil {
					t.Fatal(err)
				}
			}
			for _, argv := range [][]string{{"list"}, {"gc"}, {"snapshot", "ring"}, {"host", "list"}} {
				done := make(chan error, 1)
				go func() { done <- run(argv...) }()
				select {
				case err = <-done:
				case <-time.After(time.Minute):
					t.Fatalf("%v waits", argv)
				}
				if !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "catalog rebuild --replace") || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), " init") {
					t.Errorf("%v: %v", argv, err)
				}
			}
			if after, err := os.Lstat(file); err != nil || after.Mode() != info.Mode() {
				t.Fatalf("it is another file: %v", err)
			} else if after.Mode().IsRegular() {
				if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, before) {
					t.Errorf("it was written to: %v", err)
				}
			}
		})
	}
}
