package marker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ProblemKind says what is wrong with a channel of a cut.
type ProblemKind int

// What can be wrong with a channel.
const (
	ProblemOrphan    ProblemKind = iota + 1 // bytes are received that were never sent: rcv_nxt > snd_nxt
	ProblemLost                             // bytes are acknowledged that were never received: snd_una > rcv_nxt
	ProblemQueue                            // the sending end contradicts itself: snd_una > write_seq
	ProblemOutside                          // the other end is in no member of the job
	ProblemDuplicate                        // two ends have the same addresses
	ProblemUnread                           // bytes were sent on a connection that nobody has accepted
)

// Problem is one thing that is wrong with a cut.
type Problem struct {
	Kind    ProblemKind
	Channel Channel // of ProblemOutside and ProblemDuplicate only the sending end is known
	Unread  uint32  // ProblemUnread: bytes that have come, or were sent
	Other   string  // ProblemDuplicate: host and member of the second end
}

// Error names the channel and what is wrong with it.
func (f *Problem) Error() string {
	c := f.Channel
	from := fmt.Sprintf("%s of %s (%s)", c.FromAddr, c.FromMember, c.From)
	way := fmt.Sprintf("channel from %s to %s of %s (%s)", from, c.ToAddr, c.ToMember, c.To)
	switch f.Kind {
	case ProblemOrphan:
		return fmt.Sprintf("%s: orphan message: %d bytes received and never sent (rcv_nxt %d, snd_nxt %d)", way, c.RcvNxt-c.WriteSeq+c.unsent, c.RcvNxt, c.WriteSeq-c.unsent)
	case ProblemLost:
		return fmt.Sprintf("%s: lost message: %d bytes acknowledged and never received (snd_una %d, rcv_nxt %d)", way, c.SndUna-c.RcvNxt, c.SndUna, c.RcvNxt)
	case ProblemQueue:
		return fmt.Sprintf("%s: broken send queue (snd_una %d, write_seq %d)", way, c.SndUna, c.WriteSeq)
	case ProblemDuplicate:
		return fmt.Sprintf("connection %s to %s: a second end with the same addresses is held by %s", from, c.ToAddr, f.Other)
	}
	if f.Kind == ProblemUnread {
		return fmt.Sprintf("connection of %s with %s: %d bytes were sent on it, and no program has accepted it", from, c.ToAddr, f.Unread)
	}
	return fmt.Sprintf("outside connection from %s to %s: no member of the job holds its other end; close it, add the other end to the job, or let it be restored as closed (ssctl job set --outside close)", from, c.ToAddr)
}

// CheckError is all that is wrong with a cut, in the order of Check's channels. errors.As finds its first *Problem.
type CheckError struct{ Problems []*Problem }

// Error is the first problem and how many there are beside it.
func (e *CheckError) Error() string {
	first := e.Problems[0].Error()
	if more := len(e.Problems) - 1; more > 0 {
		return fmt.Sprintf("%s (and %d more)", first, more)
	}
	return first
}

// Unwrap returns the problems.
func (e *CheckError) Unwrap() []error {
	all := make([]error, len(e.Problems))
	for i, f := range e.Problems {
		all[i] = f
	}
	return all
}

// cause sorts the error of Check.
func cause(err error) Cause {
	var e *CheckError
	if !errors.As(err, &e) {
		return CauseCheck
	}
	out := CauseOutside
	for _, f := range e.Problems {
		switch f.Kind {
		case ProblemOutside:
		case ProblemUnread:
			out = CauseUnread
		default:
			return CauseCheck
		}
	}
	return out
}

// blamed is the host that the first problem of a *CheckError speaks of.
func blamed(err error) HostID {
	var f *Problem
	if errors.As(err, &f) {
		return f.Channel.From
	}
	return CoordinatorHost
}

// Check pairs the ends of all members and checks both directions of every connection (M8), modulo 2^32:
//
//	p.snd_una ≤ q.rcv_nxt ≤ p.snd_nxt ≤ p.write_seq
//
// It returns the channels, one per direction, sorted by host, member and address of the sending end.
// Connections within a host, and within a member, are channels like others. If anything is wrong it
// returns a *CheckError. An end that has no partner because the other program has closed it is not a channel, and is right.
func Check(ends []End, policy OutsidePolicy) ([]Channel, error) {
	ends, partners, doubles := pair(ends)
	var channels []Channel
	var problems []*Problem
	for i, e := range ends {
		if j, ok := doubles[i]; ok {
			other := fmt.Sprintf("%s (%s)", ends[j].Member, ends[j].Host)
			problems = append(problems, &Problem{Kind: ProblemDuplicate, Channel: halfChannel(e), Other: other})
			continue
		}
		j, ok := partners[i]
		if e.Pending || ok && ends[j].Pending {
			if f := pendingProblem(e); f != nil {
				problems = append(problems, f)
			}
			continue
		}
		if !ok {
			// A program that has ended its connection does not hold it any more. Its end is not in the cut, and the one that has heard of that
			// needs nothing of it: whatever it still sends is answered with a RST, then as now.
			if e.outside(policy) == OutsideRefuse && !e.Ended {
				problems = append(problems, &Problem{Kind: ProblemOutside, Channel: halfChannel(e)})
			}
			continue
		}
		c := channel(e, ends[j])
		if kind := c.problem(); kind != 0 {
			problems = append(problems, &Problem{Kind: kind, Channel: c})
		}
		channels = append(channels, c)
	}
	if len(problems) > 0 {
		return nil, &CheckError{Problems: problems}
	}
	return channels, nil
}

// pendingProblem says what is wrong with one of the ends of a connection that has not been accepted. Nothing may have been sent on it: what has been
// acknowledged is in no image, and what has not could not be put back into the queue of an end that connects once more.
func pendingProblem(e End) *Problem {
	n := e.Unread
	if !e.Pending {
		n = e.WriteSeq - e.SndUna
	}
	if n == 0 {
		return nil
	}
	return &Problem{Kind: ProblemUnread, Channel: halfChannel(e), Unread: n}
}

// Unheard returns the ends whose partner no program has accepted, in Check's order.
func Unheard(ends []End) []End {
	ends, partners, _ := pair(ends)
	var unheard []End
	for i, e := range ends {
		if j, ok := partners[i]; ok && !e.Pending && ends[j].Pending {
			unheard = append(unheard, e)
		}
	}
	return unheard
}

// Outside returns the ends that have no partner, in Check's order: what OutsideClosed leaves out of the channels. One that has received its partner's
// FIN is not among them, as it needs none, nor is one that is kept as it was.
func Outside(ends []End) []End {
	ends, partners, doubles := pair(ends)
	var outside []End
	for i, e := range ends {
		_, paired := partners[i]
		_, double := doubles[i]
		if !paired && !double && !e.Pending && !e.Ended && e.Outside != OutsideKept {
			outside = append(outside, e)
		}
	}
	return outside
}

// tuple identifies an end. A loopback address means another thing on every host.
type tuple struct {
	host          HostID
	local, remote string
}

func (e End) tuple() tuple {
	t := tuple{local: e.Local, remote: e.Remote}
	if loopback(e.Local) || loopback(e.Remote) {
		t.host = e.Host
	}
	return t
}

// loopback tells by the text of an address and port, as netip.AddrPort prints it.
func loopback(addr string) bool {
	return strings.HasPrefix(addr, "127.") || strings.HasPrefix(addr, "[::1]")
}

// pair sorts the ends and finds for each its partner, or else the other end that has the same addresses.
func pair(unsorted []End) (ends []End, partners, doubles map[int]int) {
	ends = slices.Clone(unsorted)
	slices.SortStableFunc(ends, func(a, b End) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Member, b.Member),
			cmp.Compare(a.Local, b.Local), cmp.Compare(a.Remote, b.Remote))
	})
	partners, doubles = make(map[int]int, len(ends)), make(map[int]int)
	first := make(map[tuple]int, len(ends))
	for i, e := range ends {
		if j, ok := first[e.tuple()]; ok {
			doubles[j] = i
			doubles[i] = j
			continue
		}
		first[e.tuple()] = i
	}
	for i, e := range ends {
		t := e.tuple()
		if j, ok := first[tuple{t.host, t.remote, t.local}]; ok {
			partners[i] = j // a connection of a port with itself has one end, its own partner
		}
	}
	return ends, partners, doubles
}

func halfChannel(e End) Channel {
	return Channel{From: e.Host, FromMember: e.Member, FromAddr: e.Local, ToAddr: e.Remote, SndUna: e.SndUna, WriteSeq: e.WriteSeq}
}

func channel(from, to End) Channel {
	c := halfChannel(from)
	c.unsent = from.Unsent
	c.To, c.ToMember = to.Host, to.Member
	c.RcvNxt = to.RcvNxt
	c.InTransit = c.WriteSeq - c.RcvNxt
	return c
}

// problem checks M8. Sequence numbers are compared per RFC 9293, 3.4: no queue is longer than 2^31 bytes.
func (c Channel) problem() ProblemKind {
	switch {
	case int32(c.WriteSeq-c.SndUna) < 0:
		return ProblemQueue
	case int32(c.RcvNxt-c.SndUna) < 0:
		return ProblemLost
	// Against snd_nxt and not write_seq: a restored kernel takes acknowledgements of what it believes
	// never to have sent for forged ones, and the channel would stand still for good.
	case int32(c.WriteSeq-c.unsent-c.RcvNxt) < 0:
		return ProblemOrphan
	}
	return 0
}
