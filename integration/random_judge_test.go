package integration

import (
	"fmt"
	"slices"
	"strings"
)

// The judge says from a job's specification alone which cuts and which moves are to be refused. It knows nothing of how they are
// refused, and is meant to be obviously right: it confirms that every refusal is one that is documented (docs/limits.md), and finds those that are missing.

// unrecordable are the kinds that no cut can hold, and a word that the refusal has.
var unrecordable = map[string]string{
	"uring": "io_uring",
	"mptcp": "multipath TCP",
}

// cutWords are the words that a refusal of a cut may have, one of them at least; none if the cut is to be taken.
func (j *randomJob) cutWords() []string {
	var words []string
	for _, m := range j.members {
		if m.root != "" && m.uid != 0 {
			words = append(words, "without /proc")
		}
		for _, o := range m.objects {
			if m.root != "" && o.kind == "unix" {
				words = append(words, "UNIX socket")
			}
			if w, ok := unrecordable[o.kind]; ok {
				words = append(words, w)
			}
		}
	}
	return words
}

// claim is something of which a host has one.
type claim struct {
	what string // "tcp 9001", "udp 9002", "path /srv/x", "shm /x"
	addr string // of a port: "*", "lo", or "host"
	from string // the host that the claimant is from
	word string // what a refusal on its account has
	open bool   // a port whose listener may be closed by now: connections alone may share it, or not
}

func (a claim) conflicts(b claim) bool {
	if a.what != b.what || a.from == b.from { // on one host they live together already
		return false
	}
	return a.addr == b.addr || a.addr == "*" || b.addr == "*"
}

// claims lists what a member claims of its host.
func (j *randomJob) claims(m *randomMember) []claim {
	var out []claim
	add := func(what, addr, word string, open bool) {
		out = append(out, claim{what, addr, m.host, word, open})
	}
	where := map[string]string{"0.0.0.0": "*", "127.0.0.1": "lo", j.addr[m.host]: "host"}
	for _, o := range m.objects {
		switch o.kind {
		case "append", "tail", "inplace", "region", "both", "linked", "hard", "mode", "sparse", "mapped", "locked", "fifo", "unix":
			add("path "+m.hostPath(o.args[0]), "", o.args[0], false)
		case "shm":
			add("shm "+o.args[0], "", strings.TrimPrefix(o.args[0], "/"), false)
		case "sem":
			add("shm sem."+o.args[0], "", strings.TrimPrefix(o.args[0], "/"), false)
		case "listen":
			add("tcp "+o.args[1], where[o.args[0]], ":"+o.args[1], false)
		case "left":
			add("tcp "+o.args[1], "*", ":"+o.args[1], false)
		case "serve":
			add("tcp "+o.args[1], where[o.args[0]], ":"+o.args[1], o.args[4] == "close")
		case "udp":
			add("udp "+o.args[0], "lo", ":"+o.args[0], false)
		}
	}
	return append(out, claim{"path " + m.log, "", m.host, m.log, false})
}

// verdict is what the judge says of a move.
type verdict struct {
	infeasible []string // words, of which a refusal must have one; none if the move is to be accepted
	unsure     bool     // it may be refused as well, for a reason that a specification does not show
}

// judge says whether the job can go where remap says, with what lives there beside it.
func (j *randomJob) judge(remap map[string]string, taken string) verdict {
	var v verdict
	arriving := map[string][]claim{}
	for _, m := range j.members {
		to := remap[m.host]
		for _, c := range j.claims(m) {
			for _, other := range arriving[to] {
				if c.conflicts(other) {
					v.conflict(c.word, c.open || other.open)
				}
			}
			arriving[to] = append(arriving[to], c)
		}
		if to == m.host {
			continue
		}
		for _, o := range m.objects {
			switch o.kind {
			case "fifo", "unix", "pty": // they, or their numbers, are not in the cut: the target may lack them
				v.unsure = true
			}
		}
	}
	if host, port, ok := strings.Cut(taken, " "); ok {
		for _, c := range arriving[host] {
			if c.what == "tcp "+port && c.addr != "lo" {
				v.conflict(c.word, false)
			}
		}
	}
	slices.Sort(v.infeasible)
	v.infeasible = slices.Compact(v.infeasible)
	return v
}

func (v *verdict) conflict(word string, unsure bool) {
	if unsure {
		v.unsure = true
		return
	}
	v.infeasible = append(v.infeasible, word)
}

// hasOne says whether a text has one of the words, or there is none to have.
func hasOne(text string, words []string) bool {
	return len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// tally counts what became of the cuts and moves, for the shares that must be accepted.
type tally struct {
	cuts, cutsTaken, cutsRefused   int
	moves, movesMade, movesRefused int // feasible ones, as the judge says
	infeasible, unsure, unsureMade int
	inPlace                        int
	kinds                          map[string]int
}

func (t tally) String() string {
	return fmt.Sprintf("%d cuts wanted: %d taken, %d refused as they should be; %d restored in place; feasible moves: %d, of which %d made and %d refused; %d infeasible, all refused; %d of which the judge was not sure, %d made",
		t.cuts, t.cutsTaken, t.cutsRefused, t.inPlace, t.moves, t.movesMade, t.movesRefused, t.infeasible, t.unsure, t.unsureMade)
}
