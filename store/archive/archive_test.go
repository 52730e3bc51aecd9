package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/store"
)

// memFile is a file of a set.
type memFile struct {
	File
	data []byte
}

// memReader is a Source over files in memory.
type memReader struct {
	files []memFile
	now   *bytes.Reader
}

func (r *memReader) Next() (File, error) {
	if len(r.files) == 0 {
		return File{}, io.EOF
	}
	f := r.files[0]
	r.files, r.now = r.files[1:], bytes.NewReader(f.data)
	return f.File, nil
}

func (r *memReader) Read(p []byte) (int, error) { return r.now.Read(p) }
func (r *memReader) Close() error               { return nil }

func file(path, data string) memFile {
	return memFile{File{Path: path, Size: int64(len(data)), Mode: 0o600}, []byte(data)}
}

// exampleSet is a set with all that there may be in one.
func exampleSet(host string) []memFile {
	page := strings.Repeat(host, 700)
	return []memFile{
		file("", `{"criu":"4.2","members":{}}`),
		file(host+"-1/files.json", "[]"), file(host+"-1/files/0", "log\n"), file(host+"-1/images/core-1.img", page),
		file(host+"-1/images/pages-1.img", page+page), file(host+"-1/images/stats-dump", "stats"), file(host+"-1/images/tmpfs/deep-1.img", ""),
		file(host+"-2/images/core-1.img", "x"),
	}
}

func exampleCut() store.Cut {
	cut := store.Cut{ID: "20261122-104501-x7k2", Job: "ring", Epoch: 7, Time: time.Date(2026, 11, 22, 10, 45, 2, 5, time.UTC)}
	for _, h := range []string{"hostA", "hostB"} {
		cut.Hosts = append(cut.Hosts, store.CutHost{Host: h, Members: []store.CutMember{{Name: h + "-1", Command: []string{"ring", "1"}}, {Name: h + "-2"}}})
	}
	return cut
}

func exampleArchive(tb testing.TB) []byte {
	tb.Helper()
	cut := exampleCut()
	var out bytes.Buffer
	a, err := NewWriter(&out, cut, []byte(`{"cut":"signed"}`))
	if err != nil {
		tb.Fatal(err)
	}
	for _, h := range cut.Hosts {
		r := &memReader{files: exampleSet(h.Host)}
		meta, err := r.Next()
		if err != nil {
			tb.Fatal(err)
		}
		if err := a.Host(h, meta, r); err != nil {
			tb.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// readArchive reads all of an archive: host → files.
func readArchive(r io.Reader) (manifest []byte, sets map[string][]memFile, err error) {
	a := NewReader(r)
	if manifest, err = a.Manifest(); err != nil {
		return nil, nil, err
	}
	sets = map[string][]memFile{}
	for {
		e, err := a.Next()
		if errors.Is(err, io.EOF) {
			return manifest, sets, nil
		}
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(a)
		if err != nil {
			return nil, nil, err
		}
		sets[e.Host] = append(sets[e.Host], memFile{File{e.Path, e.Size, e.Mode}, data})
	}
}

// TestArchiveRoundTrip: what goes out comes in, file by file.
func TestArchiveRoundTrip(t *testing.T) {
	manifest, sets, err := readArchive(bytes.NewReader(exampleArchive(t)))
	if err != nil {
		t.Fatal(err)
	}
	if string(manifest) != `{"cut":"signed"}` || len(sets) != 2 {
		t.Fatalf("manifest %s, %d sets", manifest, len(sets))
	}
	for host, got := range sets {
		same := slices.EqualFunc(got, exampleSet(host), func(a, b memFile) bool { return a.File == b.File && bytes.Equal(a.data, b.data) })
		if !same {
			t.Errorf("%s: %v, want %v", host, got, exampleSet(host))
		}
	}
}

// TestArchiveFindsDamage: whichever byte is changed, wherever it is cut off and whatever is added, the reader finds it.
func TestArchiveFindsDamage(t *testing.T) {
	whole := exampleArchive(t)
	rng := rand.New(rand.NewSource(1))
	check := func(what string, data []byte) {
		if _, _, err := readArchive(bytes.NewReader(data)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want damage", what, err)
		}
	}
	for range 1000 {
		at := rng.Intn(len(whole))
		bad := slices.Clone(whole)
		bad[at] ^= byte(1 + rng.Intn(255))
		check(fmt.Sprintf("byte %d of %d changed", at, len(whole)), bad)
	}
	for range 200 {
		n := rng.Intn(len(whole))
		check(fmt.Sprintf("only %d of %d bytes", n, len(whole)), whole[:n])
	}
	check("bytes added", append(slices.Clone(whole), 0))
	check("a block added", append(slices.Clone(whole), make([]byte, 512)...))
	check("empty", nil)
}

// TestArchiveIsPlain: unpacked by tar, sha256sum finds every file whole, and each member is what checkpointctl looks for.
func TestArchiveIsPlain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.tar"), exampleArchive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"tar", "-xf", "a.tar"}, {"sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"}} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	for _, name := range []string{"config.dump", "spec.dump", "stats-dump", "checkpoint/core-1.img", "checkpoint/stats-dump", "ss/files.json", "ss/files/0"} {
		if _, err := os.Stat(filepath.Join(dir, "hostA/hostA-1", name)); err != nil {
			t.Error(err)
		}
	}
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
		}
		return err
	})
	if lines := bytes.Count(sums, []byte("\n")); err != nil || lines != files-2 { // but for the archive, and itself
		t.Errorf("%d of %d files have a digest, %v", lines, files-2, err)
	}
}

// TestArchiveNames: the names in an archive lead back to the paths in a set, and only those do that we make.
func TestArchiveNames(t *testing.T) {
	for _, file := range []string{"m/images/core-1.img", "m/images/a/b", "m/files/0", "m/files.json", "m/config.dump", "m/images", "m/ss/checkpoint/x"} {
		name, err := archiveName("h", file)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if host, back, err := setName(name); err != nil || host != "h" || back != file {
			t.Errorf("%s → %s → %s, %s, %v", file, name, host, back, err)
		}
	}
	for _, file := range []string{"", "m", "/m/x", "m/../x", "m//x", "m/./x", "m/a\nb", `m/a\b`, "../m/x", "m/x/", "meta.json/x"} {
		if name, err := archiveName("h", file); err == nil {
			t.Errorf("%q became %q", file, name)
		}
	}
	for _, name := range []string{"", "h", "h/m", "h/m/x", "h/m/other/x", "h/m/ss/images/x", "../m/ss/x", "h/m/checkpoint", "h/m/ss/../x", "/h/m/ss/x"} {
		if host, file, err := setName(name); err == nil && file != "" {
			t.Errorf("%q became %s, %q", name, host, file)
		}
	}
}

// TestArchiveRefusesOtherForms: links, devices, files twice, and files of a host that has not begun are not export.
func TestArchiveRefusesOtherForms(t *testing.T) {
	at := exampleCut().Time
	link := &tar.Header{Typeflag: tar.TypeSymlink, Name: "hostA/hostA-1/checkpoint/x", Linkname: "/etc/passwd", ModTime: at, Format: tar.FormatPAX}
	for name, heads := range map[string][]*tar.Header{
		"a link":               {header(cutEntry, 0, 0o600, at), link},
		"a file twice":         {header(cutEntry, 0, 0o600, at), header("h/meta.json", 0, 0o600, at), header("h/m/ss/x", 0, 0o600, at), header("h/m/ss/x", 0, 0o600, at)},
		"no meta":              {header(cutEntry, 0, 0o600, at), header("h/m/ss/x", 0, 0o600, at)},
		"a path that leads up": {header(cutEntry, 0, 0o600, at), header("h/meta.json", 0, 0o600, at), header("h/m/ss/../../x", 0, 0o600, at)},
		"no manifest":          {header("h/meta.json", 0, 0o600, at)},
		"no digests":           {header(cutEntry, 0, 0o600, at), header("h/meta.json", 0, 0o600, at)},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := tar.NewWriter(&out)
			for _, h := range heads {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := readArchive(&out); !errors.Is(err, ErrDamaged) {
				t.Errorf("%v, want damage", err)
			}
		})
	}
}

// FuzzImport: whatever a file holds, reading it ends, and what is taken for whole has the one form that we write.
func FuzzImport(f *testing.F) {
	f.Add(exampleArchive(f))
	f.Add([]byte{})
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, sets, err := readArchive(bytes.NewReader(data))
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v is not damage", err)
		}
		for host, files := range sets {
			for _, file := range files {
				if file.Path == "" {
					continue
				}
				if name, err := archiveName(host, file.Path); err != nil {
					t.Errorf("%s, %q → %q: %v", host, file.Path, name, err)
				}
			}
		}
	})
}
