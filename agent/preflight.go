package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ss/agent/files"
	"ss/agent/inventory"
	"ss/agent/proc"
	"ss/agent/target"
	"ss/fault"
)

// Question is what a check asks of this host. It stops nothing. Where room is short, dumps and copies of memory that are only kept to make something faster are given up, as for a snapshot.
type Question struct {
	Job      string
	Open     Open // what a snapshot would be opened with; without Members no member is looked at
	Holdings bool // list what the members hold
	// Coming are members of other hosts that would be restored here, and Moved what becomes of their addresses.
	Coming []Coming
	Moved  map[netip.Addr]netip.Addr
}

// Coming is one member on its way to this host, in the words of the host that it lives on.
type Coming struct {
	Host, Member     string
	Needs, Processor []byte // CheckedMember.Needs, Answer.Processor
}

// Answer is what a check finds on this host.
type Answer struct {
	Problems  []string
	Members   []CheckedMember
	Clock     time.Time // of this host
	Processor []byte    // its features, as JSON
}

// CheckedMember is what a member holds.
type CheckedMember struct {
	Name      string
	Processes int
	RSS       int64  // bytes
	Needs     []byte // MemberMeta as JSON: what its images would need of a host, as far as /proc tells
	Holdings  []byte // Inventory as JSON; nil if it was not asked for
}

// Preflight finds all that would keep a snapshot of the members from succeeding, by the very code that a snapshot runs before it stops anything, and all
// that would keep members of other hosts from being restored here, by that of a restore's check. An error means that it could not look.
func (a *Agent) Preflight(ctx context.Context, q Question) (Answer, error) {
	ans := Answer{Clock: time.Now()}
	var err error
	if ans.Processor, err = json.Marshal(proc.ReadProcessor()); err != nil {
		return ans, a.fail("check", q.Job, err)
	}
	if len(q.Open.Members) > 0 {
		if err := a.preflightMembers(ctx, q, &ans); err != nil {
			return ans, a.fail("check", q.Job, err)
		}
	}
	if len(q.Coming) > 0 {
		found, err := a.preflightComing(ctx, q)
		if err != nil {
			return ans, a.fail("check", q.Job, err)
		}
		ans.Problems = append(ans.Problems, found...)
	}
	return ans, nil
}

// restoring says what restore holds a job here: while it does, members come and go.
func (a *Agent) restoring(job string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if what := a.busy[job]; strings.HasPrefix(what, "restore ") && !strings.HasPrefix(what, "restore check-") {
		return a.busyWith(job, what)
	}
	return nil
}

func (a *Agent) preflightMembers(ctx context.Context, q Question, ans *Answer) error {
	if err := a.checkOpen(string(q.Open.Key.Job), string(q.Open.Key.Snapshot), q.Open.Participants); err != nil {
		return err
	}
	if err := a.restoring(q.Job); err != nil {
		return err
	}
	w := &work{a: a, key: q.Open.Key, open: q.Open}
	var err error
	if w.members, err = a.entitled(ctx, q.Open); err != nil {
		return err
	}
	if _, err := a.cfg.CRIU.Check(ctx); err != nil {
		ans.Problems = append(ans.Problems, err.Error())
	}
	found, size, err := w.obstacles(ctx)
	if err != nil {
		return err
	}
	ans.Problems = append(ans.Problems, found...)
	for _, err := range []error{a.fits(size), w.reachPeers(ctx)} {
		if err != nil {
			ans.Problems = append(ans.Problems, err.Error())
		}
	}
	objects, err := a.liveObjects(ctx, q.Job, w.members)
	if err != nil {
		return err
	}
	for _, m := range w.members {
		c, err := a.preflightMember(ctx, m, q, objects[m.Name])
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		ans.Members = append(ans.Members, c)
	}
	return nil
}

// preflightMember lists what a member holds, and what its images would need. objects are its sockets.
func (a *Agent) preflightMember(ctx context.Context, m Member, q Question, objects target.NeededObjects) (CheckedMember, error) {
	c := CheckedMember{Name: m.Name}
	processes, err := a.cfg.Cells.Processes(ctx, m)
	if err != nil {
		return c, err
	}
	c.Processes = len(processes)
	var pids []int
	for _, p := range processes {
		c.RSS += p.RSS
		pids = append(pids, p.Pid)
	}
	meta, err := liveNeeds(ctx, m, pids, objects)
	if err != nil {
		return c, err
	}
	meta.Folders = files.Folders(slices.Concat(meta.folders(), logFolders(m)))
	if c.Needs, err = json.Marshal(meta); err != nil || !q.Holdings {
		return c, err
	}
	held, err := inventory.Take(ctx, pids)
	if err != nil {
		return c, fmt.Errorf("take the inventory: %w", err)
	}
	c.Holdings, err = json.Marshal(held)
	return c, err
}

// preflightComing compares members of other hosts with this one.
func (a *Agent) preflightComing(ctx context.Context, q Question) ([]string, error) {
	var found []string
	var coming []target.Arrival
	for _, c := range q.Coming {
		var meta MemberMeta
		var theirs proc.Processor
		if err := errors.Join(json.Unmarshal(c.Needs, &meta), json.Unmarshal(c.Processor, &theirs)); err != nil {
			return nil, &fault.Error{Kind: fault.Usage, Err: fmt.Errorf("what %s of %s needs: %w", c.Member, c.Host, err)}
		}
		if why := target.Lacking(theirs, c.Host); why != "" && len(coming) == 0 {
			found = append(found, why)
		}
		coming = append(coming, arrival(c.Host, Member{Name: c.Member}, meta))
	}
	more, err := a.planTarget(ctx, q.Job, q.Moved, coming)
	return append(found, more...), err
}
