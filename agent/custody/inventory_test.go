package custody

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/store/images"
)

func TestPutCutCommitsWhatIsHere(t *testing.T) {
	h := newHolder(t)
	man := custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
	if state, err := h.State(); err != nil || !slices.Equal(state.InDoubt, []InDoubt{{aKey, 1}}) {
		t.Fatalf("in doubt: %v, %v", state.InDoubt, err)
	}
	for _, manifest := range []string{"signed", "signed again"} {
		if err := h.PutCut(t.Context(), "", aKey.Job, aKey.Snapshot, []byte(manifest)); err != nil {
			t.Fatal(err)
		}
		inv, err := h.Inventory(t.Context(), "", "job")
		if err != nil || len(inv.Sets) != 1 || !inv.Sets[0].Committed || len(inv.Usage) != 1 || inv.Usage[0].Stored == 0 {
			t.Fatalf("%+v, %v", inv, err)
		}
		if len(inv.Cuts) != 1 || string(inv.Cuts[0].Manifest) != manifest || inv.Cuts[0].Snapshot != "cut" {
			t.Errorf("cuts: %v", inv.Cuts)
		}
	}
	if inv, err := h.Inventory(t.Context(), "", "another"); err != nil || len(inv.Sets)+len(inv.Cuts)+len(inv.Usage) != 0 {
		t.Errorf("of another job: %+v, %v", inv, err)
	}
	if n, err := h.RemoveCut(t.Context(), buried("", man)); err != nil || n != 1 {
		t.Fatalf("removed %d, %v", n, err)
	}
	if inv, err := h.Inventory(t.Context(), "", ""); err != nil || len(inv.Sets)+len(inv.Cuts) != 0 {
		t.Errorf("removed, and there is %+v, %v", inv, err)
	}
	if g, err := h.Collect(t.Context(), "", "job", false); err != nil || g.Objects == 0 {
		t.Errorf("collected %+v, %v", g, err)
	}
}

func TestVault(t *testing.T) {
	h := newHolder(t)
	url := "file://" + t.TempDir()
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, h.cfg.Store, aKey, k)
	if _, err := h.Push(t.Context(), aKey, strings.Repeat("0", 64), url); !fault.Is(err, fault.Integrity) {
		t.Errorf("pushed what is another set: %v", err)
	}
	moved, err := h.Push(t.Context(), aKey, man.Digest, url)
	if err != nil || moved.Objects == 0 {
		t.Fatalf("%+v, %v", moved, err)
	}
	for i, manifest := range []string{"signed", "singed", "signed, with more holders"} {
		if err := h.PutCut(t.Context(), url, aKey.Job, aKey.Snapshot, []byte(manifest)); err != nil {
			t.Fatal(err)
		}
		inv, err := h.Inventory(t.Context(), url, "")
		if err != nil || len(inv.Cuts) != 1 || string(inv.Cuts[0].Manifest) != manifest {
			t.Fatalf("%d: %+v, %v", i, inv, err)
		}
		if len(inv.Sets) != 1 || !inv.Sets[0].Committed || inv.Sets[0].Manifest.Digest != man.Digest {
			t.Errorf("sets: %+v", inv.Sets)
		}
		if u := inv.Usage[0]; u.Job != "job" || u.Sets != 1 || u.Logical != man.Bytes || u.Stored == 0 {
			t.Errorf("usage: %+v", u)
		}
	}
	v, err := h.Verify(t.Context(), Verification{Key: aKey, Digest: man.Digest, JobKey: &k, ReadData: true, Vault: url})
	if err != nil || v.Bytes != man.Bytes || v.Ends != nil {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := h.RemoveCut(t.Context(), Removal{Job: aKey.Job, Snapshot: aKey.Snapshot}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Collect(t.Context(), "", "job", false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Fetch(t.Context(), aKey, man.Digest, nil, []string{url}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Verify(t.Context(), Verification{Key: aKey, Digest: man.Digest, JobKey: &k, ReadData: true}); err != nil {
		t.Fatal(err)
	}
	if n, err := h.RemoveCut(t.Context(), buried(url, man)); err != nil || n != 1 {
		t.Fatalf("removed %d, %v", n, err)
	}
	if _, err := h.Collect(t.Context(), url, "", false); !fault.Is(err, fault.Usage) {
		t.Errorf("collected in a vault without a job: %v", err)
	}
	if g, err := h.Collect(t.Context(), url, "job", false); err != nil || g.Objects != len(man.Objects()) {
		t.Errorf("collected %+v, %v", g, err)
	}
}

// TestVaultOfANewerProgram: what it put there is not taken for damage, which would be removed and put again.
func TestVaultOfANewerProgram(t *testing.T) {
	h := newHolder(t)
	dir := t.TempDir()
	name := filepath.Join(dir, filepath.FromSlash(images.SetName(aKey)))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(`{"schema":3,"chunks":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if inv, err := h.Inventory(t.Context(), "file://"+dir, ""); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "schema 3") {
		t.Errorf("inventory: %+v, %v", inv, err)
	}
	if _, err := h.Collect(t.Context(), "file://"+dir, "job", false); !fault.Is(err, fault.Refused) {
		t.Errorf("collect: %v", err)
	}
}

func TestVerifyReadsTheConnections(t *testing.T) {
	h := newHolder(t)
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, h.cfg.Store, aKey, k)
	for _, readData := range []bool{false, true} {
		v, err := h.Verify(t.Context(), Verification{Key: aKey, Digest: man.Digest, JobKey: &k, ReadData: readData})
		if err != nil || len(v.Ends) != 1 || v.Ends[0].Local != "10.0.0.1:80" || v.Ends[0].Member != "hostA-1" || v.Ends[0].Host != "hostA" {
			t.Errorf("%+v, %v", v, err)
		}
	}
	if v, err := h.Verify(t.Context(), Verification{Key: aKey, Digest: man.Digest}); err != nil || v.Ends != nil || v.Files != man.Files {
		t.Errorf("without a key: %+v, %v", v, err)
	}
	if _, err := h.Verify(t.Context(), Verification{Key: aKey, ReadData: true}); !fault.Is(err, fault.Usage) {
		t.Errorf("data without a key: %v", err)
	}
	other := custodytest.NewKey(t)
	if _, err := h.Verify(t.Context(), Verification{Key: aKey, JobKey: &other}); err == nil {
		t.Error("another key does as well")
	}
	leftovers(t, h)
	custodytest.Corrupt(t, h.cfg.Dir, "job", man.Packs[0].Digest)
	if _, err := h.Verify(t.Context(), Verification{Key: aKey, Digest: man.Digest, JobKey: &k}); !fault.Is(err, fault.Integrity) {
		t.Errorf("a bit is flipped: %v", err)
	}
}

// export gathers what Export hands over.
func export(t *testing.T, h *host, x ExportOptions) (meta []byte, files map[string][]byte) {
	t.Helper()
	files = map[string][]byte{}
	var paths []string
	err := h.Export(t.Context(), x, func(f PlainFile, r io.Reader) error {
		b, err := io.ReadAll(r)
		if int64(len(b)) != f.Size {
			t.Errorf("%q has %d bytes, not %d", f.Path, len(b), f.Size)
		}
		paths = append(paths, f.Path)
		if f.Path == "" {
			meta = b
		} else {
			files[f.Path] = b
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if paths[0] != "" || !slices.IsSorted(paths) {
		t.Errorf("in the order %q", paths)
	}
	return meta, files
}

func TestExportAndImport(t *testing.T) {
	h := newHolder(t, "hostB", "hostC")
	others := h.others
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, others.Stores["hostB"], aKey, k)
	meta, files := export(t, h, ExportOptions{Key: aKey, Digest: man.Digest, JobKey: k, Sources: peersOf("hostB")})
	if string(meta) != custodytest.Meta || !maps.EqualFunc(files, custodytest.Files(), bytes.Equal) {
		t.Fatalf("meta %s, files %v", meta, slices.Sorted(maps.Keys(files)))
	}
	leftovers(t, h)
	if inv, err := h.Inventory(t.Context(), "", ""); err != nil || len(inv.Sets) != 0 {
		t.Fatalf("the export has left %+v, %v", inv.Sets, err)
	}

	as := images.Key{Job: "again", Snapshot: "imported", Host: "hostA"}
	k2 := custodytest.NewKey(t)
	im, err := h.StartImport(ImportOpen{Key: as, Epoch: 3, Meta: meta, JobKey: k2, Copies: peersOf("hostB", "hostC"), CopiesWanted: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.StartImport(ImportOpen{Key: as, Meta: meta}); !fault.Is(err, fault.Conflict) {
		t.Errorf("two imports of one set at once: %v", err)
	}
	for path, b := range files {
		if err := im.Put(PlainFile{Path: path, Size: int64(len(b)), Mode: 0o600}, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	done, err := im.Seal(t.Context())
	if err != nil || !slices.Equal(done.Copies, []string{"hostA", "hostB"}) {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := im.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, again := export(t, h, ExportOptions{Key: as, Digest: done.Digest, JobKey: k2})
	if !maps.EqualFunc(files, again, bytes.Equal) {
		t.Errorf("files after an import: %v", slices.Sorted(maps.Keys(again)))
	}
	if doubt, err := h.inDoubt(); err != nil || !slices.Equal(doubt, []images.Key{as}) {
		t.Errorf("in doubt: %v, %v", doubt, err)
	}
}

func TestImportRefuses(t *testing.T) {
	h := newHolder(t, "hostB")
	for name, f := range map[string]struct {
		path string
		size int64
		data string
	}{
		"no path":             {"", 1, "x"},
		"an absolute path":    {"/etc/passwd", 1, "x"},
		"a way out":           {"hostA-1/../../x", 1, "x"},
		"a way up":            {"..", 1, "x"},
		"an empty element":    {"hostA-1//x", 1, "x"},
		"a dot":               {"hostA-1/./x", 1, "x"},
		"a member alone":      {"hostA-1", 1, "x"},
		"an unknown member":   {"hostB-1/images/x", 1, "x"},
		"a zero byte":         {"hostA-1/x\x00y", 1, "x"},
		"a very long path":    {"hostA-1/" + strings.Repeat("x/", 600) + "x", 1, "x"},
		"a negative size":     {"hostA-1/images/x", -1, ""},
		"less than announced": {"hostA-1/images/x", 5, "x"},
		"more than announced": {"hostA-1/images/x", 1, "xy"},
	} {
		im, err := h.StartImport(ImportOpen{Key: aKey, Meta: []byte(custodytest.Meta), Copies: peersOf("hostB"), CopiesWanted: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := im.Put(PlainFile{Path: f.path, Size: f.size}, strings.NewReader(f.data)); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
		if err := im.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, open := range map[string]ImportOpen{
		"no meta":                     {Key: aKey},
		"copies in another's name":    {Key: images.Key{Job: "job", Snapshot: "cut", Host: "hostB"}, Meta: []byte(custodytest.Meta), CopiesWanted: 1},
		"a key that is a path":        {Key: images.Key{Job: "../x", Snapshot: "s", Host: "h"}, Meta: []byte(custodytest.Meta)},
		"a member's name that is one": {Key: aKey, Meta: []byte(`{"members":{"../x":{}}}`)},
	} {
		if _, err := h.StartImport(open); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAFailedImportLeavesNothing, here or elsewhere.
func TestAFailedImportLeavesNothing(t *testing.T) {
	h := newHolder(t, "hostB")
	others := h.others
	im, err := h.StartImport(ImportOpen{Key: aKey, Meta: []byte(custodytest.Meta), Copies: peersOf("hostB"), CopiesWanted: 2})
	if err != nil {
		t.Fatal(err)
	}
	put := func() error { return im.Put(PlainFile{Path: "hostA-1/images/x", Size: 1}, strings.NewReader("x")) }
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if err := put(); !fault.Is(err, fault.Usage) {
		t.Errorf("the same file twice: %v", err)
	}
	if _, err := im.Seal(t.Context()); err == nil {
		t.Error("two copies on one host")
	}
	if err := im.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if inv, err := h.Inventory(t.Context(), "", ""); err != nil || len(inv.Sets) != 0 || len(others.Holding(aKey)) != 0 {
		t.Errorf("an import failed, and there is %+v, %v", inv.Sets, err)
	}
	if left, err := filepath.Glob(filepath.Join(h.cfg.Staging, "*")); err != nil || len(left) != 0 {
		t.Errorf("staged still: %v, %v", left, err)
	}
}
