package marker

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt with what the protocol does now")

// TestTranscripts plays the scenarios of testdata. A line that begins in the first column is a command,
// or with # a comment; indented lines are what the roles do about it. The commands:
//
//	cluster A B … [initiator=A] [lease=300] [settle=20] [stop] [outside=closed] [epoch=1]
//	connect A B [sent=0] [received=0] [acked=0] [unaccepted]   a connection, what A's end has sent
//	                          and B's received, and whether B's program has yet to accept it
//	calm HOST, restless HOST  from now on the host is calm when it is prepared, or not
//	begin                     a new attempt (the epoch is one higher each time)
//	run                       deliver all messages and end all actions, in the order in which they came up
//	deliver TYPE TO           deliver the first such message
//	done HOST, fail HOST WHY  end the host's long action; HOST commit is the catalogue's
//	captured HOST             the host's dump, which goes on, holds its connections
//	hold HOST, go HOST        run leaves the host's long actions alone, or no longer
//	lose TYPE TO              lose the first such message
//	repeat TYPE TO            deliver a second copy of the latest such message that was delivered or lost
//	cut HOST, heal HOST       the host's agent cannot be reached, or can again
//	tick MS                   that much time passes for everyone
//	crash HOST                the agent dies and is started again at once
//	interrupt, coordinator dies, resolve s1 committed|aborted
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s differs (rewrite it with -update, and read the difference); got:\n%s", file, got)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	s := &stage{t: t, held: map[HostID]bool{}, away: map[HostID]bool{}, calm: map[HostID]bool{}, hosts: map[HostID]*Participant{}, doing: map[HostID][]Action{}, entries: map[HostID]Entry{}}
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") {
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s.out.Reset()
		s.command(strings.Fields(line))
		out.WriteString(s.out.String())
	}
	return out.String()
}

// stage is where a scenario is played.
type stage struct {
	t       *testing.T
	out     strings.Builder
	now     Millis
	cfg     Config
	conns   [][2]End
	names   []HostID
	c       *Coordinator
	hosts   map[HostID]*Participant
	doing   map[HostID][]Action // long actions, oldest first
	entries map[HostID]Entry
	commits bool
	queue   []Message
	gone    []Message // delivered or lost
	held    map[HostID]bool
	away    map[HostID]bool
	calm    map[HostID]bool
}

func (s *stage) command(words []string) {
	arg := func(i int) string {
		if i >= len(words) {
			s.t.Fatalf("%v: too few words", words)
		}
		return words[i]
	}
	switch words[0] {
	case "cluster":
		s.cluster(words[1:])
	case "connect":
		s.connect(words[1:])
	case "begin":
		s.cfg.Key.Epoch++
		s.cfg.Key.Snapshot = SnapshotID(fmt.Sprintf("s%d", s.cfg.Key.Epoch))
		s.coordinate(NewCoordinator(s.cfg))
	case "resolve":
		cfg := s.cfg
		cfg.Key.Snapshot = SnapshotID(arg(1))
		cfg.Key.Epoch = Epoch(number([]string{"n=" + arg(1)[1:]}, "n", 0))
		s.coordinate(NewResolver(cfg, arg(2) == "committed"))
	case "run":
		s.run()
	case "deliver":
		s.deliver(s.take(arg(1), arg(2)))
	case "lose":
		s.gone = append(s.gone, s.take(arg(1), arg(2)))
	case "repeat":
		s.again(arg(1), arg(2))
	case "done":
		s.end(HostID(arg(1)), "")
	case "fail":
		s.end(HostID(arg(1)), strings.Join(words[2:], " "))
	case "captured":
		id := HostID(arg(1))
		s.host(id, Captured{s.hosts[id].Key()})
	case "hold", "go":
		s.held[HostID(arg(1))] = words[0] == "hold"
	case "calm", "restless":
		s.calm[HostID(arg(1))] = words[0] == "calm"
	case "cut", "heal":
		s.away[HostID(arg(1))] = words[0] == "cut"
	case "tick":
		ms, err := strconv.Atoi(arg(1))
		if err != nil {
			s.t.Fatal(err)
		}
		s.tick(Millis(ms))
	case "crash":
		s.crash(HostID(arg(1)))
	case "stranger":
		s.hosts[HostID(arg(1))].group = nil
	case "lineLost":
		s.coordinator(LineLost{Host: HostID(arg(1)), Reason: "connection reset"})
	case "orphan":
		id := HostID(arg(1))
		s.host(id, Orphaned{s.hosts[id].Key()})
	case "told":
		s.host(HostID(arg(1)), Resolved{Snapshot: SnapshotID(arg(2)), Committed: arg(3) == "committed"})
	case "interrupt":
		s.coordinator(Interrupt{"interrupted"})
	case "coordinator":
		s.c = nil
		s.commits = false
	default:
		s.t.Fatalf("unknown command %q", words)
	}
}

func number(words []string, key string, otherwise int) int {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			n, err := strconv.Atoi(v)
			if err == nil {
				return n
			}
		}
	}
	return otherwise
}

func (s *stage) cluster(words []string) {
	s.cfg = Config{Key: Key{Job: "job"}, Lease: Millis(number(words, "lease", 300)), Settle: Millis(number(words, "settle", 20)),
		PrepareTimeout: 1000, Timeout: 5000, AbortTimeout: 1000, FinishTimeout: 1000}
	for _, w := range words {
		v, initiator := strings.CutPrefix(w, "initiator=")
		switch {
		case initiator:
			s.cfg.Initiator = HostID(v)
		case w == "stop":
			s.cfg.Stop = true
		case w == "outside=closed":
			s.cfg.Outside = OutsideClosed
		case !strings.Contains(w, "="):
			p := NewParticipant(HostID(w), "job", 0)
			s.hosts[HostID(w)] = &p
			s.names = append(s.names, HostID(w))
		}
	}
	s.cfg.Participants = s.names
	known := newGroup(s.names) // from an earlier snapshot of the job
	for _, p := range s.hosts {
		p.group = known
	}
	if s.cfg.Initiator == "" {
		s.cfg.Initiator = s.names[0]
	}
}

func (s *stage) connect(words []string) {
	a, b := words[0], words[1]
	n := len(s.conns) + 1
	sent, received, acked := number(words, "sent", 0), number(words, "received", 0), number(words, "acked", 0)
	x := End{Host: HostID(a), Member: a + "-1", Local: fmt.Sprintf("%s:%d", a, 1000+n), Remote: b + ":80", SndUna: uint32(acked), WriteSeq: uint32(sent)}
	y := End{Host: HostID(b), Member: b + "-1", Local: b + ":80", Remote: x.Local, RcvNxt: uint32(received)}
	if slices.Contains(words, "unaccepted") {
		y = End{}
	}
	s.conns = append(s.conns, [2]End{x, y})
}

func (s *stage) coordinate(c Coordinator) {
	s.c = &c
	s.coordinator(Tick{s.now})
	s.coordinator(Begin{})
}

func (s *stage) coordinator(ev Event) {
	if s.c == nil {
		return
	}
	before := s.c.Stage()
	c, out, err := s.c.Step(ev)
	if err != nil {
		s.t.Fatal(err)
	}
	*s.c = c
	s.commits = s.commits || out.Commit != nil
	s.print("coordinator", before.String(), c.Stage().String(), out)
}

func (s *stage) host(id HostID, ev Event) {
	p := s.hosts[id]
	before := p.Phase()
	next, out, err := p.Step(ev)
	if err != nil {
		s.t.Fatal(err)
	}
	*p = next
	s.carryOut(id, before, out)
}

func (s *stage) carryOut(id HostID, before Phase, out Ready) {
	if out.Journal != nil {
		s.entries[id] = *out.Journal
	}
	for _, a := range out.Actions {
		switch a.Type {
		case ActRollback:
			s.doing[id] = []Action{a}
		case ActPrepare, ActHold, ActRecord, ActDump, ActStore, ActFinish:
			s.doing[id] = append(s.doing[id], a)
		}
	}
	s.print(string(id), before.String(), s.hosts[id].Phase().String(), out)
}

// print writes what a role did, if it did anything.
func (s *stage) print(who, before, after string, out Ready) {
	s.queue = append(s.queue, out.Messages...)
	lines := readyLines(out)
	switch {
	case before != after:
		fmt.Fprintf(&s.out, "  %s: %s -> %s\n", who, before, after)
	case len(lines) > 0:
		fmt.Fprintf(&s.out, "  %s: %s\n", who, after)
	}
	for _, l := range lines {
		fmt.Fprintf(&s.out, "      %s\n", l)
	}
}

func readyLines(out Ready) []string {
	var lines []string
	if j := out.Journal; j != nil {
		l := fmt.Sprintf("journal %s, %s, epoch %d", j.Phase, j.Key.Snapshot, j.Key.Epoch)
		if j.Fence > 0 {
			l += fmt.Sprintf(", fence %d", j.Fence)
		}
		for _, k := range j.Doubt {
			l += fmt.Sprintf(", %s in doubt", k.Snapshot)
		}
		lines = append(lines, l)
	}
	for _, a := range out.Actions {
		l := "do " + a.Type.String()
		if a.Peer != "" {
			l += " toward " + string(a.Peer)
		}
		if a.Kill {
			l += " and kill"
		}
		if a.Reason != "" {
			l += " (" + a.Reason + ")"
		}
		lines = append(lines, l)
	}
	for _, m := range out.Messages {
		lines = append(lines, messageLine(m))
	}
	if c := out.Commit; c != nil {
		lines = append(lines, fmt.Sprintf("commit %s: %d channels, %d outside", c.Key.Snapshot, len(c.Channels), len(c.Outside)))
		for _, ch := range c.Channels {
			lines = append(lines, fmt.Sprintf("  %s -> %s: %d bytes in transit", ch.FromAddr, ch.ToAddr, ch.InTransit))
		}
	}
	if o := out.Outcome; o != nil {
		l := fmt.Sprintf("outcome: committed=%v", o.Committed)
		if !o.Committed {
			l += fmt.Sprintf(", %s, blame %q: %s", o.Cause, o.Blame, o.Reason)
		}
		lines = append(lines, fmt.Sprintf("%s; unknown %v; notes %q", l, o.Unknown, o.Notes))
	}
	return lines
}

func messageLine(m Message) string {
	l := fmt.Sprintf("send %s(%s) to %s", m.Type, m.Key.Snapshot, orCoordinator(m.To))
	switch {
	case m.Type == MsgMarker:
		l += fmt.Sprintf(" %v", m.Channels)
	case m.Type == MsgComplete:
		l += fmt.Sprintf(", %d ends", len(m.Ends))
	case m.Cause != CauseNone:
		l += fmt.Sprintf(": %s: %s", m.Cause, m.Reason)
	case m.Reason != "":
		l += ": " + m.Reason
	}
	return l
}

func orCoordinator(id HostID) string {
	if id == CoordinatorHost {
		return "coordinator"
	}
	return string(id)
}

func (s *stage) run() {
	for {
		if len(s.queue) > 0 {
			m := s.queue[0]
			s.queue = s.queue[1:]
			s.deliver(m)
			continue
		}
		if s.commits && !s.held["commit"] {
			s.end("commit", "")
			continue
		}
		i := slices.IndexFunc(s.names, func(id HostID) bool { return len(s.doing[id]) > 0 && !s.held[id] })
		if i < 0 {
			return
		}
		s.end(s.names[i], "")
	}
}

func (s *stage) take(typ, to string) Message {
	i := slices.IndexFunc(s.queue, func(m Message) bool { return m.Type.String() == typ && orCoordinator(m.To) == to })
	if i < 0 {
		s.t.Fatalf("no %s to %s is under way", typ, to)
	}
	m := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	return m
}

func (s *stage) deliver(m Message) {
	s.gone = append(s.gone, m)
	switch {
	case m.To == CoordinatorHost && s.away[m.From]:
		return
	case m.To == CoordinatorHost:
		s.coordinator(Received{m})
	case s.away[m.To] || s.away[m.From]:
		ev := Unreachable{Host: m.To, Reason: "connection refused"}
		if m.From == CoordinatorHost {
			s.coordinator(ev)
		} else {
			s.host(m.From, ev)
		}
	default:
		s.host(m.To, Received{m})
	}
}

func (s *stage) again(typ, to string) {
	for _, m := range slices.Backward(s.gone) {
		if m.Type.String() == typ && orCoordinator(m.To) == to {
			s.deliver(m)
			return
		}
	}
	s.t.Fatalf("there was no %s to %s", typ, to)
}

// end ends the oldest long action of a host, badly if there is a reason.
func (s *stage) end(id HostID, reason string) {
	if id == "commit" {
		s.commits = false
		if reason != "" {
			s.coordinator(CommitFailed{reason})
		} else {
			s.coordinator(CommitDone{})
		}
		return
	}
	if len(s.doing[id]) == 0 {
		s.t.Fatalf("%s does nothing", id)
	}
	a := s.doing[id][0]
	s.doing[id] = slices.Clone(s.doing[id][1:])
	if reason != "" {
		s.host(id, ActionFailed{Key: a.Key, Action: a.Type, Reason: reason})
		return
	}
	s.host(id, s.ending(id, a))
}

func (s *stage) ending(id HostID, a Action) Event {
	peers := map[HostID][]string{}
	var ends []End
	for _, c := range s.conns {
		for _, e := range c {
			if e.Host == id {
				q := HostID(strings.Split(e.Remote, ":")[0])
				peers[q] = append(peers[q], e.Local+">"+e.Remote)
				ends = append(ends, e)
			}
		}
	}
	switch a.Type {
	case ActPrepare:
		return PrepareDone{Key: a.Key, Calm: s.calm[id]}
	case ActHold:
		return HoldDone{a.Key}
	case ActRecord:
		return RecordDone{Key: a.Key, Peers: peers}
	case ActDump:
		return DumpDone{Key: a.Key, Ends: ends}
	case ActStore:
		return StoreDone{a.Key}
	case ActRollback:
		return RollbackDone{Key: a.Key}
	}
	return FinishDone{a.Key}
}

func (s *stage) tick(ms Millis) {
	s.now += ms
	s.coordinator(Tick{s.now})
	for _, id := range s.names {
		s.host(id, Tick{s.now})
	}
}

func (s *stage) crash(id HostID) {
	p, out := Recover(id, "job", s.entries[id])
	*s.hosts[id] = p
	s.doing[id] = nil
	fmt.Fprintf(&s.out, "  %s starts again\n", id)
	s.carryOut(id, p.Phase(), out)
}
