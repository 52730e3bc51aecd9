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

	"ss/agent/custody"
	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store/images"
	"ss/store/keys"
)

// AskRestore answers nobody's questions.
func (peers) AskRestore(context.Context, custody.Peer, string, restoration.Message) (restoration.Message, error) {
	return restoration.Message{}, errors.New("no such host")
}

// startRestore opens a line whose host is to let go of the job at the end of the test.
func startRestore(t *testing.T, a *Agent, plan RestorePlan) *RestoreLine {
	t.Helper()
	l, err := a.StartRestore(plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Hangup(context.Background()) })
	return l
}

// order gives an order and returns the report of a phase that it leads to.
func order(t *testing.T, l *RestoreLine, m restoration.MessageType, until ...restoration.Phase) RestoreOut {
	t.Helper()
	l.Receive(restoration.Message{Type: m})
	for {
		select {
		case <-l.Wake():
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		for _, o := range l.Take() {
			if slices.Contains(until, o.Message.Phase) {
				return o
			}
		}
	}
}

func restorePlan(man images.Manifest, k keys.Job, sources ...string) RestorePlan {
	return RestorePlan{
		ID: "restore", Key: marker.Key{Job: "job", Snapshot: "cut", Epoch: 1},
		Parts: []RestorePart{{
			Snapshot: "cut", Host: "hostA", Digest: man.Digest, JobKey: k, Members: []Member{{Job: "job", Name: "hostA-1"}}, Sources: peersOf(sources...),
		}},
		Participants: participants("hostA"), Targets: 1,
	}
}

// TestPartOfAnotherSnapshot: a part is fetched by its own identity and under its own key, whatever cut it is restored with.
func TestPartOfAnotherSnapshot(t *testing.T) {
	a := newAgent(t)
	k, older := custodytest.NewKey(t), custodytest.NewKey(t)
	custodytest.Seal(t, a.images, aKey, k) // of the same host, in the plan's own snapshot
	man := custodytest.Seal(t, a.images, images.Key{Job: "job", Snapshot: "older", Host: "hostA"}, older)
	plan := restorePlan(man, older, "hostA")
	plan.Parts[0].Snapshot = "older"
	l := startRestore(t, a.Agent, plan)
	if o := order(t, l, restoration.MsgCheck, restoration.Checked, restoration.Left); o.Failure != nil || len(o.Problems) != 0 {
		t.Fatalf("check: %+v", o)
	}
	if o := order(t, l, restoration.MsgFetch, restoration.Armed, restoration.Left); o.Failure != nil {
		t.Fatalf("fetch: %+v", o)
	}
	for path, want := range custodytest.Files() {
		got, err := os.ReadFile(filepath.Join(l.r.unpacked("hostA"), path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	// Under the key of the other snapshot it is refused.
	plan.ID, plan.Parts = "another", slices.Clone(plan.Parts)
	plan.Parts[0].JobKey = k
	l.Hangup(t.Context())
	l = startRestore(t, a.Agent, plan)
	order(t, l, restoration.MsgCheck, restoration.Checked, restoration.Left)
	if o := order(t, l, restoration.MsgFetch, restoration.Armed, restoration.Left); o.Failure == nil {
		t.Error("it was opened with another snapshot's key")
	}
}

// TestFetchHealsAndSaysSo: what is damaged here comes from another copy, and whoever restores reads of it.
func TestFetchHealsAndSaysSo(t *testing.T) {
	a := newAgent(t, "hostB", "hostC")
	others := a.others
	k := custodytest.NewKey(t)
	info := images.Info{Epoch: 1, Meta: []byte(custodytest.Meta), JobKey: k}
	sealed, err := a.cfg.Images.Copy(aKey, peersOf("hostB", "hostC"), 2, nil).Store(t.Context(), custodytest.Stage(t, a.images, aKey), info)
	if err != nil {
		t.Fatal(err)
	}
	man := sealed.Manifest
	custodytest.Corrupt(t, a.imageDir, "job", man.Packs[0].Digest)
	// Of the first copy, too: the other one is left.
	custodytest.Corrupt(t, filepath.Join(filepath.Dir(a.cfg.StateDir), "hostB", "images"), "job", man.Packs[0].Digest)
	l := startRestore(t, a.Agent, restorePlan(man, k, "hostA", "hostB", "hostC"))
	if o := order(t, l, restoration.MsgCheck, restoration.Checked, restoration.Left); o.Failure != nil || len(o.Problems) != 0 {
		t.Fatalf("check: %+v", o)
	}
	o := order(t, l, restoration.MsgFetch, restoration.Armed, restoration.Left)
	if o.Failure != nil || len(o.Notices) != 1 || !strings.Contains(o.Notices[0], man.Packs[0].Digest[:12]) {
		t.Fatalf("fetch: %+v", o)
	}
	r := l.r
	for path, want := range custodytest.Files() {
		got, err := os.ReadFile(filepath.Join(r.unpacked("hostA"), path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	if len(r.members) != 1 || r.members[0].member.Name != "hostA-1" {
		t.Errorf("members %+v", r.members)
	}
	l.Hangup(t.Context())
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work folder is left: %v", err)
	}
	// The test's end checks every store, and hostB's was left damaged on purpose.
	if _, err := others.Stores["hostB"].Fetch(t.Context(), aKey, man.Digest, true, []images.Source{{Name: "hostA", Reader: a.images.ForPeers()}}); err != nil {
		t.Fatal(err)
	}
}

// TestFetchWithoutAWholeCopy names what is wrong, and touches nothing.
func TestFetchWithoutAWholeCopy(t *testing.T) {
	a := newAgent(t)
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, a.images, aKey, k)
	custodytest.Corrupt(t, a.imageDir, "job", man.Packs[0].Digest)
	l := startRestore(t, a.Agent, restorePlan(man, k, "hostA"))
	order(t, l, restoration.MsgCheck, restoration.Checked, restoration.Left)
	o := order(t, l, restoration.MsgFetch, restoration.Armed, restoration.Left)
	if !fault.Is(o.Failure, fault.Integrity) || !strings.Contains(o.Failure.Error(), man.Packs[0].Digest[:12]) {
		t.Errorf("fetch: %+v", o)
	}
	// The host has left the restore. It says so again, or has nobody left that could hear the order.
	l.Receive(restoration.Message{Type: restoration.MsgFence})
	<-l.r.done
	for _, o := range l.Take() {
		if o.Message.Phase != restoration.Left {
			t.Errorf("fence: %+v", o)
		}
	}
}

// TestTheKeyIsWrittenNowhere: not in the note of a restore, not in the journal, in no form that a key has or shows.
func TestTheKeyIsWrittenNowhere(t *testing.T) {
	a := newAgent(t)
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, a.images, aKey, k)
	plan := restorePlan(man, k, "hostA")
	l := startRestore(t, a.Agent, plan)
	r := l.r
	order(t, l, restoration.MsgCheck, restoration.Checked)
	order(t, l, restoration.MsgFetch, restoration.Armed)
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
	if err := err; err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{plan, Open{JobKey: k}, custody.ExportOptions{JobKey: k}, custody.ImportOpen{JobKey: k}, custody.Verification{JobKey: &k}} {
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
	a := newAgent(t)
	plan := restorePlan(images.Manifest{}, custodytest.NewKey(t))
	plan.Parts[0].Host = "../hostA"
	if _, err := a.StartRestore(plan); !fault.Is(err, fault.Usage) {
		t.Errorf("got %v", err)
	}
}
