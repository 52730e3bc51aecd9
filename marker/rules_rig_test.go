package marker

import (
	"reflect"
	"testing"
)

var key1 = Key{Job: "job", Snapshot: "s1", Epoch: 1}

// rig drives one participant, host A of the participants A, B and C. A shares a channel with B.
type rig struct {
	t     *testing.T
	p     Participant
	all   Ready // everything that it ever asked for
	fresh Ready // of the latest event
}

// abc is the participants of these tests.
var abc = []HostID{"A", "B", "C"}

func newRig(t *testing.T) *rig { return &rig{t: t, p: NewParticipant("A", "job", 0)} }

func (r *rig) do(events ...Event) *rig {
	r.t.Helper()
	for _, ev := range events {
		next, out, err := r.p.Step(ev)
		if err != nil {
			r.t.Fatal(err)
		}
		r.p, r.fresh = next, out
		r.all.Actions = append(r.all.Actions, out.Actions...)
		r.all.Messages = append(r.all.Messages, out.Messages...)
	}
	return r
}

func prepare(key Key, more ...func(*Message)) Received {
	m := Message{Type: MsgPrepare, Key: key, To: "A", Group: newGroup(abc).digest, Participants: abc, Initiator: "A", Lease: 100, Settle: 10}
	for _, f := range more {
		f(&m)
	}
	return Received{m}
}

func stopping(m *Message) { m.Stop = true }

func initiator(id HostID) func(*Message) { return func(m *Message) { m.Initiator = id } }

func from(id HostID, t MessageType) Received {
	m := Message{Type: t, Key: key1, From: id, To: "A"}
	if t == MsgMarker && id == "B" {
		m.Channels = []string{"B:1>A:1"}
	}
	if t == MsgRenew {
		m.Lease = 100
	}
	return Received{m}
}

var recordDone = RecordDone{Key: key1, Peers: map[HostID][]string{"B": {"A:1>B:1"}}}

// to brings the participant to a phase by the shortest way.
func (r *rig) to(phase Phase, more ...func(*Message)) *rig {
	r.t.Helper()
	way := []struct {
		phase  Phase
		events []Event
	}{
		{Preparing, []Event{Tick{1}, prepare(key1, more...)}},
		{Prepared, []Event{PrepareDone{Key: key1}}},
		{Recording, []Event{from(CoordinatorHost, MsgHold), HoldDone{key1}, from(CoordinatorHost, MsgStart)}},
		{Settling, []Event{recordDone}},
		{Dumping, []Event{from("B", MsgMarker)}},
		{Storing, []Event{DumpDone{Key: key1}}},
		{Complete, []Event{from("B", MsgDumped), from(CoordinatorHost, MsgAllRecorded), StoreDone{key1}}},
		{Finishing, []Event{from(CoordinatorHost, MsgCommit)}},
	}
	for _, w := range way {
		if w.phase <= phase {
			r.do(w.events...)
		}
	}
	if r.p.Phase() != phase {
		r.t.Fatalf("is %s, not %s", r.p.Phase(), phase)
	}
	return r
}

func (r *rig) count(a ActionType) (n int) {
	for _, x := range r.all.Actions {
		if x.Type == a {
			n++
		}
	}
	return n
}

func (r *rig) sent(m MessageType) (to []HostID) {
	for _, x := range r.all.Messages {
		if x.Type == m {
			to = append(to, x.To)
		}
	}
	return to
}

func (r *rig) opened() (peers []HostID) {
	for _, x := range r.all.Actions {
		if x.Type == ActOpenRest {
			peers = append(peers, "C") // the only one without a channel
		}
		if x.Type == ActOpen {
			peers = append(peers, x.Peer)
		}
	}
	return peers
}

func (r *rig) want(what string, got, want any) {
	r.t.Helper()
	if !reflect.DeepEqual(got, want) {
		r.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// coordinatorRig drives a coordinator of A, B and C.
type coordinatorRig struct {
	t     *testing.T
	c     Coordinator
	fresh Ready
}

func begun(t *testing.T, cfg Config) *coordinatorRig {
	cfg.Key, cfg.Participants, cfg.Initiator, cfg.Lease = key1, []HostID{"C", "A", "B"}, "A", 90
	cfg.AbortTimeout, cfg.FinishTimeout = 500, 500
	r := &coordinatorRig{t: t, c: NewCoordinator(cfg)}
	return r.do(Tick{1}, Begin{})
}

func (r *coordinatorRig) do(events ...Event) *coordinatorRig {
	r.t.Helper()
	for _, ev := range events {
		next, out, err := r.c.Step(ev)
		if err != nil {
			r.t.Fatal(err)
		}
		r.c, r.fresh = next, out
	}
	return r
}

func (r *coordinatorRig) prepared() *coordinatorRig {
	r.do(reply("A", MsgPrepared), reply("B", MsgPrepared), reply("C", MsgPrepared))
	return r.do(reply("A", MsgCalm), reply("B", MsgCalm), reply("C", MsgCalm))
}

func reply(id HostID, t MessageType) Received {
	return Received{Message{Type: t, Key: key1, From: id, To: CoordinatorHost}}
}
