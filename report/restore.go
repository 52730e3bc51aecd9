package report

import (
	"slices"
	"strings"

	"ss/orchestrator"
)

// Part is where one host's part of a cut goes.
type Part struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Members []string `json:"members"`
	Sources []string `json:"sources"`
	Vaults  []string `json:"vaults"`
}

// Plan is how a cut is to be restored.
type Plan struct {
	Parts []Part            `json:"parts"`
	Moved map[string]string `json:"moved"`
	// Aliases are where connections go that the job opens to addresses of its past.
	Aliases  map[string]string `json:"aliases,omitempty"`
	Problems []Problem         `json:"problems"`
}

// Problem is a problem found on a host.
type Problem struct {
	Host string `json:"host"`
	Text string `json:"text"`
}

// PlanOf describes a plan.
func PlanOf(p orchestrator.RestorePlan) Plan {
	out := Plan{Parts: []Part{}, Moved: map[string]string{}, Problems: []Problem{}}
	for _, part := range p.Parts {
		j := Part{From: part.From, To: part.To, Sources: Some(part.Sources), Vaults: Some(part.Vaults)}
		for _, m := range part.Members {
			j.Members = append(j.Members, m.Name)
		}
		out.Parts = append(out.Parts, j)
	}
	for from, to := range p.Moved {
		out.Moved[from.String()] = to.String()
	}
	out.Aliases = p.Aliases
	for _, f := range p.Problems {
		out.Problems = append(out.Problems, Problem(f))
	}
	return out
}

// Table has a row for each part.
func (p Plan) Table() Table {
	rows := Table{{"PART OF", "GOES TO", "MEMBERS", "IMAGES ON"}}
	for _, part := range p.Parts {
		rows = append(rows, []string{part.From, part.To, strings.Join(part.Members, ","), Dash(strings.Join(slices.Concat(part.Sources, part.Vaults), ","))})
	}
	return rows
}

// RestorePlan is what restore --dry-run says.
type RestorePlan struct {
	Schema string `json:"schema"`
	Cut    string `json:"cut"`
	Job    string `json:"job"`
	Plan
}

// RestorePlanOf describes a plan that was checked.
func RestorePlanOf(p orchestrator.RestorePlan) RestorePlan {
	return RestorePlan{"ss/restore-plan/2", p.Cut.ID, p.Cut.Job, PlanOf(p)}
}

// Restored is what restore says.
type Restored struct {
	Schema  string             `json:"schema"`
	Cut     string             `json:"cut"`
	Job     string             `json:"job"`
	TotalMs float64            `json:"total_ms"`
	StepsMs map[string]float64 `json:"steps_ms"`
	Plan
}

// RestoredOf describes a restore that is over.
func RestoredOf(res orchestrator.RestoreResult) Restored {
	return Restored{"ss/restore/2", res.Plan.Cut.ID, res.Plan.Cut.Job, float64(res.Total.Microseconds()) / 1000, res.StepsMs, PlanOf(res.Plan)}
}
