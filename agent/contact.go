package agent

import (
	"context"
	"time"

	"ss/agent/custody"
	"ss/fault"
	"ss/names"
	"ss/standing"
)

const (
	// contactEvery is the time between two contacts with a host that has not settled, or has not answered.
	contactEvery = time.Second
	// contactTimeout bounds one: a host that is not there must not delay the next try, which may find it back.
	contactTimeout = 2500 * time.Millisecond
	// workTimeout bounds what a contact leads to on this host; what is not done then, the next tick does.
	workTimeout = 10 * time.Second
)

// run is F4: at each tick, hosts that have not settled are shown the statement, and hosts that may know a newer one are asked.
func (s *standings) run(ctx context.Context) {
	tick := time.NewTicker(contactEvery)
	defer tick.Stop()
	for {
		for _, job := range s.names() {
			s.mu.Lock()
			active := s.jobs[job].active
			s.mu.Unlock()
			if active {
				s.attend(ctx, job)
			}
		}
		if err := s.assert(ctx, false); err != nil {
			s.a.log.Error("blocks", "error", err)
		}
		select {
		case <-tick.C:
		case <-s.kick:
		case <-ctx.Done():
			return
		}
	}
}

// attend does what there is to do for a job, and contacts whom it concerns, each in a goroutine of its own.
func (s *standings) attend(ctx context.Context, job string) {
	w, err := s.carryOut(ctx, job)
	if err != nil {
		s.a.log.Warn("where members stand", "job", job, "error", err)
	}
	j := s.job(job)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range append(w.Contact, j.ask...) {
		if j.contact[h.Name] {
			continue
		}
		j.contact[h.Name] = true
		s.a.work.Add(1)
		go func() {
			defer s.a.work.Done()
			s.contact(ctx, job, h)
			s.mu.Lock()
			delete(j.contact, h.Name)
			s.mu.Unlock()
		}()
	}
}

// contact shows a host what this one knows of a job, and takes in what that one knows.
func (s *standings) contact(ctx context.Context, job string, h standing.Host) {
	rec := s.record(job)
	asked, cancel := context.WithTimeout(ctx, contactTimeout)
	defer cancel()
	theirs, err := s.a.cfg.Peers.Stand(asked, custody.Peer{Host: h.Name, Endpoint: h.Endpoint},
		Standing{Job: job, Epoch: rec.Epoch, Statement: rec.Statement, InForce: rec.InForce})
	if err != nil {
		s.a.log.Debug("a host is not reached", "job", job, "host", h.Name, "error", err)
		return
	}
	if err := s.heard(ctx, job, h, rec.Epoch, theirs); err != nil {
		s.a.log.Warn("what a host says of where members stand", "job", job, "host", h.Name, "error", err)
	}
}

// heard takes in an answer to what this host said of an epoch.
func (s *standings) heard(ctx context.Context, job string, h standing.Host, epoch uint64, theirs Standing) error {
	j := s.job(job)
	s.mu.Lock()
	j.ask = without(j.ask, h.Name)
	s.mu.Unlock()
	if theirs.Epoch >= epoch && theirs.Epoch > 0 {
		if err := s.take(job, h.Name, theirs); err != nil {
			return err
		}
	}
	if theirs.Settled {
		err := s.change(job, func(r standing.Record) (standing.Record, bool) {
			if r.Epoch != epoch {
				return r, false
			}
			return r.Settled(h.Name)
		})
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	_, err := s.carryOut(ctx, job)
	return err
}

func without(hosts []standing.Host, name string) []standing.Host {
	var out []standing.Host
	for _, h := range hosts {
		if h.Name != name {
			out = append(out, h)
		}
	}
	return out
}

// take is F2 for a statement of this host's epoch or a later one: it must be an admin's.
func (s *standings) take(job, by string, in Standing) error {
	rec := s.record(job)
	if in.Epoch < rec.Epoch || in.Epoch == rec.Epoch && (rec.Confirmed || !in.InForce) {
		return nil
	}
	st, encoded := rec.Stated, rec.Statement
	if in.Epoch > rec.Epoch {
		var err error
		if st, err = s.a.decodeStatement(job, in.Statement); err != nil {
			return err
		}
		encoded = in.Statement
	}
	return s.change(job, func(r standing.Record) (standing.Record, bool) { return r.Shown(st, encoded, by, in.InForce) })
}

// Stand takes in what another agent (from) or an admin ("") says of a job, does what follows from it, and answers with what this host knows.
// A statement that no admin signed is refused. The word that the restore took place counts from an admin, and from a host that
// the statement says members stand on.
func (a *Agent) Stand(ctx context.Context, from string, in Standing) (Standing, error) {
	if err := names.Check("job", in.Job); err != nil {
		return Standing{}, a.fail("standing", "", &fault.Error{Kind: fault.Usage, Err: err})
	}
	s := a.standings
	members, err := s.membersOf(ctx, in.Job)
	if err != nil {
		return Standing{}, a.fail("standing", in.Job, err)
	}
	rec := s.record(in.Job)
	if len(members) == 0 && rec.Epoch == 0 && from != "" {
		// It never had to do with the job, or has forgotten all of it: there is nothing to keep, and nothing to end.
		return Standing{Job: in.Job, Settled: true}, nil
	}
	if len(in.Statement) > 0 || in.Epoch == rec.Epoch {
		if err := s.take(in.Job, from, in); err != nil {
			a.log.Warn("a statement is refused", "job", in.Job, "from", from, "error", err)
			return Standing{}, a.fail("standing", in.Job, err)
		}
	}
	// The caller may hang up; what it has said holds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
	defer cancel()
	w, worked := s.carryOut(ctx, in.Job)
	s.wake()
	return a.answer(from, in, w, worked)
}

// answer is what this host says of a job to another, once it has done what there was to do.
func (a *Agent) answer(from string, in Standing, w standing.Duties, worked error) (Standing, error) {
	rec := a.standings.record(in.Job)
	out := Standing{Job: in.Job, Epoch: rec.Epoch, InForce: rec.InForce, Settled: w.Settled && worked == nil && rec.Epoch >= in.Epoch}
	if worked != nil {
		a.log.Warn("where members stand", "job", in.Job, "error", worked)
	}
	if rec.Epoch > in.Epoch && (from == "" || rec.Stated.Names(from)) {
		out.Statement = rec.Statement
	} else if rec.Epoch > in.Epoch {
		out.Epoch = in.Epoch // a host that has nothing to do with it need not know
	}
	return out, nil
}
