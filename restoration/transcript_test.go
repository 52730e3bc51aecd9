package restoration

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
//	cluster A B … [old=C]     targets, of which the first decides, and a host without a part
//	begin [check]             the coordinator begins
//	run                       deliver all messages and end all actions, in the order in which they came up
//	deliver TYPE TO           deliver the first such message
//	lose TYPE TO              lose the first such message
//	done HOST, fail HOST WHY  end the host's action
//	problems HOST N           what the host's check is to find
//	hold HOST, go HOST        run leaves the host's actions alone, or no longer
//	cut A B, heal A B         what A sends to B is lost, or arrives again; C is the coordinator, when it is not a host
//	gone HOST, lost HOST      the line ends: the host notices, or the coordinator
//	tick MS                   that much time passes for everyone
//	crash HOST                the agent dies and is started again at once
//	kill HOST                 a person ends the job there
//	interrupt, dies           the coordinator's fate
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
	s := &stage{t: t, hosts: map[HostID]*Target{}, doing: map[HostID][]ActionType{}, entries: map[HostID]Entry{},
		problems: map[HostID]int{}, held: map[HostID]bool{}, cuts: map[[2]HostID]bool{}}
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
	t        *testing.T
	out      strings.Builder
	now      Millis
	targets  []HostID
	old      []HostID
	c        *Coordinator
	hosts    map[HostID]*Target
	doing    map[HostID][]ActionType
	entries  map[HostID]Entry
	problems map[HostID]int
	held     map[HostID]bool
	cuts     map[[2]HostID]bool
	queue    []Message
}

func (s *stage) names() []HostID { return slices.Concat(s.targets, s.old) }

func (s *stage) command(words []string) {
	arg := func(i int) string {
		if i >= len(words) {
			s.t.Fatalf("%v: too few words", words)
		}
		return words[i]
	}
	id := func(i int) HostID {
		if arg(i) == "C" && !slices.Contains(s.names(), "C") {
			return CoordinatorHost
		}
		return HostID(arg(i))
	}
	switch words[0] {
	case "cluster":
		s.cluster(words[1:])
	case "begin":
		s.begin(slices.Contains(words, "check"))
	case "run":
		s.run()
	case "deliver":
		s.deliver(s.take(arg(1), id(2)))
	case "lose":
		s.take(arg(1), id(2))
	case "done":
		s.end(id(1), "")
	case "fail":
		s.end(id(1), strings.Join(words[2:], " "))
	case "problems":
		s.problems[id(1)] = s.number(arg(2))
	case "hold", "go":
		s.held[id(1)] = words[0] == "hold"
	case "cut", "heal":
		s.cuts[[2]HostID{id(1), id(2)}] = words[0] == "cut"
	case "gone":
		s.host(id(1), Gone{})
	case "lost":
		s.coordinator(Lost{id(1), "connection reset"})
	case "kill":
		s.host(id(1), Overrule{"ssctl kill"})
	case "tick":
		s.now += Millis(s.number(arg(1)))
		s.coordinator(Tick{s.now})
		for _, id := range s.names() {
			s.host(id, Tick{s.now})
		}
	case "crash":
		s.crash(id(1))
	case "interrupt":
		s.coordinator(Interrupt{"interrupted"})
	case "dies":
		s.c = nil
		s.queue = slices.DeleteFunc(s.queue, func(m Message) bool { return m.To == CoordinatorHost })
	default:
		s.t.Fatalf("unknown command %q", words)
	}
}

func (s *stage) number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *stage) cluster(words []string) {
	for _, w := range words {
		if old, ok := strings.CutPrefix(w, "old="); ok {
			s.old = append(s.old, HostID(old))
		} else {
			s.targets = append(s.targets, HostID(w))
		}
	}
	for _, id := range s.names() {
		t, err := NewTarget(s.config(id))
		if err != nil {
			s.t.Fatal(err)
		}
		s.hosts[id] = &t
	}
}

func (s *stage) config(id HostID) Config {
	return Config{ID: "r1", Host: id, Targets: s.targets, Old: s.old, Retry: 1000}
}

func (s *stage) begin(check bool) {
	c, err := NewCoordinator(CoordinatorConfig{ID: "r1", Targets: s.targets, Old: s.old, CheckOnly: check, Retry: 1000, AskTimeout: 10000, AbortTimeout: 5000})
	if err != nil {
		s.t.Fatal(err)
	}
	s.c = &c
	s.coordinator(Begin{})
}

func (s *stage) coordinator(ev Event) {
	if s.c == nil || s.c.Stage() == StageOver {
		return
	}
	before := s.c.Stage()
	c, out, err := s.c.Step(ev)
	if err != nil {
		s.t.Fatal(err)
	}
	*s.c = c
	s.print("coordinator", before.String(), c.Stage().String(), out)
}

func (s *stage) host(id HostID, ev Event) {
	t := s.hosts[id]
	before := t.Phase()
	next, out, err := t.Step(ev)
	if err != nil {
		s.t.Fatal(err)
	}
	*t = next
	s.carryOut(id, before, out)
}

func (s *stage) carryOut(id HostID, before Phase, out Ready) {
	if out.Journal != nil {
		s.entries[id] = *out.Journal
	}
	for _, a := range out.Actions {
		switch a {
		case ActRelease:
			s.doing[id] = nil
		case ActStop:
			s.doing[id] = []ActionType{a}
		default:
			s.doing[id] = append(s.doing[id], a)
		}
	}
	s.print(string(id), before.String(), s.hosts[id].Phase().String(), out)
}

// print writes what a role did, if it did anything.
func (s *stage) print(who, before, after string, out Ready) {
	s.queue = append(s.queue, out.Messages...)
	var lines []string
	if out.Journal != nil {
		l := "journal " + out.Journal.Phase.String()
		if out.Journal.Told {
			l += ", told"
		}
		lines = append(lines, l)
	}
	for _, a := range out.Actions {
		lines = append(lines, "do "+a.String())
	}
	for _, m := range out.Messages {
		l := fmt.Sprintf("send %s to %s", messageText(m), orCoordinator(m.To))
		if m.Reason != "" {
			l += ": " + m.Reason
		}
		lines = append(lines, l)
	}
	if o := out.Outcome; o != nil {
		l := "outcome: " + o.Result.String()
		if o.Decided {
			l += ", decided"
		}
		if o.Cause != CauseNone {
			l += fmt.Sprintf(", %s, blame %q: %s", o.Cause, o.Blame, o.Reason)
		}
		if len(o.Unknown) > 0 {
			l += fmt.Sprintf("; unknown %v", o.Unknown)
		}
		lines = append(lines, l)
	}
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
		names := s.names()
		i := slices.IndexFunc(names, func(id HostID) bool { return len(s.doing[id]) > 0 && !s.held[id] })
		if i < 0 {
			return
		}
		s.end(names[i], "")
	}
}

func (s *stage) take(typ string, to HostID) Message {
	i := slices.IndexFunc(s.queue, func(m Message) bool { return m.Type.String() == typ && m.To == to })
	if i < 0 {
		s.t.Fatalf("no %s to %s is under way", typ, to)
	}
	m := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	return m
}

func (s *stage) deliver(m Message) {
	switch {
	case s.cuts[[2]HostID{m.From, m.To}]:
		fmt.Fprintf(&s.out, "  (%s from %s to %s is lost)\n", messageText(m), orCoordinator(m.From), orCoordinator(m.To))
	case m.To == CoordinatorHost:
		s.coordinator(Received{m})
	default:
		s.host(m.To, Received{m})
	}
}

// end ends the oldest action of a host, badly if there is a reason.
func (s *stage) end(id HostID, reason string) {
	if len(s.doing[id]) == 0 {
		s.t.Fatalf("%s does nothing", id)
	}
	a := s.doing[id][0]
	s.doing[id] = slices.Clone(s.doing[id][1:])
	if reason != "" {
		s.host(id, ActionFailed{Action: a, Reason: reason})
		return
	}
	s.host(id, map[ActionType]Event{ActCheck: CheckDone{s.problems[id]}, ActFetch: FetchDone{}, ActFence: FenceDone{},
		ActRestore: RestoreDone{}, ActResume: ResumeDone{}, ActStop: StopDone{}}[a])
}

func (s *stage) crash(id HostID) {
	s.doing[id] = nil
	fmt.Fprintf(&s.out, "  %s starts again\n", id)
	entry, ok := s.entries[id]
	if !ok {
		s.t.Fatalf("%s has nothing in its journal", id)
	}
	t, out, err := Recover(s.config(id), entry)
	if err != nil {
		s.t.Fatal(err)
	}
	t.now = s.now
	*s.hosts[id] = t
	s.carryOut(id, t.Phase(), out)
}
