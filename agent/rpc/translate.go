package rpc

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ss/agent"
	"ss/agent/custody"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/store/images"
	"ss/store/keys"
)

func toMember(m agent.Member) *ssv1.Member {
	return &ssv1.Member{
		Job: m.Job, Name: m.Name, Command: m.Command, Env: m.Env, Dir: m.Dir, Log: m.Log, Folders: m.Folders, Aliases: toAliases(m.Aliases), Names: toAliases(m.Names), Pid: int32(m.Pid),
		State: string(m.State), Exit: m.Exit, Attached: m.Attached, Frozen: m.Frozen, Epoch: m.Epoch, MemoryFrozen: m.MemoryFrozen,
	}
}

func fromMember(m *ssv1.Member) (agent.Member, error) {
	out := agent.Member{
		Job: m.GetJob(), Name: m.GetName(), Command: m.GetCommand(), Env: m.GetEnv(), Dir: m.GetDir(), Log: m.GetLog(), Folders: m.GetFolders(),
		MemoryFrozen: m.GetMemoryFrozen(),
	}
	var err error
	if out.Aliases, err = fromAliases(m.GetAliases()); err != nil {
		return agent.Member{}, err
	}
	if out.Names, err = fromAliases(m.GetNames()); err != nil {
		return agent.Member{}, err
	}
	if n := max(len(out.Aliases), len(out.Names)); n > aliasesMax {
		return agent.Member{}, fault.New(fault.Usage, fmt.Sprintf("member %q has %d aliases of addresses; %d are possible", out.Name, n, aliasesMax), "")
	}
	return out, nil
}

func fromAliases(in []*ssv1.AddrMove) ([]agent.Alias, error) {
	var out []agent.Alias
	for _, a := range in {
		pair, err := wire.FromAddrs([]string{a.GetFrom(), a.GetTo()})
		if err != nil {
			return nil, err
		}
		out = append(out, agent.Alias{From: pair[0], To: pair[1]})
	}
	return out, nil
}

// aliasesMax bounds the program that is made of them: the kernel takes 4,096 instructions without asking for a privilege, and an alias is up to 18.
const aliasesMax = 200

func toAliases(in []agent.Alias) []*ssv1.AddrMove {
	var out []*ssv1.AddrMove
	for _, a := range in {
		out = append(out, &ssv1.AddrMove{From: a.From.String(), To: a.To.String()})
	}
	return out
}

func toStanding(s agent.Standing) *ssv1.Standing {
	return &ssv1.Standing{Job: s.Job, Epoch: s.Epoch, Statement: s.Statement, InForce: s.InForce, Settled: s.Settled}
}

func fromStanding(s *ssv1.Standing) agent.Standing {
	return agent.Standing{Job: s.GetJob(), Epoch: s.GetEpoch(), Statement: s.GetStatement(), InForce: s.GetInForce(), Settled: s.GetSettled()}
}

func toImageKey(k images.Key) *ssv1.ImageKey {
	return &ssv1.ImageKey{Job: k.Job, Snapshot: k.Snapshot, Host: k.Host}
}

func fromImageKey(k *ssv1.ImageKey) images.Key {
	return images.Key{Job: k.GetJob(), Snapshot: k.GetSnapshot(), Host: k.GetHost()}
}

func fromImageKeys(in []*ssv1.ImageKey) []images.Key {
	var out []images.Key
	for _, k := range in {
		out = append(out, fromImageKey(k))
	}
	return out
}

func fromParticipants(in []*ssv1.Participant) ([]agent.Participant, error) {
	var out []agent.Participant
	for _, p := range in {
		addrs, err := wire.FromAddrs(p.GetAddrs())
		if err != nil {
			return nil, err
		}
		out = append(out, agent.Participant{Peer: custody.Peer{Host: p.GetHost(), Endpoint: p.GetEndpoint()}, Addrs: addrs})
	}
	return out, nil
}

// fromPeers reads hosts of which nobody needs the addresses.
func fromPeers(in []*ssv1.Participant) []custody.Peer {
	var out []custody.Peer
	for _, p := range in {
		out = append(out, custody.Peer{Host: p.GetHost(), Endpoint: p.GetEndpoint()})
	}
	return out
}

// fromJobKey reads the secret of a job's images. There is always one: that of images that are not secret is known to everyone.
func fromJobKey(b []byte) (keys.Job, error) {
	var k keys.Job
	if len(b) != len(k) {
		return keys.Job{}, fault.New(fault.Usage, fmt.Sprintf("a job's key has %d bytes, and this one has %d", len(k), len(b)), "use an ssctl of the agent's version")
	}
	copy(k[:], b)
	return k, nil
}

func toDamage(in []images.Damage) []*ssv1.Damage {
	var out []*ssv1.Damage
	for _, d := range in {
		out = append(out, &ssv1.Damage{Job: d.Job, Digest: d.Digest, Detail: d.Detail, FoundUnixMs: unixMs(d.Found), Healed: d.Healed})
	}
	return out
}

// unixMs is 0 for a time that is not known.
func unixMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMark(m *ssv1.CatalogueMark) agent.Mark {
	return agent.Mark{Generation: m.GetGeneration(), Nonce: m.GetNonce(), Where: m.GetWhere(), Time: time.UnixMilli(m.GetTimeUnixMs()).UTC()}
}

func toMark(m agent.Mark) *ssv1.CatalogueMark {
	return &ssv1.CatalogueMark{Generation: m.Generation, Nonce: m.Nonce, Where: m.Where, TimeUnixMs: unixMs(m.Time)}
}

func fromWord(req *ssv1.InfoRequest) agent.Word {
	w := agent.Word{Mark: fromMark(req.GetMark()), Jobs: req.GetJobs(), RemovedHosts: req.GetRemovedHosts()}
	for _, m := range req.GetHistory() {
		w.History = append(w.History, fromMark(m))
	}
	return w
}

// participantsDigest is what names the list of participants; zero for what names none.
func participantsDigest(o interface{ GetParticipantsDigest() []byte }) (d marker.Digest) {
	if b := o.GetParticipantsDigest(); len(b) == len(d) {
		copy(d[:], b)
	}
	return d
}

// fromOpen reads how an attempt is opened. known is the list of participants if it was known here.
func fromOpen(opened wire.Opened, known []agent.Participant) (agent.Open, error) {
	o := opened.Open
	if known == nil {
		var err error
		if known, err = fromParticipants(opened.Participants); err != nil {
			return agent.Open{}, err
		}
	}
	key, err := fromJobKey(o.GetJobKey())
	if err != nil {
		return agent.Open{}, err
	}
	return agent.Open{
		Key: wire.FromKey(o.GetKey()), Participants: known, Digest: participantsDigest(o), Copies: fromPeers(o.GetCopies()), CopiesWanted: int(o.GetCopiesWanted()), Vaults: o.GetVaults(),
		Members: o.GetMembers(), JobKey: key, Outside: fromOutside(o.GetOutside()), Restored: o.GetRestored(), Settle: time.Duration(o.GetSettleMs()) * time.Millisecond,
	}, nil
}

func fromOutside(in []*ssv1.OutsideRule) []agent.OutsideRule {
	var out []agent.OutsideRule
	for _, r := range in {
		out = append(out, agent.OutsideRule{Match: r.GetMatch(), As: r.GetAs()})
	}
	return out
}

// fromPlan reads a plan. known is the list of participants if it was known here, and else sent is.
func fromPlan(p *ssv1.RestorePlan, known []agent.Participant, sent []*ssv1.Participant) (agent.RestorePlan, error) {
	if known == nil {
		var err error
		if known, err = fromParticipants(sent); err != nil {
			return agent.RestorePlan{}, err
		}
	}
	moved, err := fromMoves(p.GetMoves())
	if err != nil {
		return agent.RestorePlan{}, err
	}
	plan := agent.RestorePlan{ID: p.GetId(), Key: wire.FromKey(p.GetKey()), Participants: known, Roster: participantsDigest(p), Moved: moved,
		Targets: int(p.GetTargets()), CheckOnly: p.GetCheckOnly(), Statement: p.GetStatement()}
	for _, t := range p.GetTransit() {
		local, bad := netip.ParseAddrPort(t.GetLocal())
		remote, worse := netip.ParseAddrPort(t.GetRemote())
		if err := errors.Join(bad, worse); err != nil {
			return agent.RestorePlan{}, fault.New(fault.Usage, "the bytes in transit of a connection: "+err.Error(), "")
		}
		plan.Transit = append(plan.Transit, agent.Transit{Conn: agent.Conn{Local: local, Remote: remote}, Bytes: t.GetBytes()})
	}
	for _, part := range p.GetParts() {
		key, err := fromJobKey(part.GetJobKey())
		if err == nil {
			err = names.Check("snapshot", part.GetSnapshot())
		}
		if err != nil {
			return agent.RestorePlan{}, &fault.Error{Kind: fault.Usage, Err: fmt.Errorf("part of host %q: %w", part.GetHost(), err)}
		}
		rp := agent.RestorePart{Snapshot: part.GetSnapshot(), Host: part.GetHost(), JobKey: key, Digest: part.GetDigest(), Sources: fromPeers(part.GetSources()), Vaults: part.GetVaults()}
		for _, m := range part.GetMembers() {
			member, err := fromMember(m)
			if err != nil {
				return agent.RestorePlan{}, err
			}
			rp.Members = append(rp.Members, member)
		}
		if rp.Ends, err = fromEndChanges(part.GetEnds()); err != nil {
			return agent.RestorePlan{}, err
		}
		plan.Parts = append(plan.Parts, rp)
	}
	return plan, nil
}

func fromMoves(in []*ssv1.AddrMove) (map[netip.Addr]netip.Addr, error) {
	moved := map[netip.Addr]netip.Addr{}
	for _, m := range in {
		pair, err := wire.FromAddrs([]string{m.GetFrom(), m.GetTo()})
		if err != nil {
			return nil, err
		}
		moved[pair[0]] = pair[1]
	}
	return moved, nil
}

func fromEndChanges(in []*ssv1.EndChange) ([]agent.EndChange, error) {
	var out []agent.EndChange
	for _, e := range in {
		local, err1 := netip.ParseAddrPort(e.GetLocal())
		remote, err2 := netip.ParseAddrPort(e.GetRemote())
		as := agent.EndState(e.GetAs())
		if err := errors.Join(err1, err2); err != nil || as != agent.EndClosed && as != agent.EndConnecting {
			return nil, fault.New(fault.Usage, fmt.Sprintf("connection %q with %q of %s to be %q: not known", e.GetLocal(), e.GetRemote(), e.GetMember(), e.GetAs()), "use an ssctl of the agent's version")
		}
		out = append(out, agent.EndChange{Member: e.GetMember(), Conn: agent.Conn{Local: local, Remote: remote}, As: as})
	}
	return out, nil
}

func toRestoreOut(o agent.RestoreOut) *ssv1.RestoreResponse {
	return &ssv1.RestoreResponse{Message: wire.ToRestoreMessage(o.Message), Problems: o.Problems, Notices: o.Notices, Failure: wire.ToFailure(o.Failure)}
}

func toOut(o agent.Out) *ssv1.SnapshotResponse {
	switch {
	case o.Message != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Message{Message: wire.ToMessage(*o.Message)}}
	case o.Progress != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Progress{Progress: &ssv1.Progress{
			Phase: o.Progress.Phase, Bytes: o.Progress.Bytes, Total: o.Progress.Total, Storing: o.Progress.Storing,
		}}}
	case o.Report != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Report{Report: toReport(o.Report)}}
	default:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Failure{Failure: wire.ToFailure(o.Failure)}}
	}
}

func toReport(r *agent.HostReport) *ssv1.HostReport {
	out := &ssv1.HostReport{
		ManifestDigest: r.Manifest, Copies: r.Copies, Vaults: r.Vaults, Criu: r.CRIU, Bytes: r.Bytes,
		NewBytes: r.NewBytes, WroteBytes: r.WroteBytes, MovedBytes: r.MovedBytes, RunningMs: ms(r.Running),
	}
	for _, m := range r.Members {
		pm := toMember(m.Member)
		out.Members = append(out.Members, &ssv1.MemberReport{
			Member: pm, ImageBytes: m.ImageBytes, FrozenMs: ms(m.Frozen), StallMs: ms(m.Stall), Memory: fromMemory(m.Memory),
		})
	}
	for _, p := range r.Phases {
		out.Phases = append(out.Phases, &ssv1.PhaseTiming{Name: p.Name, StartMs: ms(p.Start), DurationMs: ms(p.Duration)})
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func fromMemory(m agent.MemoryReport) *ssv1.MemoryReport {
	return &ssv1.MemoryReport{
		Tracked: m.Tracked, Rounds: int64(m.Rounds), CopiedBytes: m.Copied, FrozenBytes: m.CopiedFrozen, TwinBytes: m.CopiedTwin, Pages: m.Pages, Left: m.Left,
	}
}

// fromQuestion reads a question. known is the list of participants if it was known here.
func fromQuestion(req *ssv1.CheckRequest, known []agent.Participant) (agent.Question, error) {
	q := agent.Question{Job: req.GetJob(), Holdings: req.GetHoldings()}
	var err error
	if q.Moved, err = fromMoves(req.GetMoves()); err != nil {
		return q, err
	}
	if req.GetOpen() != nil {
		if q.Open, err = fromOpen(wire.Opened{Open: req.GetOpen(), Participants: req.GetParticipants()}, known); err != nil {
			return q, err
		}
	}
	for _, c := range req.GetComing() {
		if !names.Valid(c.GetMember()) {
			return q, fault.New(fault.Usage, fmt.Sprintf("%q cannot be the name of a member", c.GetMember()), "use an ssctl of the agent's version")
		}
		q.Coming = append(q.Coming, agent.Coming{Host: c.GetHost(), Member: c.GetMember(), Needs: c.GetNeeds(), Processor: c.GetProcessor()})
	}
	return q, nil
}

func toAnswer(a agent.Answer) *ssv1.CheckResponse {
	out := &ssv1.CheckResponse{Problems: a.Problems, ClockUnixUs: a.Clock.UnixMicro(), Processor: a.Processor}
	for _, m := range a.Members {
		out.Members = append(out.Members, &ssv1.CheckedMember{Name: m.Name, Processes: int32(m.Processes), Rss: m.RSS, Needs: m.Needs, Holdings: m.Holdings})
	}
	return out
}
