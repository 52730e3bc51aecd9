// Package wire translates what both ends of a connection share: marker messages, members'
// descriptions, and errors. Only agent/rpc and orchestrator/remote import it; nobody else sees a
// protobuf type.
package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
	"ss/marker"
)

// codeOf is the one table of kinds and gRPC codes.
var codeOf = map[fault.Kind]codes.Code{
	fault.Failed:      codes.Unknown,
	fault.Usage:       codes.InvalidArgument,
	fault.Refused:     codes.FailedPrecondition,
	fault.Unreachable: codes.Unavailable,
	fault.Denied:      codes.PermissionDenied,
	fault.Integrity:   codes.DataLoss,
	fault.Conflict:    codes.AlreadyExists,
	fault.RolledBack:  codes.Aborted,
	fault.NotFound:    codes.NotFound,
	fault.Interrupted: codes.Canceled,
	fault.Unsettled:   codes.OutOfRange,
}

// code is the one that a kind travels as. fault.InDoubt has none: an agent knows how things ended on its own host.
func code(k fault.Kind) codes.Code {
	if c, ok := codeOf[k]; ok {
		return c
	}
	return codes.Unknown
}

func kindOf(c codes.Code) fault.Kind {
	for k, known := range codeOf {
		if known == c {
			return k
		}
	}
	switch c {
	case codes.DeadlineExceeded:
		return fault.Unreachable
	case codes.Unauthenticated:
		return fault.Denied
	}
	return fault.Failed
}

// Status is err as it goes over gRPC. Nil stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code(fault.KindOf(err)), err.Error())
}

// Error is what came back from host, as a fault. Nil stays nil.
func Error(host string, err error) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	kind := kindOf(s.Code())
	f := &fault.Error{Kind: kind, Err: errors.New(s.Message())}
	if kind == fault.Unreachable {
		f.Err = fmt.Errorf("host %s cannot be reached: %s", host, plain(s.Message()))
		f.Next = "see that it is up and that its ssagent runs"
	}
	return f
}

// plain takes gRPC's own words from why a host was not reached. What it does not know it leaves.
func plain(text string) string {
	if i := strings.LastIndex(text, `desc = "`); i >= 0 {
		text = strings.TrimSuffix(text[i+len(`desc = "`):], `"`)
	}
	for _, words := range []string{"transport: Error while dialing: ", "transport: ", "error reading from server: "} {
		text = strings.TrimPrefix(text, words)
	}
	return text
}

// FromFailure and ToFailure carry an error inside a message.
func FromFailure(f *ssv1.Failure) error {
	if f == nil {
		return nil
	}
	return &fault.Error{Kind: kindOf(codes.Code(f.Code)), Err: errors.New(f.Text)}
}

// ToFailure is the other way round.
func ToFailure(err error) *ssv1.Failure {
	if err == nil {
		return nil
	}
	return &ssv1.Failure{Code: uint32(code(fault.KindOf(err))), Text: err.Error()}
}

// FromKey reads a key.
func FromKey(k *ssv1.Key) marker.Key {
	return marker.Key{Job: marker.JobID(k.GetJob()), Snapshot: marker.SnapshotID(k.GetSnapshot()), Epoch: marker.Epoch(k.GetEpoch())}
}

// ToKey writes one.
func ToKey(k marker.Key) *ssv1.Key {
	return &ssv1.Key{Job: string(k.Job), Snapshot: string(k.Snapshot), Epoch: uint64(k.Epoch)}
}

// FromMessage reads a marker message.
func FromMessage(m *ssv1.MarkerMessage) marker.Message {
	out := marker.Message{
		Type: marker.MessageType(m.GetType()), Key: FromKey(m.GetKey()), From: marker.HostID(m.GetFrom()), To: marker.HostID(m.GetTo()),
		Initiator: marker.HostID(m.GetInitiator()), Stop: m.GetStop(), Lease: marker.Millis(m.GetLeaseMs()), Settle: marker.Millis(m.GetSettleMs()),
		Channels: m.GetChannels(), Ends: FromEnds(m.GetEnds()), Reason: m.GetReason(), Cause: marker.Cause(m.GetCause()),
	}
	for _, p := range m.GetParticipants() {
		out.Participants = append(out.Participants, marker.HostID(p))
	}
	copy(out.Group[:], m.GetGroup()) // of any other length it names no list
	return out
}

// ToMessage writes one.
func ToMessage(m marker.Message) *ssv1.MarkerMessage {
	out := &ssv1.MarkerMessage{
		Type: int32(m.Type), Key: ToKey(m.Key), From: string(m.From), To: string(m.To),
		Initiator: string(m.Initiator), Stop: m.Stop, LeaseMs: int64(m.Lease), SettleMs: int64(m.Settle),
		Channels: m.Channels, Ends: ToEnds(m.Ends), Reason: m.Reason, Cause: int32(m.Cause),
	}
	for _, p := range m.Participants {
		out.Participants = append(out.Participants, string(p))
	}
	if m.Group != (marker.Digest{}) {
		out.Group = m.Group[:]
	}
	return out
}

// FromEnds reads the ends of connections.
func FromEnds(in []*ssv1.End) []marker.End {
	var out []marker.End
	for _, e := range in {
		out = append(out, marker.End{
			Host: marker.HostID(e.GetHost()), Member: e.GetMember(), Local: e.GetLocal(), Remote: e.GetRemote(),
			SndUna: e.GetSndUna(), WriteSeq: e.GetWriteSeq(), RcvNxt: e.GetRcvNxt(), Unsent: e.GetUnsent(), Ended: e.GetEnded(),
		})
	}
	return out
}

// ToEnds writes them.
func ToEnds(in []marker.End) []*ssv1.End {
	var out []*ssv1.End
	for _, e := range in {
		out = append(out, &ssv1.End{
			Host: string(e.Host), Member: e.Member, Local: e.Local, Remote: e.Remote,
			SndUna: e.SndUna, WriteSeq: e.WriteSeq, RcvNxt: e.RcvNxt, Unsent: e.Unsent, Ended: e.Ended,
		})
	}
	return out
}

// FromAddrs reads addresses; what is none is an error of the caller.
func FromAddrs(in []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fault.New(fault.Usage, fmt.Sprintf("%q is no address", s), "")
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

// ToAddrs writes them.
func ToAddrs(in []netip.Addr) []string {
	var out []string
	for _, a := range in {
		out = append(out, a.String())
	}
	return out
}

// ToNetworks writes addresses with the lengths of their networks' prefixes.
func ToNetworks(in []netip.Prefix) []string {
	var out []string
	for _, p := range in {
		out = append(out, p.String())
	}
	return out
}

// FromNetworks reads what ToNetworks writes.
func FromNetworks(in []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range in {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", s, err)
		}
		out = append(out, p)
	}
	return out, nil
}
