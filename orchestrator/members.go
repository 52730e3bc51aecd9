package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"ss/fault"
	"ss/store"
)

// Run starts a member. The job comes into being with its first member.
func (c *Cluster) Run(ctx context.Context, host string, m Member) (Member, error) {
	got, err := c.start(ctx, host, m.Job, func(ctx context.Context, a Agent, name string, epoch uint64) (Member, error) {
		m.Name, m.Epoch = name, epoch
		if epoch > 0 {
			m.Aliases, m.Names = c.aliasesOf(ctx, m.Job, epoch)
		}
		return a.Run(ctx, m)
	})
	for _, n := range got.Notices {
		c.Noticef("%s: %s", got.Name, n)
	}
	return got, err
}

// aliasesOf are the addresses of the past that members of a restored job know (R6): all members that the restore has made have the same. Without any host that
// answers and has one there are none.
func (c *Cluster) aliasesOf(ctx context.Context, job string, epoch uint64) (aliases, names store.Aliases) {
	j, err := c.Catalogue.Job(ctx, job)
	if err != nil {
		return nil, nil
	}
	for _, host := range slices.Sorted(maps.Keys(j.Placement)) {
		h, _, err := c.host(ctx, host)
		if err != nil {
			continue
		}
		members, err := c.MembersOf(ctx, h, job)
		if err != nil {
			continue
		}
		for _, m := range members {
			if m.Epoch == epoch && m.State == StateRunning {
				return m.Aliases, m.Names
			}
		}
	}
	return nil, nil
}

// Attach takes the running tree of m in, of which Job, Pid and MemoryFrozen count.
func (c *Cluster) Attach(ctx context.Context, host string, m Member) (Member, error) {
	return c.start(ctx, host, m.Job, func(ctx context.Context, a Agent, name string, epoch uint64) (Member, error) {
		m.Name, m.Epoch = name, epoch
		return a.Attach(ctx, m)
	})
}

// start draws a member's name and has its host start it under that name. The catalogue knows of the member before the host does: whatever
// is lost on the way, no second member gets the name, and nothing runs of which the catalogue does not know that it may. While a restore has the lease on the
// job, no name is drawn, so nothing starts; a restore that takes the lease later finds the name (findNew).
func (c *Cluster) start(ctx context.Context, host, job string, do func(context.Context, Agent, string, uint64) (Member, error)) (Member, error) {
	h, a, err := c.host(ctx, host)
	if err != nil {
		return Member{}, err
	}
	has, err := c.MembersOf(ctx, h, job)
	if err != nil {
		return Member{}, err
	}
	word, err := c.word(ctx)
	if err == nil { // an older copy of the catalogue may draw a name that was given already
		err = Current([]HostStatus{c.greet(ctx, h, word)})
	}
	if err != nil {
		return Member{}, err
	}
	if err := c.hearOfDead(ctx, job); err != nil {
		return Member{}, err
	}
	name, err := c.Catalogue.DrawMember(ctx, job, host, memberNames(has))
	if err != nil {
		return Member{}, err
	}
	epoch, err := c.epochOf(ctx, h, job)
	if err != nil {
		return Member{}, errors.Join(err, c.Catalogue.RemoveMember(noted(ctx), job, host, name))
	}
	m, err := do(ctx, a, name, epoch)
	if err != nil {
		return Member{}, c.notStarted(ctx, h, job, name, err)
	}
	there, err := c.Catalogue.ConfirmMember(noted(ctx), job, host, m.Name)
	if err != nil {
		return m, fmt.Errorf("member %s runs on %s, but the catalogue still lists it as starting: %w", m.Name, host, err)
	}
	if !there {
		return m, c.overtaken(ctx, h, m)
	}
	return m, nil
}

// hearOfDead asks all hosts where the members stand if an ssctl has died in a restore of the job: what it had not written down may have taken place, and a
// member that is started now is of that restore's epoch.
func (c *Cluster) hearOfDead(ctx context.Context, job string) error {
	attempts, err := c.Catalogue.Attempts(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(attempts, func(a store.Attempt) bool { return a.Job == job && a.Kind == store.KindRestore && !a.Live }) {
		return nil
	}
	_, err = c.Hosts(ctx)
	return err
}

// overtaken is for a member that was started, and that a restore or a kill has taken off the catalogue meanwhile. Its host knows whether that ended it, or had
// come before it.
func (c *Cluster) overtaken(ctx context.Context, h store.Host, m Member) error {
	now, err := c.MembersOf(noted(ctx), h, m.Job)
	if err != nil {
		return &fault.Error{Kind: fault.KindOf(err), Err: err, Next: fmt.Sprintf("whether %s runs on %s is not known: the job was restored or killed meanwhile; see ssctl ps %s when that host answers", m.Name, h.Name, m.Job)}
	}
	if !slices.Contains(memberNames(now), m.Name) {
		return fault.New(fault.Conflict, fmt.Sprintf("%s was started on %s, and a restore or a kill of job %s that came meanwhile has ended it", m.Name, h.Name, m.Job), "start it again when that is over")
	}
	return c.Catalogue.AddMember(noted(ctx), m.Job, h.Name, m.Name)
}

// notStarted takes a member whose start has failed off the catalogue, if its host says that it is not there. Else its name stays, and what
// is known is said.
func (c *Cluster) notStarted(ctx context.Context, h store.Host, job, name string, err error) error {
	if fault.Is(err, fault.Unreachable) || ctx.Err() != nil {
		there, aerr := c.MembersOf(context.WithoutCancel(ctx), h, job)
		switch {
		case aerr != nil:
			return &fault.Error{Kind: fault.KindOf(err), Err: err, Next: fmt.Sprintf("whether %s runs on %s is not known: see ssctl ps %s when that host answers", name, h.Name, job)}
		case slices.Contains(memberNames(there), name):
			_, cerr := c.Catalogue.ConfirmMember(noted(ctx), job, h.Name, name)
			return errors.Join(&fault.Error{Kind: fault.KindOf(err), Err: err, Next: fmt.Sprintf("%s was started on %s anyway", name, h.Name)}, cerr)
		}
	}
	return errors.Join(err, c.Catalogue.WithdrawMember(noted(ctx), job, h.Name, name))
}

func memberNames(members []Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.Name)
	}
	return out
}

// Kill ends a job on every host that answers, and takes its members there off the catalogue. A host that does not answer, and has
// members as far as the catalogue knows, makes it fail when the others are done.
func (c *Cluster) Kill(ctx context.Context, job string) (killed []string, err error) {
	if _, err := c.Catalogue.Job(ctx, job); err != nil {
		return nil, err
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	j, err := c.Catalogue.Job(ctx, job) // the hosts may have told of a restore
	if err != nil {
		return nil, err
	}
	var hosts []store.Host
	var errs []error
	for _, h := range statuses {
		placed := store.Names(j.Placement[h.Name])
		switch {
		case h.Err == nil:
			hosts = append(hosts, h.Host)
		case len(placed) == 0:
			c.Noticef("%s does not answer; the catalogue knows of no member there", h.Name)
		default:
			errs = append(errs, unanswered("", fmt.Errorf("%s may still run on %s: %w", strings.Join(placed, ", "), h.Name, h.Err),
				"kill again when it answers; if it is gone for good, ssctl host rm "+h.Name+" --lost"))
		}
	}
	for i, k := range c.killOn(ctx, job, hosts) {
		if k.err != nil {
			errs = append(errs, k.err)
			continue
		}
		killed = append(killed, k.names...)
		c.strangers(job, hosts[i].Name, j.Placement[hosts[i].Name], k.names)
		errs = append(errs, c.Catalogue.ClearHosts(noted(ctx), job, j.Restored, hosts[i].Name))
	}
	return killed, errors.Join(errs...)
}

// KillOn ends what one host has of a job, members that the catalogue does not have there too, and leaves the other hosts alone.
func (c *Cluster) KillOn(ctx context.Context, job, host string) (killed []string, err error) {
	j, err := c.Catalogue.Job(ctx, job)
	if err != nil {
		return nil, err
	}
	h, _, err := c.host(ctx, host)
	if err != nil {
		return nil, err
	}
	k := c.killOn(ctx, job, []store.Host{h})[0]
	if k.err != nil {
		return nil, k.err
	}
	return k.names, c.Catalogue.ClearHosts(noted(ctx), job, j.Restored, host)
}

// strangers says of members that the catalogue has on a host, and that host knows nothing of, that they were not ended.
func (c *Cluster) strangers(job, host string, placed []store.Placed, killed []string) {
	for _, p := range placed {
		if p.State == store.PlacedRunning && !slices.Contains(killed, p.Name) {
			c.Noticef("%s knows nothing of %s: if its agent has lost its state folder, processes of it may still run in the cgroup %s/%s there", host, p.Name, job, p.Name)
		}
	}
}

// killing is what a host says to a Kill.
type killing struct {
	names []string
	err   error
}

// killOn ends a job on hosts, all at once, and returns what each says, in their order.
func (c *Cluster) killOn(ctx context.Context, job string, hosts []store.Host) []killing {
	out := make([]killing, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			a, err := c.AgentOf(h)
			if err == nil {
				out[i].names, err = a.Kill(ctx, job)
			}
			out[i].err = err
		})
	}
	wg.Wait()
	return out
}
