package standing

import (
	"fmt"
	"net/netip"
	"slices"
)

// Record is what one host knows of one job. The zero value, with a Job, is that of a job of which it knows nothing.
type Record struct {
	Job string `json:"job"`
	// Epoch is that of Statement; 0 without one.
	Epoch     uint64    `json:"epoch"`
	Statement []byte    `json:"statement,omitempty"` // encoded
	Stated    Statement `json:"stated,omitzero"`     // the same, decoded

	// InForce says that this host took part in the restore of Epoch and that the restore has been decided.
	InForce bool `json:"in_force,omitempty"`
	// Confirmed says that a host that members stand on, or an admin, has said that the restore of Epoch took place.
	Confirmed bool `json:"confirmed,omitempty"`
	// Pending are the superseded hosts that have not settled, as far as this host knows.
	Pending []Host `json:"pending,omitempty"`
	// Listen are the ports that the restored members listen on here.
	Listen []netip.AddrPort `json:"listen,omitempty"`
	// Peers are the hosts that this host had to do with in the job: it asks them when its agent starts.
	Peers []Host `json:"peers,omitempty"`
}

// Member is a member of the job that lives on the host.
type Member struct {
	Name   string
	Epoch  uint64
	Frozen bool
	// Unknown says that the member's own record is damaged, so its epoch is not known: it is left as it is, and the host has not settled.
	Unknown bool
}

// Block says whose packets the job's sockets on this host neither get nor send.
type Block struct {
	Everyone bool         // whoever it is
	From     []netip.Addr // hosts' addresses
}

// Empty says whether nothing is to be blocked.
func (b Block) Empty() bool { return !b.Everyone && len(b.From) == 0 }

// Duties is what a host has to do for a job.
type Duties struct {
	Block   Block
	Freeze  []string // members that are to stand still and do not
	End     []string // members that are to be ended
	Contact []Host   // hosts that are to be shown the statement, and asked for theirs
	Settled bool     // the host has no old copy of a member
}

// Shown takes in a statement that another host or an admin has shown (F2). by is the host, "" for an admin; inForce is its word
// that the restore took place. An older statement changes nothing. changed says whether the record is another one now.
func (r Record) Shown(s Statement, encoded []byte, by string, inForce bool) (next Record, changed bool) {
	if s.Job != r.Job || s.Epoch < r.Epoch {
		return r, false
	}
	if s.Epoch > r.Epoch {
		r.Epoch, r.Statement, r.Stated = s.Epoch, encoded, s
		r.InForce, r.Confirmed, r.Listen = false, false, nil
		r.Pending = nil
		changed = true
	}
	if inForce && !r.Confirmed && (by == "" || r.Stated.Stands(by)) {
		r.Confirmed = true
		changed = true
	}
	return r, changed
}

// Decided takes in that the restore of the statement, in which this host takes part, has been decided (F1). listen are the
// ports that its members listen on here.
func (r Record) Decided(s Statement, encoded []byte, listen []netip.AddrPort) (Record, error) {
	if s.Epoch == r.Epoch && r.InForce && s.Job == r.Job {
		return r, nil // it is known already
	}
	if s.Job != r.Job || s.Epoch < r.Epoch {
		return r, fmt.Errorf("a restore of epoch %d, where this host knows of epoch %d: %w", s.Epoch, r.Epoch, ErrInvalid)
	}
	r.Epoch, r.Statement, r.Stated = s.Epoch, encoded, s
	r.InForce, r.Confirmed, r.Listen = true, true, listen
	r.Pending = slices.Clone(s.Superseded)
	return r, nil
}

// Stood takes in that members of the record's own epoch live here though the record does not say that their restore took place: the
// file that said so was lost, and the statement was shown again.
func (r Record) Stood(members []Member) (next Record, changed bool) {
	stands := slices.ContainsFunc(members, func(m Member) bool { return m.Epoch == r.Epoch && !m.Unknown })
	if r.Epoch == 0 || r.InForce || !stands {
		return r, false
	}
	r.InForce, r.Confirmed = true, true
	r.Pending = slices.Clone(r.Stated.Superseded)
	return r, true
}

// Settled takes in that a superseded host has no old copy any more (F4).
func (r Record) Settled(host string) (next Record, changed bool) {
	rest := slices.DeleteFunc(slices.Clone(r.Pending), func(h Host) bool { return h.Name == host })
	changed = len(rest) < len(r.Pending)
	r.Pending = rest
	return r, changed
}

// Met takes in the hosts that this host has to do with in the job.
func (r Record) Met(peers []Host) (next Record, changed bool) {
	same := slices.EqualFunc(r.Peers, peers, func(a, b Host) bool { return a.Name == b.Name && a.Endpoint == b.Endpoint })
	if same {
		return r, false
	}
	r.Peers = peers
	return r, true
}

// Old says whether a member is an old copy: one that a restore, of which this host knows, has replaced.
func (r Record) Old(m Member) bool { return m.Epoch < r.Epoch && !m.Unknown }

// Duties says what the host has to do, given the members of the job that live on it.
func (r Record) Duties(host string, members []Member) Duties {
	var w Duties
	unknown := false
	for _, m := range members {
		unknown = unknown || m.Unknown
		if !r.Old(m) {
			continue
		}
		w.Block.Everyone = true
		if !m.Frozen {
			w.Freeze = append(w.Freeze, m.Name)
		}
		if r.Confirmed {
			w.End = append(w.End, m.Name)
		}
	}
	w.Settled = !w.Block.Everyone && !unknown
	switch {
	case w.Block.Everyone && !r.Confirmed: // F3: whoever knows whether the restore took place
		w.Contact = without(host, r.Stated.Hosts)
	case !w.Block.Everyone && r.InForce: // F4
		w.Contact = without(host, r.Pending)
		if len(members) > 0 {
			w.Block.From = r.foreign()
		}
	}
	return w
}

// foreign are the addresses of the pending hosts, less those that a host of the job has now.
func (r Record) foreign() []netip.Addr { return Foreign(r.Stated, r.Pending) }

// Foreign are the addresses of the given hosts that no host has on which members of the job stand.
func Foreign(s Statement, hosts []Host) []netip.Addr {
	var out []netip.Addr
	for _, h := range hosts {
		for _, a := range h.Addrs {
			ours := slices.ContainsFunc(s.Hosts, func(o Host) bool { return slices.Contains(o.Addrs, a) })
			if !ours && !a.IsLoopback() {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Ask lists the hosts that an agent asks that starts and finds members of the job: those of the statement, and its peers.
func (r Record) Ask(host string) []Host {
	seen := map[string]bool{host: true}
	var out []Host
	for _, h := range slices.Concat(r.Stated.Hosts, r.Peers) {
		if !seen[h.Name] && h.Endpoint != "" {
			seen[h.Name] = true
			out = append(out, h)
		}
	}
	return out
}

func without(host string, hosts []Host) []Host {
	return slices.DeleteFunc(slices.Clone(hosts), func(h Host) bool { return h.Name == host || h.Endpoint == "" })
}
