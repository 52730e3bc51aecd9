package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/marker"
	"ss/restoration"
)

// The files in testdata/94ec08b were left by an agent of that version that was killed in a phase of a snapshot or a restore (`make upgrade` makes such
// and more, with the programs themselves), that in testdata/6a13c9d is of the version after it.

// TestOldJournals: the journals of agents that wrote phases as numbers are read, with all that they say.
func TestOldJournals(t *testing.T) {
	end := marker.End{Host: "hostB", Member: "hostB-1", Local: "10.77.0.2:9001", Remote: "10.77.0.1:57784",
		SndUna: 2152256823, WriteSeq: 2156425743, RcvNxt: 727287101, Unsent: 1888192}
	key := func(id string, epoch marker.Epoch) marker.Key {
		return marker.Key{Job: "words", Snapshot: marker.SnapshotID(id), Epoch: epoch}
	}
	for path, want := range map[string]marker.Entry{
		"94ec08b/journal/preparing.json": {Key: key("20261126-204709-6eb6", 2), Phase: marker.Preparing},
		"94ec08b/journal/dumping.json":   {Key: key("20261126-204733-1h6a", 2), Phase: marker.Recording},
		"94ec08b/journal/finishing.json": {Key: key("20261126-204757-ck0e", 2), Phase: marker.Complete, Ends: []marker.End{end}},
		"94ec08b/journal/stop.json":      {Key: key("20261126-204811-jf6e", 2), Phase: marker.Finishing, Stop: true},
		"6a13c9d/journal/words.json": {Key: key("20261126-204757-ck0e", 2), Phase: marker.Complete, Ends: []marker.End{end},
			Doubt: []marker.Key{key("20261126-204700-aaaa", 1)}},
	} {
		got, err := readJournal(filepath.Join("testdata", path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if a, b := toText(t, got), toText(t, want); a != b {
			t.Errorf("%s: %s, want %s", path, a, b)
		}
		// Written again it has names, and says the same.
		j := journal{dir: t.TempDir()}
		if err := j.put(got); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(j.path("words"))
		if err != nil || !strings.Contains(string(data), `"phase":"`+got.Phase.String()+`"`) {
			t.Errorf("%s is written again as %s (%v)", path, data, err)
		}
		again, bad, err := j.load()
		if err != nil || len(bad) > 0 || toText(t, again["words"]) != toText(t, got) {
			t.Errorf("%s is read again as %+v, %v, %v", path, again, bad, err)
		}
	}
}

func toText(t *testing.T, e marker.Entry) string {
	t.Helper()
	j, ok := toJournal(e).entry()
	if !ok {
		t.Fatalf("phase %v has no name", e.Phase)
	}
	return strings.Join([]string{string(j.Key.Job), string(j.Key.Snapshot), j.Phase.String(), fmt.Sprint(j.Key.Epoch, j.Stop, j.Fence, j.Ends, j.Doubt)}, " ")
}

// TestUnknownPhaseInJournal: a phase that this program does not know is damage, and never taken for another one.
func TestUnknownPhaseInJournal(t *testing.T) {
	for _, e := range []marker.Entry{{Key: marker.Key{Job: "words"}, Phase: 10}, {Key: marker.Key{Job: "words"}, Phase: -1}} {
		j := journal{dir: t.TempDir()}
		if err := j.put(e); err != nil {
			t.Fatal(err)
		}
		if got, bad, err := j.load(); err != nil || len(got) != 0 || bad["words"] == nil {
			t.Errorf("phase %d: %v, %v, %v", e.Phase, got, bad, err)
		}
	}
}

// TestOldStateFolder starts an agent in a folder with the files of one that died within a restore, and within a snapshot.
func TestOldStateFolder(t *testing.T) {
	for name, want := range map[string]restoration.Phase{
		"20261126-204837-342b": restoration.Left,    // it was armed: nothing was ended here
		"20261126-204847-0gae": restoration.Stopped, // it had ended its members
		"20261126-204859-1fjq": restoration.Stopped,
	} {
		a := newAgent(t)
		shut(t, a)
		for from, to := range map[string]string{"restore/" + name + ".json": "restore/" + name + ".json", "journal/preparing.json": "journal/words.json"} {
			data, err := os.ReadFile(filepath.Join("testdata/94ec08b", from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a.cfg.StateDir, to), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg := a.cfg
		cfg.Host, cfg.Gates = "hostA", openGates{}
		b := restart(t, cfg)
		await(t, func() bool { return b.doubtful("words") == nil && len(b.goingOn()) == 0 })
		out, err := b.AnswerRestore(t.Context(), "words", restoration.Message{Type: restoration.MsgAsk, ID: restoration.ID(name), From: "hostB"})
		if err != nil || out.Message.Phase != want {
			t.Errorf("%s: it is %s, %v; want %s", name, out.Message.Phase, err, want)
		}
		e, err := readJournal(b.journal.path("words"))
		if err != nil || e.Phase != marker.Idle || e.Key.Epoch != 2 {
			t.Errorf("%s: the attempt that was under way: %+v, %v", name, e, err)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}
