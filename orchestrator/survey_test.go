package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ss/fault"
	. "ss/orchestrator"
	"ss/orchestrator/clustertest"
)

// slowHost answers after a while, or never.
type slowHost struct {
	*clustertest.Host
	after time.Duration // negative: never
}

func (h slowHost) wait(ctx context.Context) error {
	after := h.after
	if after < 0 {
		after = time.Hour
	}
	select {
	case <-time.After(after):
		return nil
	case <-ctx.Done():
		return fault.New(fault.Unreachable, h.Name+" does not answer", "")
	}
}

func (h slowHost) Info(ctx context.Context, word Word) (HostInfo, error) {
	if err := h.wait(ctx); err != nil {
		return HostInfo{}, err
	}
	return h.Host.Info(ctx, word)
}

func (h slowHost) Members(ctx context.Context, job string) ([]Member, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Host.Members(ctx, job)
}

// TestSurveyWaitsForWhoMatters: the hosts of the job are waited for as long as it takes, the others as long as a copy may need them. The
// catalogue says since when a host is silent, and that is the end of waiting for it. Time is virtual.
func TestSurveyWaitsForWhoMatters(t *testing.T) {
	const never = -1
	for name, c := range map[string]struct {
		after   map[string]int // in milliseconds; hostA and hostB have members
		silent  []string       // as the catalogue says before
		copies  int
		took    int // milliseconds
		missing string
		back    string // a host that the catalogue has as silent no more
	}{
		"all answer":                        {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": 10, "hostD": 15}, copies: 1, took: 20},
		"a bystander is dead":               {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": never, "hostD": 15}, copies: 1, took: 120, missing: "hostC"},
		"a bystander is known to be dead":   {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": never, "hostD": 15}, silent: []string{"hostC"}, copies: 1, took: 20, missing: "hostC"},
		"a bystander is slow":               {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": 70, "hostD": 15}, copies: 1, took: 70},
		"a bystander is needed for a copy":  {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": 3000, "hostD": 15}, copies: 3, took: 3000},
		"known to be dead, needed, is back": {after: map[string]int{"hostA": 5, "hostB": 20, "hostC": 30, "hostD": 15}, silent: []string{"hostC"}, copies: 3, took: 30, back: "hostC"},
		"a host of the job is slow":         {after: map[string]int{"hostA": 5, "hostB": 4000, "hostC": 10, "hostD": 15}, copies: 1, took: 4000},
		"a host of the job is dead":         {after: map[string]int{"hostA": 5, "hostB": never, "hostC": 10, "hostD": 15}, copies: 1, took: int(AskTimeout.Milliseconds()), missing: "hostB"},
		"a host of the job, known to be":    {after: map[string]int{"hostA": 5, "hostB": 4000, "hostC": 10, "hostD": 15}, silent: []string{"hostB"}, copies: 1, took: 4000, back: "hostB"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC", "hostD")
			err := errors.Join(f.Catalogue.AddMember(t.Context(), "ring", "hostA", "hostA-1"), f.Catalogue.AddMember(t.Context(), "ring", "hostB", "hostB-1"))
			for _, h := range c.silent {
				err = errors.Join(err, f.Catalogue.SetSilent(t.Context(), map[string]bool{h: true}))
			}
			j, jerr := f.Catalogue.Job(t.Context(), "ring")
			if err = errors.Join(err, jerr); err != nil {
				t.Fatal(err)
			}
			f.Dial = func(h Host) (Agent, error) {
				return slowHost{f.Agents[h.Name], time.Duration(c.after[h.Name]) * time.Millisecond}, nil
			}
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				missing, err := f.SurveyFor(ctx, j, c.copies)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began).Milliseconds(); took != int64(c.took) {
					t.Errorf("it took %d ms, want %d", took, c.took)
				}
				if got := fmt.Sprint(missing); (c.missing == "") != (len(missing) == 0) || c.missing != "" && missing[c.missing] == nil {
					t.Errorf("missing: %s, want %s", got, c.missing)
				}
			})
			for _, h := range c.silent {
				if now, err := f.Catalogue.Host(t.Context(), h); err != nil || now.Silent.IsZero() != (h == c.back) {
					t.Errorf("%s: silent since %v, %v", h, now.Silent, err)
				}
			}
			if c.missing == "hostB" {
				if now, err := f.Catalogue.Host(t.Context(), "hostB"); err != nil || now.Silent.IsZero() {
					t.Errorf("hostB is not known to be silent: %v", err)
				}
			}
		})
	}
}

// startingHost is an agent whose answer to Run gets lost.
type startingHost struct {
	*clustertest.Host
	runs    bool  // the member does run
	answers bool  // when it is asked
	err     error // of Run
}

func (h *startingHost) Run(_ context.Context, m Member) (Member, error) {
	if h.runs {
		m.Host, m.State, m.Pid = h.Name, StateRunning, 5
		h.Living = append(h.Living, m)
	}
	return m, h.err
}

func (h *startingHost) Members(ctx context.Context, job string) ([]Member, error) {
	if !h.answers && len(h.Calls) > 0 {
		return nil, fault.New(fault.Unreachable, "gone", "")
	}
	h.Calls = append(h.Calls, "members")
	return h.Host.Members(ctx, job)
}

// TestStart: the catalogue knows of a member before its host does, and afterwards what is known of it.
func TestStart(t *testing.T) {
	lost, refused := fault.New(fault.Unreachable, "the line broke", ""), fault.New(fault.Conflict, "busy", "")
	for name, c := range map[string]struct {
		host startingHost
		want string // state of hostA-1 in the catalogue; "-": it is not there
		said string
	}{
		"it runs":                          {startingHost{runs: true, answers: true}, "", ""},
		"it is refused":                    {startingHost{answers: true, err: refused}, "-", "busy"},
		"the answer is lost, it runs":      {startingHost{runs: true, answers: true, err: lost}, "", "was started on hostA anyway"},
		"the answer is lost, it does not":  {startingHost{answers: true, err: lost}, "-", "the line broke"},
		"the host is lost, it runs":        {startingHost{runs: true, err: lost}, "starting", "is not known"},
		"the host is lost, it runs or not": {startingHost{err: lost}, "starting", "is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.New(t, clustertest.ClusterA, "hostA")
			h := c.host
			h.Host = f.Agents["hostA"]
			f.Dial = func(Host) (Agent, error) { return &h, nil }
			m, err := f.Run(t.Context(), "hostA", Member{Job: "ring", Command: []string{"x"}})
			if (err == nil) != (c.said == "") || err != nil && !errorSays(err, c.said) {
				t.Errorf("%+v, %v", m, err)
			}
			j, err := f.Catalogue.Job(t.Context(), "ring")
			if err != nil && c.want != "-" {
				t.Fatal(err)
			}
			_, p, ok := j.Where("hostA-1")
			if got := map[bool]string{true: string(p.State), false: "-"}[ok]; got != c.want {
				t.Errorf("the catalogue has %q, want %q", got, c.want)
			}
			if name, err := f.Catalogue.DrawMember(t.Context(), "ring", "hostA", nil); err != nil || c.want != "-" && name != "hostA-2" {
				t.Errorf("the next name is %s, %v", name, err)
			}
		})
	}
}

func errorSays(err error, text string) bool { return strings.Contains(err.Error(), text) }
