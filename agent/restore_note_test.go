package agent

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ss/agent/custody/custodytest"
	"ss/restoration"
	"ss/store/images"
)

// TestNotesOfTheVersionBefore: a note that names its phase by a number is taken over. A host that had ended its members ends what is left; one that had not
// leaves, if it decides; one that had resumed is done.
func TestNotesOfTheVersionBefore(t *testing.T) {
	for state, want := range map[string]restoration.Phase{
		"1": restoration.Left, "2": restoration.Stopped, "5": restoration.PhaseUnknown,
	} {
		a := newAgent(t)
		if err := a.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(a.cfg.StateDir, "restore", "r1.json")
		note := `{"plan":{"ID":"r1","Key":{"Job":"job","Snapshot":"cut","Epoch":1},"Parts":null,"Moved":null,"Participants":[{"Host":"hostA","Endpoint":"","Addrs":null},{"Host":"hostB","Endpoint":"","Addrs":null}]},"state":` + state + `}`
		if err := os.WriteFile(path, []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := a.cfg
		cfg.Gates = openGates{}
		b, err := New(t.Context(), cfg)
		if err != nil {
			t.Fatalf("state %s: %v", state, err)
		}
		await(t, func() bool { return b.doubtful("job") == nil && len(b.goingOn()) == 0 })
		out, err := b.AnswerRestore(t.Context(), "job", restoration.Message{Type: restoration.MsgAsk, ID: "r1", From: "hostB"})
		if err != nil || out.Message.Phase != want {
			t.Errorf("state %s: it is %s, %v; want %s", state, out.Message.Phase, err, want)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("state %s: the note: %v", state, err)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHowARestoreEndedIsOnRecord: hosts that ask later are answered, by the next agent as well. Of a restore that it never heard of it says so.
func TestHowARestoreEndedIsOnRecord(t *testing.T) {
	a := newAgent(t)
	for i, phase := range []restoration.Phase{restoration.Whole, restoration.Stopped} {
		id := []string{"r1", "r2"}[i]
		if err := a.record("job", id, phase); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[restoration.ID]restoration.Phase{"r1": restoration.Whole, "r2": restoration.Stopped, "r3": restoration.PhaseUnknown} {
		out, err := a.AnswerRestore(t.Context(), "job", restoration.Message{Type: restoration.MsgAsk, ID: id, From: "hostB"})
		if err != nil || out.Message.Phase != want {
			t.Errorf("%s: %s, %v", id, out.Message.Phase, err)
		}
	}
	for range 3 * recordsKept {
		if err := a.record("job", "r9", restoration.Whole); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.recorded("job", "r1"); got != restoration.Whole {
		t.Errorf("one restore that is recorded often has pushed out the others: %s", got)
	}
}

// TestOnlyParticipantsMayAsk: what another host hears binds this one.
func TestOnlyParticipantsMayAsk(t *testing.T) {
	a := newAgent(t)
	startRestore(t, a.Agent, restorePlan(images.Manifest{}, custodytest.NewKey(t)))
	ask := restoration.Message{Type: restoration.MsgAsk, ID: "restore", From: "hostZ"}
	if _, err := a.AnswerRestore(t.Context(), "job", ask); err == nil {
		t.Error("a host that takes no part is answered")
	}
	abort := restoration.Message{Type: restoration.MsgAbort, ID: "restore", From: "hostA"}
	if _, err := a.AnswerRestore(t.Context(), "job", abort); err == nil {
		t.Error("a host gives orders")
	}
}

// await returns when done holds.
func await(t *testing.T, done func() bool) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatal("it does not come to its end")
		}
	}
}

// goingOn lists the restores that are under way.
func (a *Agent) goingOn() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.restores))
}
