package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ss/fault"
	"ss/names"
)

// MemberInfo is a member with what it uses.
type MemberInfo struct {
	Member
	RSS      int64 // bytes, of all its processes; 0 if it does not run
	Channels int   // connections times two directions
	LogBytes int64 // how long its log is; -1 where that is not known
}

// Members lists the members of a job on this host, or of all jobs if job is empty.
func (a *Agent) Members(ctx context.Context, job string) ([]MemberInfo, error) {
	all, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, a.fail("ps", job, err)
	}
	var out []MemberInfo
	for _, m := range all {
		if job != "" && m.Job != job {
			continue
		}
		mi := MemberInfo{Member: m, LogBytes: logBytes(m)}
		if m.State == Running {
			if procs, err := a.cfg.Cells.Processes(ctx, m); err == nil {
				for _, p := range procs {
					mi.RSS += p.RSS
				}
			}
			if socks, err := a.cfg.Cells.Sockets(ctx, m); err == nil {
				for _, s := range socks {
					if !s.Listening && s.Remote.IsValid() && !s.Remote.Addr().IsLoopback() {
						mi.Channels += 2
					}
				}
			}
		}
		out = append(out, mi)
	}
	return out, nil
}

// Run starts a member of a job under the name that the catalogue has drawn for it.
func (a *Agent) Run(ctx context.Context, m Member) (Member, error) {
	if err := checkRun(m); err != nil {
		return Member{}, a.fail("run", m.Job, err)
	}
	release, err := a.lockJob(m.Job, "run")
	if err != nil {
		return Member{}, a.fail("run", m.Job, err)
	}
	defer release()
	if err := a.vacant(ctx, m.Job, m.Name); err != nil {
		return Member{}, a.fail("run", m.Job, err)
	}
	if err := checkLog(m.Log); err != nil {
		return Member{}, a.fail("run", m.Job, err)
	}
	if err := a.standings.admit(m); err != nil {
		return Member{}, a.fail("run", m.Job, err)
	}
	if err := a.checkFolders(ctx, m.Job, m.Folders); err != nil {
		return Member{}, a.fail("run", m.Job, &fault.Error{Kind: fault.Usage, Err: err})
	}
	if m.Log == "" {
		if m.Log, err = a.makeLog(m.Job, m.Name); err != nil {
			return Member{}, a.fail("run", m.Job, err)
		}
	}
	got, err := a.cfg.Cells.Start(ctx, m)
	if errors.Is(err, ErrNoRedirect) { // it may never need one; ps shows that it has none
		a.log.Warn("a member is started without redirection of old addresses", "job", m.Job, "member", m.Name, "error", err)
		m.Aliases, m.Names = nil, nil
		got, err = a.cfg.Cells.Start(ctx, m)
	}
	if err == nil {
		got, err = a.outlast(ctx, got)
	}
	if err == nil {
		_, err = a.standings.carryOut(ctx, m.Job)
	}
	if err != nil {
		return Member{}, a.fail("run", m.Job, errors.Join(err, a.removeLog(m)))
	}
	a.log.Info("member started", "job", m.Job, "member", got.Name, "pid", got.Pid, "command", strings.Join(m.Command, " "))
	return got, nil
}

func checkRun(m Member) error {
	if err := checkNames(m.Job, m.Name); err != nil {
		return err
	}
	switch {
	case len(m.Command) == 0 || m.Command[0] == "":
		return fault.New(fault.Usage, "no command", "give it after --")
	}
	for _, p := range append([]string{m.Dir, m.Log}, m.Folders...) {
		if p != "" && !filepath.IsAbs(p) {
			return fault.New(fault.Usage, fmt.Sprintf("%s is not an absolute path", p), "the path is looked up on the host: start it with /")
		}
	}
	for _, kv := range m.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return fault.New(fault.Usage, fmt.Sprintf("%q is not K=V", kv), "")
		}
	}
	return nil
}

// checkNames refuses a job or a member whose name cannot be one.
func checkNames(job, member string) error {
	for _, err := range []error{names.Check("job", job), names.Check("member", member)} {
		if err != nil {
			return &fault.Error{Kind: fault.Usage, Err: err}
		}
	}
	return nil
}

// vacant refuses the name of a member that this host has, running or ended: the catalogue draws each name once.
func (a *Agent) vacant(ctx context.Context, job, name string) error {
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(members, func(m Member) bool { return m.Job == job && m.Name == name }) {
		return fault.New(fault.Conflict, fmt.Sprintf("member %s is on this host already", name), "try again: the catalogue draws another name")
	}
	return nil
}

// startWatch is how long Run looks on: a program that is not set up right, as a rule, ends sooner.
const startWatch = 250 * time.Millisecond

// outlast returns a member that has been started when startWatch is over, or it has ended with success. One that has ended otherwise is
// forgotten, and the error says how it ended and what it wrote last.
func (a *Agent) outlast(ctx context.Context, m Member) (Member, error) {
	watch, cancel := context.WithTimeout(ctx, startWatch)
	defer cancel()
	now, err := a.cfg.Cells.AwaitEnd(watch, m)
	if err != nil || now.State != Exited || now.Exit == exitedWell {
		return now, err
	}
	last := a.lastWords(now)
	if last == "" {
		last = "its log is empty"
	} else {
		last = "the end of its log:\n" + last
	}
	err = fmt.Errorf("%s ended at once: %s; %s", m.Command[0], now.Exit, last)
	ctx, cancel = cleanup(ctx)
	defer cancel()
	return Member{}, errors.Join(err, a.endMember(ctx, now))
}

// exitedWell is how a member ends that has done what it was to do.
const exitedWell = "exit status 0"

// Attach takes the running tree of m in, under the name that the catalogue has drawn for it.
func (a *Agent) Attach(ctx context.Context, m Member) (Member, error) {
	job, name := m.Job, m.Name
	if err := checkNames(job, name); err != nil {
		return Member{}, a.fail("attach", job, err)
	}
	release, err := a.lockJob(job, "attach")
	if err != nil {
		return Member{}, a.fail("attach", job, err)
	}
	defer release()
	if err := a.vacant(ctx, job, name); err != nil {
		return Member{}, a.fail("attach", job, err)
	}
	if err := a.standings.admit(m); err != nil {
		return Member{}, a.fail("attach", job, err)
	}
	m, err = a.cfg.Cells.Attach(ctx, m)
	if err == nil {
		_, err = a.standings.carryOut(ctx, job)
	}
	if err != nil {
		return Member{}, a.fail("attach", job, err)
	}
	return m, nil
}

// Kill ends every member of a job on this host and forgets it.
func (a *Agent) Kill(ctx context.Context, job string) ([]string, error) {
	if err := a.overruleDoubt(ctx, job); err != nil {
		return nil, a.fail("kill", job, err)
	}
	release, err := a.lockJob(job, "kill")
	if err != nil {
		return nil, a.fail("kill", job, err)
	}
	defer release()
	killed, err := a.killMembers(ctx, job)
	if err == nil {
		err = a.clearAside(ctx, job)
	}
	if err == nil {
		_, err = a.standings.carryOut(ctx, job) // nothing is left to protect
	}
	if err != nil {
		return killed, a.fail("kill", job, err)
	}
	return killed, nil
}

func (a *Agent) killMembers(ctx context.Context, job string) ([]string, error) {
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, err
	}
	var killed []string
	var errs []error
	for _, m := range members {
		if m.Job != job {
			continue
		}
		if err := a.endMember(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("kill %s: %w", m.Name, err))
			continue
		}
		killed = append(killed, m.Name)
	}
	return killed, errors.Join(errs...)
}

func (a *Agent) endMember(ctx context.Context, m Member) error {
	if err := a.cfg.Cells.Kill(ctx, m); err != nil {
		return err
	}
	return a.cfg.Cells.Forget(ctx, m)
}

// running lists the running members of a job.
func (a *Agent) running(ctx context.Context, job string) ([]Member, error) {
	all, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m Member) bool { return m.Job != job || m.State != Running }), nil
}

// participating lists the members of a job that take part in a snapshot. One that does not run any more refuses it.
func (a *Agent) participating(ctx context.Context, job string, wanted []string) ([]Member, error) {
	all, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, err
	}
	if len(wanted) == 0 {
		return nil, fault.New(fault.Usage, "the snapshot names no member of this host", "use an ssctl of the agent's version")
	}
	var out []Member
	for _, name := range wanted {
		i := slices.IndexFunc(all, func(m Member) bool { return m.Job == job && m.Name == name })
		switch {
		case i < 0:
			return nil, fault.New(fault.NotFound, fmt.Sprintf("member %s is not on this host any more", name), "see ssctl ps "+job)
		case all[i].State != Running:
			return nil, fault.New(fault.Refused, fmt.Sprintf("member %s has ended (%s)", name, all[i].Exit), "see ssctl ps "+job)
		}
		out = append(out, all[i])
	}
	return out, nil
}
