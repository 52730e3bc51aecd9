package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/standing"
	"ss/store"
)

// Standing is what a host and ssctl say to each other of the last restore of a job (F2 of docs/restore.md).
type Standing struct {
	Job       string
	Epoch     uint64 // of the restore; 0 if the host knows of none and has members
	Statement []byte
	InForce   bool // the restore took place
	Settled   bool // the host has no member that is older
}

// statement says where the members stand after the restore, signed (F1).
func (r *restore) statement(ctx context.Context, epoch uint64) ([]byte, error) {
	cluster, err := r.c.Catalogue.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	job, err := r.c.Catalogue.Job(ctx, r.plan.Cut.Job)
	if err != nil {
		return nil, err
	}
	if r.c.Statements == nil {
		return nil, errors.New("no signing key configured")
	}
	s := standing.Statement{Cluster: cluster.ID, Job: job.Name, Epoch: epoch, Ended: r.plan.Cut.EndedWell}
	for _, name := range r.targets() {
		s.Hosts = append(s.Hosts, standing.Host{Name: name, Endpoint: r.hosts[name].Addr, Addrs: r.hosts[name].Info.Addrs, Members: r.living(name)})
	}
	if s.Superseded, err = r.superseded(ctx, job); err != nil {
		return nil, err
	}
	return s.Encode(r.c.Statements)
}

// superseded lists the hosts that may have members of the job and do not take part. A host that answers and has some takes part.
func (r *restore) superseded(ctx context.Context, job store.Job) ([]standing.Host, error) {
	members := map[string][]string{}
	for host, placed := range job.Placement {
		members[host] = append(members[host], store.Names(placed)...)
	}
	for _, u := range job.Unsettled {
		members[u.Host] = append(members[u.Host], u.Members...)
	}
	for _, ch := range r.plan.Cut.Hosts {
		for _, m := range ch.Members {
			members[ch.Host] = append(members[ch.Host], m.Name)
		}
	}
	known, err := r.c.addresses(ctx, job)
	if err != nil {
		return nil, err
	}
	claims := map[string]bool{}
	for _, m := range r.claimed {
		members[m.Host] = append(members[m.Host], m.Name)
		claims[m.Host] = true
	}
	var out []standing.Host
	for host, names := range members {
		h, registered := r.hosts[host]
		if len(names) == 0 || registered && h.Err == nil && !claims[host] {
			continue
		}
		slices.Sort(names)
		out = append(out, standing.Host{Name: host, Endpoint: h.Addr, Addrs: known[host], Members: slices.Compact(names)})
	}
	return out, nil
}

// addresses are those that hosts of a job are known to have, or to have had: from its cuts, its last statement, and where their agents listen.
func (c *Cluster) addresses(ctx context.Context, job store.Job) (map[string][]netip.Addr, error) {
	known := map[string][]netip.Addr{}
	add := func(host string, addrs ...netip.Addr) {
		for _, a := range addrs {
			if a = a.Unmap(); !slices.Contains(known[host], a) {
				known[host] = append(known[host], a)
			}
		}
	}
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if ap, err := netip.ParseAddrPort(h.Addr); err == nil {
			add(h.Name, ap.Addr())
		}
	}
	cuts, err := c.Catalogue.Cuts(ctx, job.Name)
	if err != nil {
		return nil, err
	}
	for _, cut := range cuts {
		for _, ch := range cut.Hosts {
			for _, s := range ch.Addrs {
				if a, err := netip.ParseAddr(s); err == nil {
					add(ch.Host, a)
				}
			}
		}
	}
	if len(job.Statement) > 0 {
		s, err := standing.Decode(job.Statement, c.Statements)
		if err != nil {
			return nil, err
		}
		for _, h := range slices.Concat(s.Hosts, s.Superseded) {
			add(h.Name, h.Addrs...)
		}
	}
	return known, nil
}

// unsettled lists the superseded hosts of a statement as the catalogue keeps them.
func unsettled(s standing.Statement) []store.Unsettled {
	var out []store.Unsettled
	for _, h := range s.Superseded {
		out = append(out, store.Unsettled{Host: h.Name, Since: s.Signed, Members: h.Members})
	}
	return out
}

// adopt takes a statement into the catalogue: of a restore that took place.
func (c *Cluster) adopt(ctx context.Context, job string, encoded []byte) error {
	s, err := standing.Decode(encoded, c.Statements)
	if err != nil {
		return err
	}
	if s.Job != job {
		return fault.New(fault.Integrity, fmt.Sprintf("a statement of job %s for job %s", s.Job, job), "")
	}
	placement := map[string][]store.Placed{}
	for _, h := range s.Hosts {
		placement[h.Name] = store.Running(h.Members...)
	}
	// They live nowhere, so any host will do.
	for _, m := range s.Ended {
		placement[s.Hosts[0].Name] = append(placement[s.Hosts[0].Name], store.Placed{Name: m, State: store.PlacedEnded, Exit: store.ExitedWell})
	}
	return c.Catalogue.SetRestored(noted(ctx), job, placement, s.Epoch, encoded, unsettled(s))
}

// superseding notes that a restore which failed in its last step has superseded what was before it all the same: some hosts may have the statement in
// force. Its members have ended, those of hosts that did not take part are old.
func (r *restore) superseding(ctx context.Context) error {
	if !r.resuming {
		return nil
	}
	s, err := standing.Decode(r.stated, r.c.Statements)
	if err != nil {
		return err
	}
	job, err := r.c.Catalogue.Job(ctx, r.plan.Cut.Job)
	if err != nil {
		return err
	}
	return r.c.Catalogue.SetRestored(noted(ctx), job.Name, job.Placement, s.Epoch, r.stated, unsettled(s))
}

// stand is F2 on ssctl's side: the catalogue takes in what hosts know of restores whose ssctl died before it could write them down, and
// hosts that do not know of a job's last restore are shown the statement.
func (c *Cluster) stand(ctx context.Context, statuses []HostStatus) error {
	// An old copy of the catalogue takes nothing in, and tells nobody: its owner is told that it is one.
	if c.Statements == nil || slices.ContainsFunc(statuses, func(h HostStatus) bool { return h.Ahead != nil }) {
		return nil
	}
	if err := c.catchUp(ctx, statuses); err != nil {
		return err
	}
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, h := range statuses {
		if h.Err != nil {
			continue
		}
		for _, j := range jobs {
			if behind(h, j) {
				wg.Go(func() { c.show(ctx, h, j) })
			}
		}
	}
	wg.Wait()
	return nil
}

// standFirst shows hosts where members stand before they are asked for them, if there is a restore to tell of.
func (c *Cluster) standFirst(ctx context.Context) error {
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil || !slices.ContainsFunc(jobs, func(j store.Job) bool { return len(j.Statement) > 0 }) {
		return err
	}
	_, err = c.Hosts(ctx)
	return err
}

// catchUp adopts newer statements that hosts have.
func (c *Cluster) catchUp(ctx context.Context, statuses []HostStatus) error {
	for _, h := range statuses {
		if h.Err != nil {
			continue
		}
		for _, st := range h.Info.Standings {
			j, err := c.Catalogue.Job(ctx, st.Job)
			if errors.Is(err, store.ErrNotFound) || err == nil && (!st.InForce || st.Epoch <= j.Restored) {
				continue
			}
			if err != nil {
				return err
			}
			attempts, err := c.Catalogue.Attempts(ctx)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(attempts, func(a store.Attempt) bool { return a.Live && a.Job == st.Job }) {
				continue // the restore's own ssctl is about to write it down
			}
			if err := c.adopt(ctx, st.Job, st.Statement); err != nil {
				c.Noticef("%s knows of a restore of job %s, of epoch %d, that the catalogue does not: %v", h.Name, st.Job, st.Epoch, err)
				continue
			}
			// Of a catalogue that was made again, the restore may be long over.
			c.Noticef("the catalogue did not know of the last restore of job %s, as its hosts do: it was made again since, or the ssctl that restored the job ended before it could write that down; the catalogue has it now", st.Job)
		}
	}
	return nil
}

// behind says whether a host that answers should be shown a job's statement: it may have old copies, or has members and knows no better.
func behind(h HostStatus, j store.Job) bool {
	if len(j.Statement) == 0 {
		return false
	}
	if slices.ContainsFunc(j.Unsettled, func(u store.Unsettled) bool { return u.Host == h.Name }) {
		return true
	}
	return slices.ContainsFunc(h.Info.Standings, func(s Standing) bool { return s.Job == j.Name && s.Epoch < j.Restored })
}

// show shows a job's statement to a host, with the word that the restore took place.
func (c *Cluster) show(ctx context.Context, h HostStatus, j store.Job) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a, err := c.AgentOf(h.Host)
	var answer Standing
	if err == nil {
		answer, err = a.Stand(ctx, Standing{Job: j.Name, Epoch: j.Restored, Statement: j.Statement, InForce: true})
	}
	if err == nil && answer.Settled && answer.Epoch == j.Restored {
		err = c.Catalogue.SetSettled(noted(ctx), j.Name, h.Name, j.Restored)
	}
	if err != nil && !fault.Is(err, fault.Denied) { // an observer shows nothing
		c.Noticef("%s was not told where the members of job %s stand: %v", h.Name, j.Name, err)
	}
}

// epochOf shows a host the job's statement, if there is one, and returns the epoch that a member which is started there now has.
func (c *Cluster) epochOf(ctx context.Context, h store.Host, job string) (uint64, error) {
	j, err := c.Catalogue.Job(ctx, job)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err == nil && len(j.Statement) > 0 {
		c.show(ctx, HostStatus{Host: h}, j)
	}
	return j.Restored, err
}

// Superseded says of a member of a job that it is an old copy: the job was restored without it.
func Superseded(m Member, j store.Job) bool { return m.Epoch < j.Restored }

// Unsettled is a host that a job was restored without, and of which it is not known that its members have ended.
type Unsettled struct {
	Job, Host string
	Members   []string
	Epoch     uint64    // of the restore
	Since     time.Time // of the restore
}

// String says all of it in a line.
func (u Unsettled) String() string {
	return fmt.Sprintf("%s of job %s on %s: superseded by epoch %d, not reached since %s; the job gets no packets from that host until its agent answers",
		strings.Join(u.Members, ", "), u.Job, u.Host, u.Epoch, u.Since.Local().Format(time.DateTime))
}

// Unsettled lists the hosts that a job, or any job if it is empty, was restored without.
func (c *Cluster) Unsettled(ctx context.Context, job string) ([]Unsettled, error) {
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	var out []Unsettled
	for _, j := range jobs {
		for _, u := range j.Unsettled {
			if job == "" || j.Name == job {
				out = append(out, Unsettled{Job: j.Name, Host: u.Host, Members: u.Members, Epoch: j.Restored, Since: u.Since})
			}
		}
	}
	return out, nil
}

// markSuperseded says of each member whether its job was restored without it.
func (c *Cluster) markSuperseded(ctx context.Context, members []Member) error {
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return err
	}
	for i := range members {
		for _, j := range jobs {
			if m := &members[i]; m.Job == j.Name && Superseded(*m, j) {
				m.SupersededBy = j.Restored
			}
		}
	}
	return nil
}
