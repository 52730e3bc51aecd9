package agent

import (
	"context"
	"errors"
	"fmt"

	"ss/fault"
	"ss/standing"
)

// decodeStatement reads a statement and refuses one that is not an admin's, or not of the job.
func (a *Agent) decodeStatement(job string, b []byte) (standing.Statement, error) {
	if a.cfg.Verifier == nil {
		return standing.Statement{}, errors.New("this agent cannot verify signatures")
	}
	st, err := standing.Decode(b, a.cfg.Verifier)
	if err == nil && st.Job != job {
		err = fmt.Errorf("the statement is of job %s, not %s: %w", st.Job, job, standing.ErrInvalid)
	}
	if err != nil {
		return standing.Statement{}, &fault.Error{Kind: fault.Denied, Err: err}
	}
	return st, nil
}

// admit refuses a member of an older epoch than this host knows of: the catalogue that it comes from is an old copy.
func (s *standings) admit(m Member) error {
	if rec := s.record(m.Job); rec.Epoch > m.Epoch {
		return &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("job %s was restored with epoch %d, and this ssctl knows of epoch %d: its catalogue is older than the job",
			m.Job, rec.Epoch, m.Epoch), Next: "use the folder that the restore was made with, or ssctl catalog rebuild in another folder"}
	}
	return nil
}

// planned reads the statement of a plan, gives its epoch to the members, and refuses a plan that is older than what this host knows.
func (s *standings) planned(plan RestorePlan) (standing.Statement, error) {
	if len(plan.Statement) == 0 {
		return standing.Statement{}, nil
	}
	st, err := s.a.decodeStatement(string(plan.Key.Job), plan.Statement)
	if err != nil {
		return st, err
	}
	if rec := s.record(st.Job); st.Epoch <= rec.Epoch {
		return st, &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("job %s was restored with epoch %d, and this is a restore of epoch %d: the catalogue of this ssctl is older than the job",
			st.Job, rec.Epoch, st.Epoch), Next: "use the folder that the other restore was made with, or ssctl catalog rebuild in another folder"}
	}
	for _, part := range plan.Parts {
		for i := range part.Members {
			part.Members[i].Epoch = st.Epoch
		}
	}
	return st, nil
}

// entitled lists the members that an attempt records: those that the catalogue has here. A catalogue that does not know of the job's last restore
// is refused.
func (a *Agent) entitled(ctx context.Context, open Open) ([]Member, error) {
	job := string(open.Key.Job)
	if err := a.standings.admit(Member{Job: job, Epoch: open.Restored}); err != nil {
		return nil, err
	}
	members, err := a.participating(ctx, job, open.Members)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Epoch != open.Restored {
			return nil, fault.New(fault.Conflict, fmt.Sprintf("%s is of epoch %d, and the job was restored with epoch %d", m.Name, m.Epoch, open.Restored), "see ssctl ps "+job)
		}
	}
	return members, nil
}
