package remote

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/marker"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
)

func toImageKey(k images.Key) *ssv1.ImageKey {
	return &ssv1.ImageKey{Job: k.Job, Snapshot: k.Snapshot, Host: k.Host}
}

func toMark(m store.Mark) *ssv1.CatalogueMark {
	return &ssv1.CatalogueMark{Generation: m.Generation, Nonce: m.Nonce, Where: m.Where, TimeUnixMs: m.Time.UnixMilli()}
}

func fromMark(m *ssv1.CatalogueMark) store.Mark {
	return store.Mark{Generation: m.GetGeneration(), Nonce: m.GetNonce(), Where: m.GetWhere(), Time: time.UnixMilli(m.GetTimeUnixMs()).UTC()}
}

func toInfoRequest(w orchestrator.Word) *ssv1.InfoRequest {
	req := &ssv1.InfoRequest{Mark: toMark(w.Mark), Jobs: w.Jobs, RemovedHosts: w.RemovedHosts}
	for _, m := range w.History {
		req.History = append(req.History, toMark(m))
	}
	return req
}

func toStanding(s orchestrator.Standing) *ssv1.Standing {
	return &ssv1.Standing{Job: s.Job, Epoch: s.Epoch, Statement: s.Statement, InForce: s.InForce, Settled: s.Settled}
}

func fromStanding(s *ssv1.Standing) orchestrator.Standing {
	return orchestrator.Standing{Job: s.GetJob(), Epoch: s.GetEpoch(), Statement: s.GetStatement(), InForce: s.GetInForce(), Settled: s.GetSettled()}
}

func toParticipants(in []orchestrator.Participant) []*ssv1.Participant {
	var out []*ssv1.Participant
	for _, p := range in {
		out = append(out, &ssv1.Participant{Host: p.Name, Endpoint: p.Endpoint, Addrs: wire.ToAddrs(p.Addrs)})
	}
	return out
}

// toHosts is toParticipants without the addresses, where nobody needs them.
func toHosts(in []orchestrator.Participant) []*ssv1.Participant {
	var out []*ssv1.Participant
	for _, p := range in {
		out = append(out, &ssv1.Participant{Host: p.Name, Endpoint: p.Endpoint})
	}
	return out
}

func (a *agent) member(m *ssv1.Member) orchestrator.Member {
	return orchestrator.Member{
		Host: a.host, Job: m.GetJob(), Name: m.GetName(), Command: m.GetCommand(), Env: m.GetEnv(), Dir: m.GetDir(), Log: m.GetLog(), Folders: m.GetFolders(),
		Aliases: fromAliases(m.GetAliases()), Names: fromAliases(m.GetNames()), Pid: int(m.GetPid()), State: m.GetState(), Exit: m.GetExit(), RSS: m.GetRss(), Channels: int(m.GetChannels()),
		Attached: m.GetAttached(), Frozen: m.GetFrozen(), Epoch: m.GetEpoch(), LogBytes: m.GetLogBytes(),
		MemoryFrozen: m.GetMemoryFrozen(),
	}
}

func (a *agent) report(r *ssv1.HostReport) *orchestrator.HostReport {
	out := &orchestrator.HostReport{Manifest: r.GetManifestDigest(), Copies: r.GetCopies(), CRIU: r.GetCriu(), Bytes: r.GetBytes(),
		Vaults: r.GetVaults(), NewBytes: r.GetNewBytes(), WroteBytes: r.GetWroteBytes(), MovedBytes: r.GetMovedBytes(), RunningMs: r.GetRunningMs()}
	for _, m := range r.GetMembers() {
		out.Members = append(out.Members, orchestrator.MemberReport{
			Member: a.member(m.GetMember()), ImageBytes: m.GetImageBytes(), FrozenMs: m.GetFrozenMs(), StallMs: m.GetStallMs(), Memory: toMemory(m.GetMemory()),
		})
	}
	for _, p := range r.GetPhases() {
		out.Phases = append(out.Phases, store.CutPhase{Name: p.GetName(), StartMs: p.GetStartMs(), DurationMs: p.GetDurationMs()})
	}
	return out
}

// toPlan names the list of participants by its digest.
func toPlan(p orchestrator.HostPlan, list marker.Digest) *ssv1.RestorePlan {
	out := &ssv1.RestorePlan{Id: p.ID, Key: wire.ToKey(p.Key), ParticipantsDigest: list[:],
		Targets: int32(p.Targets), CheckOnly: p.CheckOnly, Statement: p.Statement}
	out.Moves = toMoves(p.Moved)
	for _, ch := range p.Transit {
		out.Transit = append(out.Transit, &ssv1.Transit{Local: ch.FromAddr, Remote: ch.ToAddr, Bytes: ch.InTransit})
	}
	for _, part := range p.Parts {
		pp := &ssv1.RestorePart{Snapshot: part.Snapshot, Host: part.Host, JobKey: part.JobKey[:], Digest: part.Digest, Sources: toParticipants(part.Sources), Vaults: part.Vaults}
		for _, m := range part.Members {
			pp.Members = append(pp.Members, &ssv1.Member{
				Job: string(p.Key.Job), Name: m.Name, Command: m.Command, Env: m.Env, Dir: m.Dir, Log: m.Log, Folders: m.Folders, Aliases: toAliases(m.Aliases), Names: toAliases(m.Names),
				MemoryFrozen: m.MemoryFrozen,
			})
		}
		for _, e := range part.Ends {
			pp.Ends = append(pp.Ends, &ssv1.EndChange{Member: e.Member, Local: e.Local, Remote: e.Remote, As: e.As})
		}
		out.Parts = append(out.Parts, pp)
	}
	return out
}

func toMemory(m *ssv1.MemoryReport) store.CutMemory {
	return store.CutMemory{
		Tracked: m.GetTracked(), Rounds: m.GetRounds(), CopiedBytes: m.GetCopiedBytes(), FrozenBytes: m.GetFrozenBytes(), TwinBytes: m.GetTwinBytes(), Pages: m.GetPages(), Left: m.GetLeft(),
	}
}

func toAliases(in store.Aliases) []*ssv1.AddrMove {
	var out []*ssv1.AddrMove
	for _, from := range slices.Sorted(maps.Keys(in)) {
		out = append(out, &ssv1.AddrMove{From: from, To: in[from]})
	}
	return out
}

func fromAliases(in []*ssv1.AddrMove) store.Aliases {
	var out store.Aliases
	for _, a := range in {
		if out == nil {
			out = store.Aliases{}
		}
		out[a.GetFrom()] = a.GetTo()
	}
	return out
}

func toMoves(moved map[netip.Addr]netip.Addr) []*ssv1.AddrMove {
	var out []*ssv1.AddrMove
	for from, to := range moved {
		out = append(out, &ssv1.AddrMove{From: from.String(), To: to.String()})
	}
	return out
}

// toOpen names the list of participants by its digest.
func toOpen(open orchestrator.Open, list marker.Digest) *ssv1.SnapshotOpen {
	var outside []*ssv1.OutsideRule
	for _, r := range open.Outside {
		outside = append(outside, &ssv1.OutsideRule{Match: r.Match, As: r.As})
	}
	return &ssv1.SnapshotOpen{
		Key: wire.ToKey(open.Key), ParticipantsDigest: list[:], Copies: toHosts(open.Copies),
		CopiesWanted: int32(open.CopiesWanted), Vaults: open.Vaults, JobKey: open.JobKey[:], Members: open.Members, Restored: open.Restored,
		SettleMs: open.Settle.Milliseconds(), Outside: outside,
	}
}
