package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
	"ss/store/keys"
)

// fateless answers nobody's questions.
func (c *cluster) RestoreFate(context.Context, Participant, string, string, bool) (Fate, error) {
	return FateUnknown, errors.New("no such host")
}

func restorePlan(man images.Manifest, k keys.Job, sources ...string) RestorePlan {
	return RestorePlan{
		ID: "restore", Key: marker.Key{Job: "job", Snapshot: "cut", Epoch: 1}, JobKey: k,
		Parts: []RestorePart{{
			Host: "hostA", Digest: man.Digest, Members: []Member{{Job: "job", Name: "hostA-1"}}, Sources: participants(sources...),
		}},
		Participants: participants("hostA"),
	}
}

// TestFetchHealsAndSaysSo: what is damaged here comes from another copy, and whoever restores reads of it.
func TestFetchHealsAndSaysSo(t *testing.T) {
	a, others := newAgent(t, "hostB", "hostC")
	k := newKey(t)
	man := seal(t, a.cfg.Images, aKey, k)
	cp := &copying{a: a, key: aKey, hosts: participants("hostB", "hostC"), wanted: 2}
	if err := cp.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	corrupt(t, a.cfg.ImageDir, "job", man.Packs[0].Digest)
	// Of the first copy, too: the other one is left.
	corrupt(t, filepath.Join(filepath.Dir(a.cfg.StateDir), "hostB", "images"), "job", man.Packs[0].Digest)
	r, err := a.StartRestore(restorePlan(man, k, "hostA", "hostB", "hostC"))
	if err != nil {
		t.Fatal(err)
	}
	if faults, err := r.Check(t.Context()); err != nil || len(faults) != 0 {
		t.Fatalf("check: %v, %v", faults, err)
	}
	notices, err := r.Fetch(t.Context())
	if err != nil || len(notices) != 1 || !strings.Contains(notices[0], man.Packs[0].Digest[:12]) {
		t.Fatalf("fetch: %q, %v", notices, err)
	}
	for path, want := range testFiles() {
		got, err := os.ReadFile(filepath.Join(r.unpacked("hostA"), path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	if len(r.members) != 1 || r.members[0].member.Name != "hostA-1" {
		t.Errorf("members %+v", r.members)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work folder is left: %v", err)
	}
	// The test's end checks every store, and hostB's was left damaged on purpose.
	if _, err := others.hosts["hostB"].Fetch(t.Context(), aKey, man.Digest, true, []images.Source{{Name: "hostA", Reader: a.cfg.Images.ForPeers()}}); err != nil {
		t.Fatal(err)
	}
}

// TestFetchWithoutAWholeCopy names what is wrong, and touches nothing.
func TestFetchWithoutAWholeCopy(t *testing.T) {
	a, _ := newAgent(t)
	k := newKey(t)
	man := seal(t, a.cfg.Images, aKey, k)
	corrupt(t, a.cfg.ImageDir, "job", man.Packs[0].Digest)
	r, err := a.StartRestore(restorePlan(man, k, "hostA"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context()); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), man.Packs[0].Digest[:12]) {
		t.Errorf("fetch: %v", err)
	}
	if err := r.Fence(t.Context()); !errors.Is(err, errBackedOut) {
		t.Errorf("fence: %v", err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCheckListsWhatDoesNotFit(t *testing.T) {
	a, _ := newAgent(t)
	plan := restorePlan(images.Manifest{}, newKey(t))
	r, err := a.StartRestore(plan)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context())
	lacks, err := r.lacking(roomFor{unpacked: 1 << 60})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "unpacked images") || !strings.Contains(lacks[0], "ssctl gc") {
		t.Errorf("%q, %v", lacks, err)
	}
	// Both lie on one disk, which has room for the one or the other.
	free, err := freeIn(a.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	lacks, err = r.lacking(roomFor{unpacked: free / 4 * 3, objects: free / 4 * 3})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "together") {
		t.Errorf("%q, %v", lacks, err)
	}
	if lacks, err := r.lacking(roomFor{unpacked: 1, objects: 1}); err != nil || len(lacks) != 0 {
		t.Errorf("%q, %v", lacks, err)
	}
}

// TestTheKeyIsWrittenNowhere: not in the note of a restore, not in the journal, in no form that a key has or shows.
func TestTheKeyIsWrittenNowhere(t *testing.T) {
	a, _ := newAgent(t)
	k := newKey(t)
	man := seal(t, a.cfg.Images, aKey, k)
	plan := restorePlan(man, k, "hostA")
	r, err := a.StartRestore(plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(r.noteFile())
	if err != nil || !bytes.Contains(b, []byte(`"ID":"restore"`)) {
		t.Fatalf("the note: %s, %v", b, err)
	}
	if bytes.Contains(bytes.ToLower(b), []byte("key\":\"")) || bytes.Contains(b, []byte("JobKey")) {
		t.Errorf("the note says something of the key: %s", b)
	}
	if err := a.journal.put(marker.Entry{Key: plan.Key}); err != nil {
		t.Fatal(err)
	}
	// All that the agent has written so far, in every form that bytes are likely to have.
	var ints []string
	for _, b := range k {
		ints = append(ints, strconv.Itoa(int(b)))
	}
	quoted, err := json.Marshal(k[:])
	if err != nil {
		t.Fatal(err)
	}
	forms := [][]byte{k[:], []byte(hex.EncodeToString(k[:])), []byte(strings.Join(ints, ",")), []byte(strings.Join(ints, " ")), bytes.Trim(quoted, `"`)}
	err = filepath.WalkDir(a.cfg.StateDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if slices.ContainsFunc(forms, func(form []byte) bool { return bytes.Contains(b, form) }) {
			t.Errorf("%s holds the job's key", path)
		}
		return err
	})
	if err := errors.Join(err, r.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{plan, Open{JobKey: k}, Export{JobKey: k}, ImportOpen{JobKey: k}, Verification{JobKey: &k}} {
		text := fmt.Sprintf("%v %+v %#v", v, v, v)
		for _, form := range append(forms, fmt.Appendf(nil, "%#v", k[:4])[len("[]byte{"):len("[]byte{0x00, 0x00, 0x00")]) {
			if strings.Contains(text, string(form)) {
				t.Errorf("%T shows its key: %s", v, text)
			}
		}
	}
}

// TestStartRestoreRefusesPaths: what becomes a folder's name must be one.
func TestStartRestoreRefusesPaths(t *testing.T) {
	a, _ := newAgent(t)
	plan := restorePlan(images.Manifest{}, newKey(t))
	plan.Parts[0].Host = "../hostA"
	if _, err := a.StartRestore(plan); !fault.Is(err, fault.Usage) {
		t.Errorf("got %v", err)
	}
}
