package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"ss/names"
	"ss/store/kv"
)

// Placed is a member of a job on the host where the catalogue has it.
type Placed struct {
	Name  string
	State PlacedState
	Exit  string // how it ended, in the agent's words
}

// PlacedState is what the catalogue knows of a placed member.
type PlacedState string

// The states.
const (
	// PlacedRunning: it was started, or restored, there. That is the zero value.
	PlacedRunning PlacedState = ""
	// PlacedStarting: its name was drawn, and whether its start has succeeded is not known yet.
	PlacedStarting PlacedState = "starting"
	// PlacedEnded: its host has said that it ended.
	PlacedEnded PlacedState = "ended"
)

// ExitedWell is how a member ends that did what it was to do, in the agent's words.
const ExitedWell = "exit status 0"

// EndedWell says that the member ended by itself, with success.
func (p Placed) EndedWell() bool { return p.State == PlacedEnded && p.Exit == ExitedWell }

// placedForm is how a Placed that has more than a name is written.
type placedForm struct {
	Name  string      `json:"name"`
	State PlacedState `json:"state,omitempty"`
	Exit  string      `json:"exit,omitempty"`
}

// MarshalJSON writes a member of which there is no more to say as its name. Catalogues and manifests of before had names only, and
// must be read, and a signed manifest written again, byte for byte.
func (p Placed) MarshalJSON() ([]byte, error) {
	if p == (Placed{Name: p.Name}) {
		return json.Marshal(p.Name)
	}
	return json.Marshal(placedForm(p))
}

// UnmarshalJSON reads both forms.
func (p *Placed) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*p = Placed{}
		return json.Unmarshal(data, &p.Name)
	}
	var f placedForm
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	*p = Placed(f)
	return nil
}

// Running makes records of members that run.
func Running(members ...string) []Placed {
	out := make([]Placed, 0, len(members))
	for _, m := range members {
		out = append(out, Placed{Name: m})
	}
	return out
}

// Names lists the names of members.
func Names(members []Placed) []string {
	out := make([]string, 0, len(members))
	for _, m := range members {
		out = append(out, m.Name)
	}
	return out
}

// Where finds a member's host.
func (j Job) Where(member string) (host string, p Placed, ok bool) {
	for host, members := range j.Placement {
		if i := slices.IndexFunc(members, func(m Placed) bool { return m.Name == member }); i >= 0 {
			return host, members[i], true
		}
	}
	return "", Placed{}, false
}

// DrawMember draws the name of a member that is about to be started on a registered host, and writes it down as starting: when it
// returns, no later call, in whatever process, gives that name again for as long as the job lives. The job is made if it is new.
// taken are names that the host says it has, which the catalogue may not know of: one that was rebuilt, say. While a restore has the lease on the job, the
// error wraps ErrConflict: a restore ends all that it finds when it has taken the lease, and nothing may come after that.
func (c *Catalogue) DrawMember(ctx context.Context, job, host string, taken []string) (name string, err error) {
	err = c.updateJob(ctx, job, true, func(tx kv.Tx, j *Job) error {
		if _, err := need[Host](tx, bucketHosts, host); err != nil {
			return err
		}
		if err := notRestoring(tx, job); err != nil {
			return err
		}
		cuts, err := cutsOf(tx, job)
		if err != nil {
			return err
		}
		for _, cut := range cuts { // of an import, or older than a rebuilt catalogue
			for _, h := range cut.Hosts {
				for _, m := range h.Members {
					taken = append(taken, m.Name)
				}
			}
		}
		for _, members := range j.Placement {
			taken = append(taken, Names(members)...)
		}
		prefix := names.Prefix(host)
		number := j.Drawn[prefix]
		for _, t := range taken {
			if p, n, ok := names.Number(t); ok && p == prefix {
				number = max(number, n)
			}
		}
		if number++; number > names.MaxNumber {
			return fmt.Errorf("job %q has had all the members of host %q that there are numbers for: %w", job, host, ErrInvalid)
		}
		if j.Drawn == nil {
			j.Drawn = map[string]uint64{}
		}
		j.Drawn[prefix], name = number, names.Member(prefix, number)
		j.place(host, Placed{Name: name, State: PlacedStarting})
		return nil
	})
	return name, err
}

// AddMember notes that a member runs on a host, and makes the job if it is new. One that is on another host makes the error wrap
// ErrConflict.
func (c *Catalogue) AddMember(ctx context.Context, job, host, member string) error {
	return c.changeJob(ctx, job, true, func(j *Job) error {
		if err := validName("member", member); err != nil {
			return err
		}
		if err := validName("host", host); err != nil {
			return err
		}
		if other, _, ok := j.Where(member); ok && other != host {
			return fmt.Errorf("member %q of job %q is on host %q: %w", member, job, other, ErrConflict)
		}
		j.place(host, Placed{Name: member})
		return nil
	})
}

// ConfirmMember notes that a member whose name was drawn runs. It is false, and nothing changes, if the catalogue has it there no more: a restore or a kill
// has come in between.
func (c *Catalogue) ConfirmMember(ctx context.Context, job, host, member string) (there bool, err error) {
	err = c.changeJob(ctx, job, false, func(j *Job) error {
		if there = slices.Contains(Names(j.Placement[host]), member); there {
			j.place(host, Placed{Name: member})
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) { // the job was removed
		return false, nil
	}
	return there, err
}

// RemoveMember notes that a member is gone. Its host stays among those that had members. A member
// that is not there is no error.
func (c *Catalogue) RemoveMember(ctx context.Context, job, host, member string) error {
	return c.changeJob(ctx, job, false, func(j *Job) error {
		if _, ok := j.Placement[host]; ok {
			j.Placement[host] = slices.DeleteFunc(j.Placement[host], func(m Placed) bool { return m.Name == member })
		}
		return nil
	})
}

// SeeMembers notes what hosts say of members that are placed there, by host and name. What is not placed there is left out, and so is a
// job that is not known. Where nothing is new, nothing is written.
func (c *Catalogue) SeeMembers(ctx context.Context, job string, seen map[string]map[string]Placed) error {
	j, err := c.Job(ctx, job)
	if errors.Is(err, ErrNotFound) || err == nil && !j.see(seen) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.changeJob(ctx, job, false, func(j *Job) error {
		j.see(seen)
		return nil
	})
}

// see applies what hosts say, and reports whether any of it is new.
func (j *Job) see(seen map[string]map[string]Placed) (changed bool) {
	for host, members := range j.Placement {
		for i, p := range members {
			now, ok := seen[host][p.Name]
			if ok && (now.State != p.State || now.Exit != p.Exit) {
				members[i].State, members[i].Exit, changed = now.State, now.Exit, true
			}
		}
	}
	return changed
}

// WithdrawMember takes back a member whose name was drawn and whose start has failed. A job that has come into being with it, and has had no
// other member, goes as well.
func (c *Catalogue) WithdrawMember(ctx context.Context, job, host, member string) error {
	return c.update(ctx, func(tx kv.Tx) error {
		j, err := need[Job](tx, bucketJobs, job)
		if err != nil {
			return err
		}
		j.Placement[host] = slices.DeleteFunc(j.Placement[host], func(m Placed) bool { return m.Name == member })
		prefix, number, _ := names.Number(member)
		if number == 1 && len(j.Drawn) == 1 && j.Drawn[prefix] == number && len(j.Placement) == 1 && j.Key == "" {
			return remove(tx, bucketJobs, job)
		}
		return put(tx, bucketJobs, job, j)
	})
}

// ClearHosts notes that hosts have no member of a job any more that is of the restore of that epoch, or older. They stay among those that had members. Where
// the job was restored since, other members live there, and nothing changes.
func (c *Catalogue) ClearHosts(ctx context.Context, job string, epoch uint64, hosts ...string) error {
	return c.changeJob(ctx, job, false, func(j *Job) error {
		if j.Restored > epoch {
			return nil
		}
		for _, host := range hosts {
			if _, ok := j.Placement[host]; ok {
				j.Placement[host] = []Placed{}
			}
		}
		return nil
	})
}

// SetPlacement replaces where the members of a job are, after a restore, and makes the job if it is
// new. Hosts that had members stay listed, without any.
func (c *Catalogue) SetPlacement(ctx context.Context, job string, placement map[string][]Placed) error {
	return c.changeJob(ctx, job, true, func(j *Job) error { return j.setPlacement(placement) })
}

func (j *Job) setPlacement(placement map[string][]Placed) error {
	for host := range j.Placement {
		j.Placement[host] = []Placed{}
	}
	for host, members := range placement {
		if err := validName("host", host); err != nil {
			return err
		}
		for _, m := range members {
			if err := validName("member", m.Name); err != nil {
				return err
			}
		}
		j.Placement[host] = sortedMembers(slices.Clone(members))
	}
	return j.validate()
}

// place puts a member on a host, in place of what is known of it there.
func (j *Job) place(host string, p Placed) {
	others := slices.DeleteFunc(j.Placement[host], func(m Placed) bool { return m.Name == p.Name })
	j.Placement[host] = sortedMembers(append(others, p))
}

func sortedMembers(members []Placed) []Placed {
	slices.SortFunc(members, func(a, b Placed) int { return cmp.Compare(a.Name, b.Name) })
	return append([]Placed{}, members...)
}
