package wire

import (
	"fmt"
	"net/netip"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
	"ss/marker"
)

// FromEnds reads the ends of connections.
func FromEnds(in []*ssv1.End) []marker.End {
	var out []marker.End
	for _, e := range in {
		out = append(out, marker.End{
			Host: marker.HostID(e.GetHost()), Member: e.GetMember(), Local: e.GetLocal(), Remote: e.GetRemote(),
			SndUna: e.GetSndUna(), WriteSeq: e.GetWriteSeq(), RcvNxt: e.GetRcvNxt(), Unsent: e.GetUnsent(), Ended: e.GetEnded(),
			Pending: e.GetPending(), Unread: e.GetUnread(), Outside: fromOutside[e.GetOutside()],
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
			Pending: e.Pending, Unread: e.Unread, Outside: toOutside[e.Outside],
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
			return nil, fault.New(fault.Usage, fmt.Sprintf("%q is not an address", s), "")
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
