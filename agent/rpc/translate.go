package rpc

import (
	"net/netip"
	"time"

	"ss/agent"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/store/images"
)

func toMember(m agent.Member) *ssv1.Member {
	return &ssv1.Member{
		Job: m.Job, Name: m.Name, Command: m.Command, Env: m.Env, Dir: m.Dir, Log: m.Log, Pid: int32(m.Pid),
		State: string(m.State), Exit: m.Exit, Attached: m.Attached, Frozen: m.Frozen,
	}
}

func fromMember(m *ssv1.Member) agent.Member {
	return agent.Member{
		Job: m.GetJob(), Name: m.GetName(), Command: m.GetCommand(), Env: m.GetEnv(), Dir: m.GetDir(), Log: m.GetLog(),
	}
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
		out = append(out, agent.Participant{Host: p.GetHost(), Endpoint: p.GetEndpoint(), Addrs: addrs})
	}
	return out, nil
}

func fromOpen(o *ssv1.SnapshotOpen) (agent.Open, error) {
	if o == nil {
		return agent.Open{}, fault.New(fault.Usage, "the first message of a snapshot must open it", "")
	}
	parts, err := fromParticipants(o.GetParticipants())
	if err != nil {
		return agent.Open{}, err
	}
	copies, err := fromParticipants(o.GetCopies())
	if err != nil {
		return agent.Open{}, err
	}
	return agent.Open{Key: wire.FromKey(o.GetKey()), Participants: parts, Copies: copies, OutsideClosed: o.GetOutsideClosed()}, nil
}

func fromPlan(p *ssv1.RestorePlan) (agent.RestorePlan, error) {
	if p == nil {
		return agent.RestorePlan{}, fault.New(fault.Usage, "the first message of a restore must be its plan", "")
	}
	parts, err := fromParticipants(p.GetParticipants())
	if err != nil {
		return agent.RestorePlan{}, err
	}
	plan := agent.RestorePlan{ID: p.GetId(), Key: wire.FromKey(p.GetKey()), Participants: parts, Moved: map[netip.Addr]netip.Addr{}}
	for _, m := range p.GetMoves() {
		pair, err := wire.FromAddrs([]string{m.GetFrom(), m.GetTo()})
		if err != nil {
			return agent.RestorePlan{}, err
		}
		plan.Moved[pair[0]] = pair[1]
	}
	for _, part := range p.GetParts() {
		sources, err := fromParticipants(part.GetSources())
		if err != nil {
			return agent.RestorePlan{}, err
		}
		rp := agent.RestorePart{Host: part.GetHost(), Digest: part.GetDigest(), Sources: sources}
		for _, m := range part.GetMembers() {
			rp.Members = append(rp.Members, fromMember(m))
		}
		plan.Parts = append(plan.Parts, rp)
	}
	return plan, nil
}

func toOut(o agent.Out) *ssv1.SnapshotResponse {
	switch {
	case o.Message != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Message{Message: wire.ToMessage(*o.Message)}}
	case o.Progress != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Progress{Progress: &ssv1.Progress{
			Phase: o.Progress.Phase, Bytes: o.Progress.Bytes, Total: o.Progress.Total,
		}}}
	case o.Report != nil:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Report{Report: toReport(o.Report)}}
	default:
		return &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Failure{Failure: wire.ToFailure(o.Failure)}}
	}
}

func toReport(r *agent.HostReport) *ssv1.HostReport {
	out := &ssv1.HostReport{ManifestDigest: r.Manifest, Copies: r.Copies, Criu: r.CRIU, Bytes: r.Bytes}
	for _, m := range r.Members {
		pm := toMember(m.Member)
		out.Members = append(out.Members, &ssv1.MemberReport{Member: pm, ImageBytes: m.ImageBytes, FrozenMs: ms(m.Frozen), StallMs: ms(m.Stall)})
	}
	for _, p := range r.Phases {
		out.Phases = append(out.Phases, &ssv1.PhaseTiming{Name: p.Name, StartMs: ms(p.Start), DurationMs: ms(p.Duration)})
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
