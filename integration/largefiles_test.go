package integration

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// btrfs mounts an empty Btrfs, for as long as the test runs, and returns its folder. Labs that are made later see it on each host.
func btrfs(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "btrfs")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, size))
	must(t, os.Mkdir(at, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	for _, command := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
	return at
}

// TestLargeFiles: a large file that a member writes to is copied before the freeze and mended in it, or cloned where the file system can do that, and is put back, by
// its descriptor and as one of a declared folder. It holds what it held at the recorded instant, which its writer checks. One that would be read for too long is refused before the freeze, by name. Needs root, CRIU, gcc, btrfs-progs and a loop device.
func TestLargeFiles(t *testing.T) {
	withoutRace(t)
	disk := btrfs(t, 600<<20)
	must(t, os.Mkdir(filepath.Join(disk, "staging"), 0o700))
	l := lab.New(t, "hostA")
	l.AgentConfig = "staging: " + disk + "/staging\nfiles_limit: 50MiB\n"
	l.StartAgents()
	c := &cluster{Lab: l, t: t}
	program := c.compile("lines")
	for _, row := range []struct {
		name   string
		path   string
		data   int64 // bytes
		hole   int64 // after them
		says   string
		folder string // declared; "": none
	}{
		{name: "mended", path: filepath.Join(c.Dir(), "mended"), data: 40 << 20},
		{name: "refused", path: filepath.Join(c.Dir(), "refused"), data: 60 << 20, says: "files_limit"},
		{name: "cloned", path: filepath.Join(disk, "cloned"), data: 100 << 20, hole: 300 << 20},
		{name: "declared", path: filepath.Join(disk, "data", "declared"), data: 20 << 20, hole: 2 << 30, folder: filepath.Join(disk, "data")},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := &cluster{Lab: l, t: t}
			must(t, os.MkdirAll(filepath.Dir(row.path), 0o755))
			f, err := os.Create(row.path)
			must(t, err)
			_, err = io.CopyN(f, rand.Reader, row.data)
			must(t, err)
			must(t, f.Truncate(row.data+row.hole))
			must(t, f.Close())
			want := readTail(t, row.path, row.data)
			j := c.newJob(row.name)
			j.serveWith(row.folder, "lines", "hostA", program, row.path, "place")
			c.MustCtl("job", "set", row.name, "--copies", "1")
			j.awaitProgress()
			if row.says != "" {
				_, stderr, exit := c.Ctl("snapshot", row.name)
				if exit != 4 || !strings.Contains(stderr, row.says) || !strings.Contains(stderr, row.path+" (60 MiB") || strings.Contains(stderr, "recording") {
					t.Errorf("exit code %d: %s", exit, stderr)
				}
				j.awaitProgress()
				j.end()
				return
			}
			j.snapshot()
			cut := j.snapshot().Cut
			j.awaitProgress()
			damage(t, row.path, row.data)
			j.restore(cut)
			j.awaitProgress()
			if !bytes.Equal(readTail(t, row.path, row.data), want) {
				t.Errorf("%s is not what it was", row.path)
			}
			var st unix.Stat_t
			must(t, unix.Stat(row.path, &st))
			if st.Size != row.data+row.hole || st.Blocks*512 > row.data+(8<<20) {
				t.Errorf("%d bytes, %d on disk", st.Size, st.Blocks*512)
			}
			j.end()
		})
	}
}

// serveWith is serve, with a folder that is declared to be part of each cut; "": none.
func (j *job) serveWith(folder, name, host string, command ...string) {
	j.t.Helper()
	if folder == "" {
		j.serve(name, host, command...)
		return
	}
	m := &member{name: name, host: host, endless: true}
	j.members = append(j.members, m)
	j.MustCtl(append([]string{"run", j.name, "--host", host, "--log", j.logPath(m), "--files", folder, "--"}, command...)...)
}

// readTail reads all of a file but its first block, up to an end.
func readTail(t *testing.T, path string, end int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	b := make([]byte, end-4096)
	_, err = io.ReadFull(io.NewSectionReader(f, 4096, end), b)
	must(t, err)
	return b
}

// damage changes a file in several places, as its program would after a cut.
func damage(t *testing.T, path string, end int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	for at := int64(5000); at < end; at += end / 5 {
		_, err := f.WriteAt([]byte("damaged"), at)
		must(t, err)
	}
}
