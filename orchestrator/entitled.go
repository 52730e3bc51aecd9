package orchestrator

import (
	"context"
	"fmt"
	"slices"

	"ss/fault"
	"ss/marker"
	"ss/store"
)

// entitled are the members that a snapshot records (F5 of docs/restore.md): those that the catalogue has where they say they live, of the
// epoch of the job's last restore. A host only says what lives there, so its word makes nobody a member: what else it names takes no part, its
// host gets no key for it, and a person is told. The names are unique, as those of the placement are.
func (c *Cluster) entitled(ctx context.Context, job store.Job, members []Member) ([]Member, error) {
	var out []Member
	for _, m := range members {
		placed := slices.Contains(store.Names(job.Placement[m.Host]), m.Name)
		live := m.State == StateRunning
		switch {
		case m.Epoch > job.Restored && len(job.Placement[m.Host]) > 0:
			return nil, c.newer(ctx, job, m)
		case placed && live && Superseded(m, job):
			return nil, fault.New(fault.Conflict, fmt.Sprintf("%s on %s is an old copy: it is of epoch %d, and the job was restored with epoch %d", m.Name, m.Host, m.Epoch, job.Restored),
				fmt.Sprintf("its agent ends it; ssctl ps %s shows when, and ssctl restore latest --job %s makes the job whole", job.Name, job.Name))
		case placed:
			out = append(out, m)
		case live && Superseded(m, job):
			c.Noticef("%s on %s is an old copy, of epoch %d, where the job was restored with epoch %d: it takes no part, and its agent ends it", m.Name, m.Host, m.Epoch, job.Restored)
		case live:
			c.Noticef("%s says that %s of job %s runs there, and the catalogue has no such member there: it takes no part, and the host gets no key; look at that host, and end what it has with ssctl kill %s --host %s",
				m.Host, m.Name, job.Name, job.Name, m.Host)
		}
	}
	return out, nil
}

// notWhole says why a job is not whole: with err, or where that explains it, with what is under way. A restore, and a snapshot that stops the job, take members away for
// a while. before is the job as it was when the hosts were asked.
func (c *Cluster) notWhole(ctx context.Context, before store.Job, s survey, err error) error {
	if k := fault.KindOf(err); k != fault.Refused && k != fault.NotFound {
		return err
	}
	attempts, aerr := c.Catalogue.Attempts(ctx)
	if aerr != nil {
		return aerr
	}
	for _, at := range attempts {
		if at.Live && at.Job == before.Name && at.Kind != store.KindCollect {
			return fault.New(fault.Conflict, fmt.Sprintf("job %s is busy with %s %s of another ssctl", at.Job, at.Kind, at.ID), "try again when that is over")
		}
	}
	now, jerr := c.Catalogue.Job(ctx, before.Name)
	if jerr != nil {
		return jerr
	}
	if now.Restored > before.Restored {
		return fault.New(fault.Conflict, fmt.Sprintf("another ssctl has restored job %s meanwhile", before.Name), "try again")
	}
	if berr := c.busyHost(ctx, now, s); berr != nil {
		return berr
	}
	return err
}

// busyHost is what a host says that the job is busy with: a restore whose ssctl is gone, and of which the host waits for another host's word. nil: none says so.
func (c *Cluster) busyHost(ctx context.Context, j store.Job, s survey) error {
	for _, h := range s.statuses {
		names := store.Names(j.Placement[h.Name])
		if h.Err != nil || len(names) == 0 {
			continue
		}
		a, err := c.AgentOf(h.Host)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		_, err = a.Check(ctx, CheckQuestion{Job: j.Name, Open: Open{Key: marker.Key{Job: marker.JobID(j.Name), Snapshot: "check"},
			Participants: []Participant{h.participant()}, Members: names, Restored: j.Restored}})
		cancel()
		if fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return nil
}

// newer says why a member is of a restore that came after the job was read from the catalogue: that restore is under way, or just over, or was made with another catalogue.
func (c *Cluster) newer(ctx context.Context, job store.Job, m Member) error {
	restoring, err := c.restoring(ctx, job.Name)
	if err != nil {
		return err
	}
	now, err := c.Catalogue.Job(ctx, job.Name)
	if err != nil {
		return err
	}
	if restoring || now.Restored >= m.Epoch {
		return fault.New(fault.Conflict, fmt.Sprintf("job %s is being restored by another ssctl, and %s on %s is of that restore", job.Name, m.Name, m.Host),
			"wait until that restore is over, and try again")
	}
	return fault.New(fault.Conflict, fmt.Sprintf("%s on %s is of the restore of epoch %d, and this catalogue knows of epoch %d: it is older than the job", m.Name, m.Host, m.Epoch, now.Restored),
		"use the folder that the restore was made with, or ssctl catalog rebuild in another folder")
}
