package orchestrator

import (
	"context"

	"ss/store"
)

// What the tests in package orchestrator_test look at.

// AskTimeout is askTimeout.
const AskTimeout = askTimeout

// SurveyFor returns the hosts that did not answer a survey.
func (c *Cluster) SurveyFor(ctx context.Context, j store.Job, copies int) (missing map[string]error, err error) {
	s, err := c.surveyFor(ctx, j, copies)
	return s.missing, err
}

// Begin is begin.
func (c *Cluster) Begin(ctx context.Context, a store.Attempt) (store.Attempt, error) {
	return c.begin(ctx, a)
}

// CutFile is cutFile.
func (c *Cluster) CutFile(ctx context.Context, cut store.Cut) ([]byte, error) {
	return c.cutFile(ctx, cut)
}

// EndStale is endStale.
func (c *Cluster) EndStale(ctx context.Context, attempts []store.Attempt) error {
	return c.endStale(ctx, attempts)
}

// OldHosts plans a restore of a cut, has something happen before it has the job, and returns the hosts that take part and get no members.
func (c *Cluster) OldHosts(ctx context.Context, cut string, meanwhile func()) ([]string, error) {
	r, err := c.planRestore(ctx, RestoreOptions{Cut: cut})
	if err != nil {
		return nil, err
	}
	meanwhile()
	err = r.findNew(ctx)
	return r.old, err
}
