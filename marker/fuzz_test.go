package marker

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

// script turns bytes into events, two bytes each, most of which do not fit the state that gets them.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

var fuzzHosts = []HostID{"A", "B", "C", CoordinatorHost, "stranger"}

// key mostly is the same.
func (s *script) key() Key {
	epoch := Epoch(1 + max(0, s.next()%32-29))
	return Key{Job: "job", Snapshot: SnapshotID(fmt.Sprintf("s%d", epoch)), Epoch: epoch}
}

func (s *script) message(to HostID) Message {
	m := Message{Type: MessageType(s.next() % 19), Key: s.key(), To: to}
	bits := s.next()
	m.From = fuzzHosts[bits%5]
	if m.Type <= MsgAbort && bits%16 > 0 {
		m.From = CoordinatorHost // or next to nothing would ever happen
	}
	if m.Type == MsgAbort && bits%4 > 0 {
		m.Type = MsgPrepare
	}
	switch m.Type {
	case MsgPrepare:
		m.Group, m.Participants, m.Initiator = newGroup(abc).digest, abc, fuzzHosts[bits%3]
		if bits&8 > 0 {
			m.Participants = nil
		}
		m.Stop, m.Lease, m.Settle = bits&4 > 0, Millis(bits), Millis(bits%16)
	case MsgRenew:
		m.Lease = Millis(bits)
	case MsgMarker:
		m.Channels = []string{"x>y"}[:bits%2]
	case MsgComplete:
		m.Ends = pairOf("A", "B", "a:1", "b:1")[:bits%3]
	}
	return m
}

// fit is an event that brings the participant on.
func (s *script) fit(p Participant) Event {
	key := p.Key()
	m := Message{Key: key, To: "A"}
	switch bits := s.next(); p.Phase() {
	case Idle:
		m.Type, m.Key = MsgPrepare, Key{Job: "job", Snapshot: "s", Epoch: p.Epoch() + 1}
		m.Group, m.Participants = newGroup(abc).digest, abc
		m.Initiator, m.Stop = fuzzHosts[bits%3], bits&4 > 0
		m.Lease, m.Settle = Millis(20+bits), Millis(bits%16)
	case Preparing:
		return PrepareDone{Key: key, Calm: s.next()%2 == 0}
	case Prepared:
		switch {
		case !p.a.holding && (!p.a.calm || bits&1 > 0):
			m.Type = MsgHold
		case !p.a.calm:
			return HoldDone{key}
		default:
			m.Type = MsgStart
		}
	case Recording:
		return RecordDone{key, map[HostID][]string{fuzzHosts[bits%3]: {"x>y"}}}
	case Settling:
		m.Type, m.From, m.Channels = MsgMarker, fuzzHosts[1+bits%2], []string{"x>y"}[:bits/2%2]
	case Dumping:
		if !p.a.captured && bits%3 == 0 {
			return Captured{key}
		}
		return DumpDone{Key: key, Ends: pairOf("A", "B", "a:1", "b:1")[:1]}
	case Storing:
		switch {
		case p.a.storing && !p.a.stored:
			return StoreDone{key}
		case bits%3 == 0:
			m.Type = MsgAllRecorded
		default:
			m.Type, m.From = MsgDumped, fuzzHosts[bits%3]
		}
	case Complete:
		m.Type = MsgCommit
	case Finishing:
		return FinishDone{key}
	case RollingBack:
		return RollbackDone{Key: key}
	}
	return Received{m}
}

func (s *script) participantEvent(p Participant, now *Millis) Event {
	switch s.next() % 25 {
	case 0:
		*now += Millis(s.next()%64 - 8)
		return Tick{*now}
	case 1:
		return PrepareDone{Key: s.key(), Calm: s.next()%2 == 0}
	case 2:
		peers := map[HostID][]string{}
		bits := s.next()
		for i, q := range fuzzHosts {
			if bits>>i&1 > 0 {
				peers[q] = []string{"x>y"}
			}
		}
		return RecordDone{s.key(), peers}
	case 3:
		return DumpDone{Key: s.key()}
	case 4:
		return StoreDone{s.key()}
	case 5:
		return RollbackDone{Key: s.key()}
	case 6:
		return FinishDone{s.key()}
	case 7:
		return ActionFailed{Key: s.key(), Action: ActionType(s.next() % 14), Reason: "no luck"}
	case 8:
		return Unreachable{Host: fuzzHosts[s.next()%5]}
	case 9:
		return CommitDone{}
	case 18:
		return Captured{s.key()}
	case 19:
		return Orphaned{s.key()}
	case 20:
		return Resolved{Snapshot: s.key().Snapshot, Committed: s.next()%2 == 0}
	case 10, 11, 12, 13, 14, 15, 16, 17:
		return s.fit(p)
	}
	return Received{s.message("A")}
}

// reply is a message that brings the coordinator on.
func (s *script) reply(c Coordinator) Event {
	id := fuzzHosts[s.next()%3]
	m := Message{Key: c.Key(), From: id, Type: MsgPrepared}
	switch c.Stage() {
	case StageNew:
		return Begin{}
	case StagePreparing:
		if c.HostPhase(id) == HostPrepared || s.next()%2 == 0 {
			m.Type = MsgCalm
		}
	case StageRunning:
		m.Type = MsgRecorded
		if c.HostPhase(id) == HostRecorded {
			m.Type = MsgComplete
		}
	case StageCommitting:
		return CommitDone{}
	case StageFinishing:
		m.Type = MsgDone
	case StageAborting:
		m.Type = MsgAborted
	}
	return Received{m}
}

func (s *script) coordinatorEvent(c Coordinator, now *Millis) Event {
	switch s.next() % 24 {
	case 0:
		*now += Millis(s.next()%64 - 8)
		return Tick{*now}
	case 1:
		return CommitDone{}
	case 2:
		return CommitFailed{"no luck"}
	case 3:
		if s.next()%16 == 0 {
			return Unreachable{Host: fuzzHosts[s.next()%5]}
		}
	case 7:
		if s.next()%32 == 0 {
			return LineLost{Host: fuzzHosts[s.next()%5]}
		}
	case 8:
		return Stores{Host: fuzzHosts[s.next()%5]}
	case 4:
		if s.next()%64 == 0 {
			return Interrupt{"no luck"}
		}
	case 5:
		return Begin{}
	case 6:
		return StoreDone{}
	case 10, 11, 12, 13, 14, 15, 16, 17:
		return s.reply(c)
	}
	return Received{s.message(CoordinatorHost)}
}

// hostModel is what a participant's actions make of its host.
type hostModel struct {
	frozen  bool
	closed  map[HostID]bool
	records map[Key]int
}

func (h *hostModel) act(t *testing.T, p Participant, a Action) {
	switch a.Type {
	case ActRecord:
		if h.records[a.Key]++; h.records[a.Key] > 1 {
			t.Fatalf("M2: a second record for %v", a.Key)
		}
		h.frozen = true
		for _, q := range fuzzHosts[:3] {
			h.closed[q] = true
		}
	case ActDump:
		if !h.frozen {
			t.Fatal("dumps what is not frozen")
		}
	case ActThaw:
		h.frozen = false
	case ActOpen:
		delete(h.closed, a.Peer)
	case ActOpenRest:
		for q := range h.closed {
			if _, channel := p.a.peers[q]; !channel && q != p.host {
				delete(h.closed, q)
			}
		}
	case ActRollback, ActRelease, ActFinish:
		if a.Type == ActFinish && a.Kill && !p.a.stop {
			t.Fatal("kills members that were to go on")
		}
		if a.Type == ActFinish && !a.Kill {
			return
		}
		h.frozen = false
		clear(h.closed)
	}
}

// playParticipant feeds a script to a participant, and restarts it now and then.
func playParticipant(t *testing.T, s script) {
	p := NewParticipant("A", "job", 0)
	host := hostModel{closed: map[HostID]bool{}, records: map[Key]int{}}
	var now Millis
	var entry Entry
	carryOut := func(out Ready) {
		if out.Journal != nil {
			entry = *out.Journal
		}
		for _, a := range out.Actions {
			host.act(t, p, a)
		}
	}
	for len(s) > 0 {
		if s.next() == 255 {
			host.frozen = false // the watcher and the kernel
			clear(host.closed)
			var out Ready
			p, out = Recover("A", "job", entry)
			carryOut(out)
			continue
		}
		ev := s.participantEvent(p, &now)
		before := fmt.Sprintf("%+v", p)
		next, out, err := p.Step(ev)
		if fmt.Sprintf("%+v", p) != before {
			t.Fatalf("%T changed the old state", ev)
		}
		if err != nil {
			if fmt.Sprintf("%+v", next) != before || !reflect.DeepEqual(out, Ready{}) {
				t.Fatalf("%T failed and changed something", ev)
			}
			if _, received := ev.(Received); received {
				t.Fatalf("a message is an error: %v", err)
			}
			continue
		}
		if next.Epoch() < p.Epoch() {
			t.Fatal("M12: the epoch goes back")
		}
		p = next
		carryOut(out)
		checkModel(t, p, &host)
	}
}

func checkModel(t *testing.T, p Participant, host *hostModel) {
	running := p.Phase() < Recording || p.Phase() == RollingBack || p.Phase() == Complete && (p.Released() || !p.a.stop)
	if running && (host.frozen || len(host.closed) > 0) {
		t.Fatalf("%s, frozen %v, closed %v", p.Phase(), host.frozen, host.closed)
	}
	if p.leased() && p.Deadline() == 0 {
		t.Fatalf("%s without a deadline", p.Phase())
	}
}

// whole is all that a coordinator holds, what is behind pointers included.
func whole(c Coordinator) string {
	text := fmt.Sprintf("%+v", c)
	for _, h := range c.hosts.all {
		text += fmt.Sprintf(" %+v %+v", h, h.report())
	}
	return text
}

// playCoordinator feeds a script to a coordinator.
func playCoordinator(t *testing.T, s script) {
	c := NewCoordinator(Config{Key: Key{Job: "job", Snapshot: "s1", Epoch: 1}, Participants: fuzzHosts[:3], Initiator: "B",
		Lease: 30, PrepareTimeout: 400, Standstill: 600, Timeout: 800, AbortTimeout: 100, FinishTimeout: 100})
	var now Millis
	complete := map[HostID]bool{}
	committed, outcomes := false, 0
	for len(s) > 0 {
		ev := s.coordinatorEvent(c, &now)
		before := whole(c)
		next, out, err := c.Step(ev)
		if whole(c) != before || err != nil && whole(next) != before {
			t.Fatalf("%T changed the old state", ev)
		}
		if err != nil {
			continue
		}
		c = next
		if r, ok := ev.(Received); ok && r.Message.Type == MsgComplete && r.Message.Key == c.Key() {
			complete[r.Message.From] = true
		}
		if _, ok := ev.(CommitDone); ok {
			committed = true
		}
		if out.Commit != nil && (!complete["A"] || !complete["B"] || !complete["C"]) {
			t.Fatal("M9: commits what is not complete")
		}
		for _, m := range out.Messages {
			if m.Type == MsgAbort && committed || m.Type == MsgCommit && !committed {
				t.Fatalf("M9: sends %s, committed: %v", m.Type, committed)
			}
		}
		if out.Outcome != nil {
			if outcomes++; outcomes > 1 || out.Outcome.Committed != committed {
				t.Fatalf("outcome %+v, the %d., committed: %v", *out.Outcome, outcomes, committed)
			}
		}
	}
}

// corpus is a number of random scripts, always the same.
func corpus(n int, f func(script)) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range n {
		s := make(script, 40+rng.IntN(400))
		for i := range s {
			s[i] = byte(rng.Uint32())
		}
		f(s)
	}
}

// FuzzParticipant: go test -fuzz FuzzParticipant -fuzztime 100000x ./marker
func FuzzParticipant(f *testing.F) {
	corpus(500, func(s script) { f.Add([]byte(s)) })
	f.Fuzz(func(t *testing.T, b []byte) { playParticipant(t, b) })
}

// FuzzCoordinator: go test -fuzz FuzzCoordinator -fuzztime 100000x ./marker
func FuzzCoordinator(f *testing.F) {
	corpus(500, func(s script) { f.Add([]byte(s)) })
	f.Fuzz(func(t *testing.T, b []byte) { playCoordinator(t, b) })
}
