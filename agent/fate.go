package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ss/fault"
	"ss/restoration"
)

// fates remembers how the latest restores ended here. The zero value is empty.
type fates struct {
	byID map[string]restoration.Phase
	ids  []string // oldest first
}

// fatesKept bounds fates. A host that asks was there when the restore ended, or comes back from a crash in it.
const fatesKept = 256

func (f *fates) put(id string, phase restoration.Phase) {
	if f.byID == nil {
		f.byID = map[string]restoration.Phase{}
	}
	if _, again := f.byID[id]; !again {
		f.ids = append(f.ids, id)
	}
	f.byID[id] = phase
	if len(f.ids) > fatesKept {
		delete(f.byID, f.ids[0])
		f.ids = f.ids[1:]
	}
}

// askTimeout bounds a question about a restore. A peer answers from memory.
const askTimeout = 5 * time.Second

// ask puts a question to another host. Silence is not an answer: the target asks again.
func (r *Restoration) ask(m restoration.Message) {
	i := slices.IndexFunc(r.plan.Participants, func(p Participant) bool { return p.Host == string(m.To) })
	if i < 0 {
		r.a.log.Error("question to a host that takes no part", "job", r.job(), "host", m.To)
		return
	}
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		go func() { // an agent that stops does not wait for an answer
			select {
			case <-r.quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		answer, err := r.a.cfg.Peers.AskRestore(ctx, r.plan.Participants[i].Peer, r.job(), m)
		if err != nil {
			r.a.log.Warn("no word of a restore", "job", r.job(), "restore", r.plan.ID, "host", m.To, "error", err)
			return
		}
		answer.ID, answer.From, answer.To = m.ID, m.To, m.From
		r.post(restoreEvent{ev: restoration.Received{Message: answer}})
	}()
}

// AnswerRestore answers a question about a restore, or an order of an admin whose line has ended. The sender in m has been held
// against the caller's certificate; restoration.CoordinatorHost is an admin. Of a restore that this host knows
// nothing of the answer is restoration.PhaseUnknown.
func (a *Agent) AnswerRestore(ctx context.Context, job string, m restoration.Message) (RestoreOut, error) {
	m.To = restoration.HostID(a.cfg.Host)
	unknown := restoration.Message{Type: restoration.MsgReport, ID: m.ID, From: m.To, To: m.From}
	a.mu.Lock()
	r, phase := a.restores[string(m.ID)], a.fates.byID[string(m.ID)]
	a.mu.Unlock()
	if r == nil {
		if phase == restoration.PhaseUnknown {
			phase = a.recorded(job, string(m.ID))
		}
		unknown.Phase = phase
		return RestoreOut{Message: unknown}, nil
	}
	if m.From != restoration.CoordinatorHost {
		if !slices.ContainsFunc(r.plan.Participants, func(p Participant) bool { return p.Host == string(m.From) }) {
			return RestoreOut{}, fault.New(fault.Denied, fmt.Sprintf("%s takes no part in this restore", m.From), "")
		}
		if m.Type != restoration.MsgAsk {
			return RestoreOut{}, fault.New(fault.Denied, fmt.Sprintf("%s may ask about this restore, and nothing else", m.From), "")
		}
	}
	reply := make(chan restoration.Message, 1)
	r.post(restoreEvent{ev: restoration.Received{Message: m}, asker: m.From, reply: reply})
	select {
	case answer := <-reply:
		return r.out(answer), nil
	case <-r.done:
	case <-ctx.Done():
		return RestoreOut{}, fault.New(fault.Unreachable, ctx.Err().Error(), "")
	}
	r.mu.Lock()
	unknown.Phase = r.phase
	r.mu.Unlock()
	if !unknown.Phase.Over() {
		// Where it stands now is for its next start to say.
		return RestoreOut{}, fault.New(fault.Unreachable, "the agent is stopping", "try again when it is back")
	}
	return RestoreOut{Message: unknown}, nil
}

func (r *Restoration) inDoubt() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doubt
}

// lockForRestore takes the job. A restore that waits for another host's word has to give way to a new one, unless that
// only looks: the new one ends it, at its fence.
func (a *Agent) lockForRestore(plan RestorePlan) (free func(), err error) {
	what := "restore " + plan.ID
	free, err = a.lockJob(string(plan.Key.Job), what)
	if !fault.Is(err, fault.Conflict) || plan.CheckOnly {
		return free, err
	}
	doubtful := a.doubtful(string(plan.Key.Job))
	if doubtful == nil {
		return nil, err
	}
	a.mu.Lock()
	if a.busy[string(plan.Key.Job)] == "restore "+doubtful.plan.ID {
		delete(a.busy, string(plan.Key.Job))
	}
	a.mu.Unlock()
	return a.lockJob(string(plan.Key.Job), what)
}

// doubtful is a restore of the job that waits for another host's word; nil if there is none.
func (a *Agent) doubtful(job string) *Restoration {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.restores {
		if r.job() == job && r.inDoubt() {
			return r
		}
	}
	return nil
}

// busyWith says what holds a job, and what to do about it. The caller holds a.mu.
func (a *Agent) busyWith(job, what string) error {
	id, ok := strings.CutPrefix(what, "restore ")
	if r := a.restores[id]; ok && r != nil && r.inDoubt() {
		return fault.New(fault.Conflict, fmt.Sprintf("%s of job %s lost its connection to ssctl; this host is asking %s for the outcome", what, job, r.plan.Participants[0].Host),
			fmt.Sprintf("bring %s back; or restore the job again, or end it with ssctl kill", r.plan.Participants[0].Host))
	}
	return fault.New(fault.Conflict, fmt.Sprintf("job %s is busy with %s", job, what), "try again when that is over")
}

// overruleDoubt ends what a restore that waits for another host's word holds of the job: a person wants the job ended.
func (a *Agent) overruleDoubt(ctx context.Context, job string) error {
	if r := a.doubtful(job); r != nil {
		return r.overrule(ctx, "the job was killed")
	}
	return nil
}

// supersede ends earlier restores of the job that still wait for another host's word, or whom nobody has heard.
func (a *Agent) supersede(ctx context.Context, by *Restoration) error {
	a.mu.Lock()
	var earlier []*Restoration
	for _, r := range a.restores {
		if r != by && r.job() == by.job() {
			earlier = append(earlier, r)
		}
	}
	a.mu.Unlock()
	for _, r := range earlier {
		if err := r.overrule(ctx, "restore "+by.plan.ID+" has replaced it"); err != nil {
			return err
		}
	}
	return nil
}

// overrule returns when the host has let go of the job.
func (r *Restoration) overrule(ctx context.Context, reason string) error {
	r.post(restoreEvent{ev: restoration.Overrule{Reason: reason}})
	select {
	case <-r.rest:
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("restore %s is still being ended: %w", r.plan.ID, context.Cause(ctx))
	}
	// Once more, for one that has stopped and looks for somebody to tell.
	r.post(restoreEvent{ev: restoration.Overrule{Reason: reason}})
	return nil
}
