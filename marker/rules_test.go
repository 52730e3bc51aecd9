package marker

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
)

// The tests of this file are named after the rules of docs/protocol.md.

var early = []Phase{Preparing, Prepared, Recording, Settling, Dumping, Storing}

func TestM1NoHostRecordsBeforeAllPrepared(t *testing.T) {
	c := begun(t, Config{})
	c.do(reply("A", MsgPrepared), reply("B", MsgPrepared), reply("A", MsgPrepared))
	if c.c.Stage() != StagePreparing {
		t.Fatalf("with C not prepared the coordinator is %s", c.c.Stage())
	}
	c.do(reply("C", MsgPrepared))
	if len(c.fresh.Messages) != 3 || c.fresh.Messages[0].Type != MsgHold {
		t.Errorf("when all are prepared it sends %v", c.fresh.Messages)
	}
	c.do(reply("B", MsgCalm), reply("C", MsgCalm), reply("B", MsgCalm))
	if c.c.Stage() != StagePreparing {
		t.Fatalf("with A not calm the coordinator is %s", c.c.Stage())
	}
	c.do(reply("A", MsgCalm))
	if len(c.fresh.Messages) != 1 || c.fresh.Messages[0].Type != MsgStart || c.fresh.Messages[0].To != "A" {
		t.Errorf("when all are calm it sends %v", c.fresh.Messages)
	}
	r := newRig(t).to(Preparing).do(from("B", MsgMarker))
	r.want("records before it is prepared", r.count(ActRecord), 0)
	r.do(PrepareDone{Key: key1})
	r.want("records before it holds handshakes", r.count(ActRecord), 0)
	r.do(HoldDone{key1})
	r.want("records when it does, for a Marker that came before", r.count(ActRecord), 1)
}

func TestM1aHoldsOnce(t *testing.T) {
	r := newRig(t).to(Prepared).do(from(CoordinatorHost, MsgHold), from(CoordinatorHost, MsgHold), from(CoordinatorHost, MsgRenew))
	r.want("holds", r.count(ActHold), 1)
	r.want("says that it is calm before it is", len(r.sent(MsgCalm)), 0)
	r.do(HoldDone{key1}, from(CoordinatorHost, MsgHold))
	r.want("holds", r.count(ActHold), 1)
	r.want("answers", r.sent(MsgCalm), []HostID{CoordinatorHost})
	r.do(from(CoordinatorHost, MsgRenew))
	r.want("says it again", len(r.sent(MsgCalm)), 2)
	r.want("records", r.count(ActRecord), 0)
	if _, _, err := r.p.Step(HoldDone{key1}); err == nil {
		t.Error("it can hold twice")
	}
	failed := newRig(t).to(Prepared).do(from(CoordinatorHost, MsgHold), ActionFailed{Key: key1, Action: ActHold, Reason: "unread bytes"})
	failed.want("refuses", failed.all.Messages[len(failed.all.Messages)-1].Cause, CauseRefused)
	failed.want("rolls back", failed.count(ActRollback), 1)
	// A Hold that was lost is made good.
	c := begun(t, Config{}).do(reply("A", MsgPrepared), reply("B", MsgPrepared), reply("C", MsgPrepared), reply("A", MsgCalm), Tick{40})
	var again []HostID
	for _, m := range c.fresh.Messages {
		if m.Type == MsgHold {
			again = append(again, m.To)
		}
	}
	if !reflect.DeepEqual(again, []HostID{"B", "C"}) {
		t.Errorf("it tells %v again", again)
	}
}

// TestM1aCalmWhenPrepared: where all hosts are calm when they are prepared, nobody is told to hold; where one is not, or the first was too long ago, all are.
func TestM1aCalmWhenPrepared(t *testing.T) {
	holds := func(c *coordinatorRig) (to []HostID) {
		for _, m := range c.fresh.Messages {
			if m.Type == MsgHold {
				to = append(to, m.To)
			}
		}
		return to
	}
	abc := []HostID{"A", "B", "C"}
	c := begun(t, Config{}).do(reply("A", MsgCalm), reply("B", MsgCalm), reply("C", MsgCalm))
	if len(holds(c)) > 0 || c.c.Stage() != StageRunning {
		t.Errorf("all are calm: it is %s and tells %v", c.c.Stage(), holds(c))
	}
	c = begun(t, Config{}).do(reply("A", MsgCalm), reply("B", MsgPrepared), reply("C", MsgCalm))
	if !reflect.DeepEqual(holds(c), abc) || c.c.Stage() != StagePreparing {
		t.Errorf("one is not calm: it is %s and tells %v", c.c.Stage(), holds(c))
	}
	c = begun(t, Config{}).do(reply("A", MsgCalm), Tick{staysCalm}, reply("B", MsgCalm), reply("C", MsgCalm))
	if len(holds(c)) > 0 {
		t.Errorf("within %d ms it tells %v", staysCalm, holds(c))
	}
	c = begun(t, Config{}).do(reply("A", MsgCalm), Tick{1 + staysCalm}, reply("B", MsgCalm), reply("C", MsgCalm))
	if !reflect.DeepEqual(holds(c), abc) || c.c.Stage() != StagePreparing {
		t.Errorf("after %d ms it is %s and tells %v", staysCalm, c.c.Stage(), holds(c))
	}
	c.do(reply("B", MsgCalm), reply("A", MsgCalm), reply("C", MsgCalm))
	if c.c.Stage() != StageRunning {
		t.Errorf("when all are calm again it is %s", c.c.Stage())
	}

	calm := PrepareDone{Key: key1, Calm: true}
	r := newRig(t).to(Preparing).do(calm)
	r.want("says that it is calm", r.sent(MsgCalm), []HostID{CoordinatorHost})
	r.do(from(CoordinatorHost, MsgHold), from(CoordinatorHost, MsgRenew))
	r.want("holds again when it is told", r.count(ActHold), 1)
	r.want("is calm meanwhile", len(r.sent(MsgCalm)), 1)
	r.do(from(CoordinatorHost, MsgStart))
	r.want("records meanwhile", r.count(ActRecord), 0)
	r.do(HoldDone{key1})
	r.want("records then", r.count(ActRecord), 1)
	r = newRig(t).to(Preparing).do(from("B", MsgMarker), calm)
	r.want("records at once for a Marker that came before", r.count(ActRecord), 1)
	r.want("holds", r.count(ActHold), 0)
}

func TestM2RecordsOnce(t *testing.T) {
	r := newRig(t).to(Prepared, initiator("B")).do(from(CoordinatorHost, MsgHold), HoldDone{key1})
	again := []Event{from(CoordinatorHost, MsgStart), from("B", MsgMarker), from("C", MsgMarker), prepare(key1)}
	for _, ev := range []Event{recordDone, DumpDone{Key: key1}, from("B", MsgDumped), StoreDone{key1}} {
		r.do(again...)
		r.do(ev)
	}
	r.do(from(CoordinatorHost, MsgAllRecorded)).do(again...).do(from(CoordinatorHost, MsgCommit)).do(again...)
	r.do(FinishDone{key1}).do(again...)
	r.want("records", r.count(ActRecord), 1)
	r.want("phase", r.p.Phase(), Idle)
}

func TestM3MarkersAfterTheRecordOnly(t *testing.T) {
	r := newRig(t).to(Recording)
	r.want("markers before the gates are closed", r.sent(MsgMarker), []HostID(nil))
	r.do(recordDone)
	r.want("markers of the initiator", r.sent(MsgMarker), []HostID{"B", "C"})
	r = newRig(t).to(Settling, initiator("B"))
	r.want("markers of another host", r.sent(MsgMarker), []HostID{"B"})
}

func TestM5DumpsWithoutWaitingForAnyoneLongerThanSettle(t *testing.T) {
	r := newRig(t).to(Settling).do(Tick{10})
	r.want("dumps before the settle time is over", r.count(ActDump), 0)
	r.want("deadline", r.p.Deadline(), Millis(11))
	r.do(Tick{11})
	r.want("dumps after it", r.count(ActDump), 1)
	alone := newRig(t).to(Recording).do(RecordDone{Key: key1})
	alone.want("dumps of a host without channels", alone.count(ActDump), 1)
}

func TestM5aNothingSettlesAfterTheSeal(t *testing.T) {
	r := newRig(t).to(Settling).do(Tick{11})
	r.do(from("B", MsgMarker))
	r.want("settles", r.count(ActSettle), 0)
	both := newRig(t).to(Settling).do(from("B", MsgMarker))
	both.want("work when the last marker is in", []ActionType{both.fresh.Actions[0].Type, both.fresh.Actions[1].Type}, []ActionType{ActSettle, ActDump})
}

func TestM5aOnlyConnectionsThatBothEndsListSettle(t *testing.T) {
	r := newRig(t).to(Settling)
	r.do(Received{Message{Type: MsgMarker, Key: key1, From: "B", To: "A"}})
	r.want("settles with a peer that lists no channel", r.count(ActSettle), 0)
	r = newRig(t).to(Settling)
	r.do(Received{Message{Type: MsgMarker, Key: key1, From: "C", To: "A", Channels: []string{"C:1>A:2"}}})
	r.want("settles with a peer with which this host lists none", r.count(ActSettle), 0)
	r.do(Tick{11}, DumpDone{Key: key1})
	r.want("the news that it waits for", r.sent(MsgDumped), []HostID{"B", "C"})
}

func TestM6GatesOpenWhenTheirPeerHasComeAsFar(t *testing.T) {
	r := newRig(t).to(Dumping).do(from("B", MsgDumped), from(CoordinatorHost, MsgAllRecorded))
	r.want("open before the own dump is finished", r.opened(), []HostID(nil))
	r.do(DumpDone{Key: key1})
	r.want("open after it", r.opened(), []HostID{"A", "B", "C"})

	r = newRig(t).to(Storing)
	r.want("open without news of others", r.opened(), []HostID{"A"})
	r.do(from(CoordinatorHost, MsgAllRecorded))
	r.want("open when all have recorded", r.opened(), []HostID{"A", "C"})
	r.do(from("B", MsgDumped))
	r.want("open when the peer has dumped, too", r.opened(), []HostID{"A", "C", "B"})
}

func TestM6GatesOpenOnceConnectionsAreCaptured(t *testing.T) {
	r := newRig(t).to(Dumping).do(from("B", MsgCaptured), Captured{key1})
	r.want("phase", r.p.Phase(), Dumping)
	r.want("open while memory is being dumped", r.opened(), []HostID{"A", "B"})
	r.want("news for the peer", r.sent(MsgCaptured), []HostID{"B"})
	r.do(from(CoordinatorHost, MsgAllRecorded))
	r.want("open when all have recorded", r.opened(), []HostID{"A", "B", "C"})
	r.want("thawed before the dump is finished", r.count(ActThaw), 0)
	r.do(DumpDone{Key: key1})
	r.want("thawed", r.count(ActThaw), 1)
	r.want("further news for the peer", r.sent(MsgDumped), []HostID{"B"})
	r.want("stores while the peer's members stand still", r.count(ActStore), 0)
	r.do(from("B", MsgDumped))
	r.want("stores then", r.count(ActStore), 1)
	r.do(StoreDone{key1})
	r.want("phase in the end", r.p.Phase(), Complete)

	// A rollback opens and thaws whatever is open already, and tells nobody of a dump any more.
	r = newRig(t).to(Dumping).do(Captured{key1}, ActionFailed{Key: key1, Action: ActDump, Reason: "no luck"})
	r.want("phase after a failure", r.p.Phase(), RollingBack)
	r.want("rolls back", r.count(ActRollback), 1)
}

func TestM9CompleteOnlyWhenNoGateIsNeeded(t *testing.T) {
	r := newRig(t).to(Storing).do(from("B", MsgDumped), StoreDone{key1})
	r.want("phase while C may not have recorded", r.p.Phase(), Storing)
	r.do(from(CoordinatorHost, MsgAllRecorded))
	r.want("phase then", r.p.Phase(), Complete)
	r.want("journal", r.fresh.Journal.Phase, Complete)
}

func TestM9CommitsOnlyWhatIsCompleteAndNeverAbortsAfter(t *testing.T) {
	c := begun(t, Config{}).prepared()
	c.do(reply("A", MsgComplete), reply("B", MsgComplete))
	if c.c.Stage() != StageRunning {
		t.Fatalf("with C not complete the coordinator is %s", c.c.Stage())
	}
	c.do(reply("C", MsgComplete))
	if c.fresh.Commit == nil {
		t.Fatal("no commit")
	}
	for _, ev := range []Event{Interrupt{"late"}, JobLost{"late"}, Unreachable{Host: "B"}, reply("B", MsgFailed), Tick{1 << 40}} {
		c.do(ev)
	}
	c.do(CommitDone{}).do(Interrupt{"late"}, JobLost{"late"}, Unreachable{Host: "B"}, reply("B", MsgFailed), reply("B", MsgAborted))
	if c.c.Stage() != StageFinishing {
		t.Errorf("after the commit the coordinator is %s", c.c.Stage())
	}
	c.do(reply("A", MsgDone), reply("C", MsgDone), Tick{1 << 41})
	if o := c.fresh.Outcome; o == nil || !o.Committed || !slices.Equal(o.Unknown, []HostID{"B"}) {
		t.Errorf("outcome %+v", o)
	}
}

func TestM10AbortInEveryPhaseReturnsToRunning(t *testing.T) {
	for _, phase := range append(early, Complete) {
		for _, stop := range []bool{false, true} {
			r := newRig(t).to(phase, func(m *Message) { m.Stop = stop })
			r.do(from(CoordinatorHost, MsgAbort), from(CoordinatorHost, MsgAbort))
			r.want(phase.String()+": rollbacks", r.count(ActRollback), 1)
			r.want(phase.String()+": acknowledged before it is done", len(r.sent(MsgAborted)), 0)
			r.do(RollbackDone{Key: key1, Err: "gate stuck"})
			r.want(phase.String()+": phase", r.p.Phase(), Idle)
			r.want(phase.String()+": answer", r.fresh.Messages[0].Reason, "gate stuck")
			r.do(from(CoordinatorHost, MsgAbort))
			r.want(phase.String()+": acknowledges again", len(r.sent(MsgAborted)), 2)
		}
	}
}

func TestM10AnyFailureRollsBack(t *testing.T) {
	for phase, action := range map[Phase]ActionType{Preparing: ActPrepare, Recording: ActRecord, Settling: ActSettle, Dumping: ActDump, Storing: ActStore} {
		r := newRig(t).to(phase).do(ActionFailed{Key: key1, Action: action, Reason: "no luck"})
		r.want(phase.String()+": rollbacks", r.count(ActRollback), 1)
		r.want(phase.String()+": failures told", len(r.sent(MsgFailed)), 1)
	}
	r := newRig(t).to(Complete).do(ActionFailed{Key: key1, Action: ActOpen, Reason: "no luck"})
	r.want("what is left when the host may not give up", r.count(ActRelease), 1)
	r = newRig(t).to(Finishing).do(ActionFailed{Key: key1, Action: ActFinish, Reason: "cgroup busy"})
	r.want("finish that fails: phase", r.p.Phase(), Idle)
	r.want("finish that fails: answer", r.fresh.Messages[0].Reason, "cgroup busy")
}

func TestM11LeaseEndsEveryPhase(t *testing.T) {
	for _, phase := range early {
		r := newRig(t).to(phase)
		r.do(Tick{50})
		if r.p.Phase() == Settling || r.p.Phase() == Dumping {
			r.want(phase.String()+": deadline", r.p.Deadline(), Millis(101))
		}
		r.do(from(CoordinatorHost, MsgRenew), Tick{149})
		r.want(phase.String()+": rollbacks before the end", r.count(ActRollback), 0)
		r.do(Tick{150})
		r.want(phase.String()+": rollbacks", r.count(ActRollback), 1)
		r.want(phase.String()+": failures told", len(r.sent(MsgFailed)), 1)
	}
}

func TestM11CompleteIsReleasedAndKeepsItsImages(t *testing.T) {
	for _, stop := range []bool{false, true} {
		r := newRig(t).to(Complete, func(m *Message) { m.Stop = stop }).do(Tick{101})
		r.want("releases", r.count(ActRelease), 1)
		r.want("rollbacks", r.count(ActRollback), 0)
		r.want("deadline", r.p.Deadline(), Millis(0))
		r.do(from(CoordinatorHost, MsgCommit))
		r.want("late commit kills", r.fresh.Actions, []Action{{Type: ActFinish, Key: key1}})
		r.do(FinishDone{key1})
		r.want("says that members run on", r.fresh.Messages[0].Reason != "", stop)
	}
	r := newRig(t).to(Complete).do(Tick{101}, from(CoordinatorHost, MsgAbort))
	r.want("late abort: rollbacks", r.count(ActRollback), 1)
	killed := newRig(t).to(Complete, stopping).do(from(CoordinatorHost, MsgCommit))
	killed.want("a commit in time kills", killed.fresh.Actions, []Action{{Type: ActFinish, Key: key1, Kill: true}})
}

func TestM12OldEpochsAndOtherAttemptsAreIgnored(t *testing.T) {
	for _, phase := range append([]Phase{Idle}, append(early, Complete, Finishing)...) {
		r := newRig(t)
		if phase != Idle {
			r.to(phase)
		}
		for _, epoch := range []Epoch{0, 2} {
			for m := MsgStart; m <= MsgCaptured; m++ {
				if m == MsgAbort {
					continue // is answered
				}
				for _, id := range []HostID{CoordinatorHost, "B", "stranger"} {
					before := r.p
					r.do(Received{Message{Type: m, Key: Key{Job: "job", Snapshot: "s", Epoch: epoch}, From: id, To: "A"}})
					if len(r.fresh.Actions) > 0 || !reflect.DeepEqual(before, r.p) {
						t.Errorf("%s: %s of epoch %d from %q changed something: %+v", phase, m, epoch, id, r.fresh)
					}
				}
			}
		}
	}
}

func TestM12AbortFencesItsEpoch(t *testing.T) {
	r := newRig(t).do(from(CoordinatorHost, MsgAbort))
	r.want("answer", r.sent(MsgAborted), []HostID{CoordinatorHost})
	r.want("journal", *r.fresh.Journal, Entry{Fence: 1})
	r.do(prepare(key1))
	r.want("refusal of a late Prepare", r.fresh.Messages[0].Cause, CauseStale)
	p, _ := Recover("A", "job", Entry{Fence: 1})
	r.p = p
	r.do(prepare(key1))
	r.want("refusal after a restart", r.fresh.Messages[0].Cause, CauseStale)
}

func TestM12NobodyIsRobbed(t *testing.T) {
	newer := Key{Job: "job", Snapshot: "s2", Epoch: 2}
	for _, phase := range append(early, Complete, Finishing) {
		r := newRig(t).to(phase).do(prepare(newer))
		r.want(phase.String()+": cause", r.fresh.Messages[0].Cause, CauseConflict)
		r.want(phase.String()+": phase", r.p.Phase(), phase)
	}
	r := newRig(t).to(Complete).do(Tick{101}, prepare(newer))
	r.want("takes the place of a released one", r.p.Key(), newer)
	r.want("in doubt", r.p.InDoubt(), []Key{key1})
	r.do(from(CoordinatorHost, MsgAbort))
	r.want("discards when it hears that there is no such cut", r.fresh.Actions, []Action{{Type: ActDiscard, Key: key1}})
	r.want("in doubt then", len(r.p.InDoubt()), 0)
}

func TestM11ACoordinatorThatHasLostTheJobAborts(t *testing.T) {
	for name, c := range map[string]*coordinatorRig{"preparing": begun(t, Config{}), "running": begun(t, Config{}).prepared()} {
		c.do(JobLost{"another has it"})
		aborts := 0
		for _, m := range c.fresh.Messages {
			if m.Type == MsgAbort {
				aborts++
			}
		}
		c.do(reply("A", MsgAborted), reply("B", MsgAborted), reply("C", MsgAborted))
		if out := c.fresh.Outcome; aborts != 3 || out == nil || out.Committed || out.Cause != CauseJobLost || out.Reason != "another has it" {
			t.Errorf("%s: %d aborts, %+v", name, aborts, c.fresh.Outcome)
		}
	}
}

// TestOnlyStandingStillIsLimited: once every host stores, or is complete, an attempt takes as long as it needs.
func TestOnlyStandingStillIsLimited(t *testing.T) {
	for name, tt := range map[string]struct {
		before []Event
		late   string // "": the attempt goes on
	}{
		"nobody stores":            {nil, "A, B, C"},
		"one does not":             {[]Event{Stores{"A"}, reply("C", MsgComplete)}, "B"},
		"a stranger stores":        {[]Event{Stores{"A"}, Stores{"B"}, Stores{"X"}}, "C"},
		"all store":                {[]Event{Stores{"C"}, Stores{"A"}, Stores{"B"}}, ""},
		"all but those at the end": {[]Event{Stores{"C"}, reply("A", MsgComplete), reply("B", MsgComplete)}, ""},
	} {
		c := begun(t, Config{Standstill: 100}).prepared().do(tt.before...).do(Tick{100})
		if c.c.Stage() != StageRunning {
			t.Errorf("%s: %s before the limit", name, c.c.Stage())
		}
		c.do(Tick{101})
		if aborts := c.c.Stage() == StageAborting; aborts != (tt.late != "") {
			t.Errorf("%s: %s", name, c.c.Stage())
			continue
		}
		if tt.late == "" {
			c.do(Tick{1 << 40})
			if c.c.Stage() != StageRunning || c.c.Deadline() > 1<<40+90 {
				t.Errorf("%s: %s, next at %d", name, c.c.Stage(), c.c.Deadline())
			}
			continue
		}
		if out := c.c.outcome; out.Cause != CauseTimeout || out.Blame != HostID(tt.late[:1]) || out.Reason != "the dump on "+tt.late+" is not finished after 100 ms" {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

func TestM12RepliesDoNotReviveAnAbortedAttempt(t *testing.T) {
	c := begun(t, Config{}).prepared().do(Interrupt{"stop"})
	for _, m := range []MessageType{MsgPrepared, MsgRecorded, MsgComplete, MsgDone} {
		c.do(reply("A", m), reply("B", m), reply("C", m))
		if c.c.Stage() != StageAborting || len(c.fresh.Messages) > 0 || c.fresh.Commit != nil {
			t.Errorf("%s: %s, %+v", m, c.c.Stage(), c.fresh)
		}
	}
}

func TestRecover(t *testing.T) {
	for phase, want := range map[Phase]ActionType{Preparing: ActRollback, Recording: ActRollback, RollingBack: ActRollback, Complete: ActRelease, Finishing: ActFinish} {
		p, out := Recover("A", "job", Entry{Key: key1, Phase: phase, Stop: true, Ends: []End{{Local: "x"}}})
		if len(out.Actions) != 1 || out.Actions[0].Type != want || out.Actions[0].Kill != (phase == Finishing) {
			t.Errorf("%s: %+v", phase, out.Actions)
		}
		if p.Epoch() != 1 || p.Key() != key1 {
			t.Errorf("%s: epoch %d, key %v", phase, p.Epoch(), p.Key())
		}
	}
	if p, out := Recover("A", "job", Entry{Key: key1, Phase: Idle}); p.Phase() != Idle || p.Epoch() != 1 || len(out.Actions)+len(out.Messages) > 0 {
		t.Errorf("idle: %s, %+v", p.Phase(), out)
	}
}

func TestImpossibleTransitionsAreErrors(t *testing.T) {
	r := newRig(t).to(Finishing).do(FinishDone{key1})
	for _, ev := range []Event{recordDone, PrepareDone{Key: Key{Job: "job", Epoch: 9}}, DumpDone{Key: Key{Job: "other"}}, Begin{}, nil} {
		before := r.p
		next, out, err := r.p.Step(ev)
		var wrong *TransitionError
		if !errors.As(err, &wrong) || !reflect.DeepEqual(next, before) || !reflect.DeepEqual(out, Ready{}) {
			t.Errorf("%T: %v, %+v", ev, err, out)
		}
	}
	r.do(StoreDone{Key{Job: "job", Snapshot: "s0"}}) // of an older attempt
	c := NewCoordinator(Config{Participants: []HostID{"A"}, Initiator: "B", Lease: 1})
	var config *ConfigError
	if _, _, err := c.Step(Begin{}); !errors.As(err, &config) {
		t.Errorf("bad config: %v", err)
	}
	for _, ev := range []Event{CommitDone{}, CommitFailed{}, PrepareDone{}} {
		if _, _, err := c.Step(ev); err == nil {
			t.Errorf("coordinator takes %T", ev)
		}
	}
}

// TestStatesBranch: two futures of one state do not see each other.
func TestStatesBranch(t *testing.T) {
	r := newRig(t).to(Storing)
	before := fmt.Sprintf("%+v", r.p)
	left, _, _ := r.p.Step(from("B", MsgDumped))
	right, out, _ := r.p.Step(from(CoordinatorHost, MsgAllRecorded))
	if fmt.Sprintf("%+v", r.p) != before {
		t.Error("Step changed the old state")
	}
	if len(out.Actions) != 1 || out.Actions[0].Type != ActOpenRest || reflect.DeepEqual(left, right) {
		t.Errorf("one future shows in the other: %+v", out)
	}
}
