package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ss/orchestrator"
	"ss/store"
)

// Job is a job and its policy: what job show says, and job list for each.
type Job struct {
	Schema        string              `json:"schema,omitempty"`
	Job           string              `json:"job"`
	Copies        int                 `json:"copies"`
	Vaults        []string            `json:"vaults"`
	ClusterVaults bool                `json:"cluster_vaults"`
	Keep          Keep                `json:"keep"`
	Outside       []Outside           `json:"outside"`
	Encrypted     bool                `json:"encrypted"`
	KeyID         string              `json:"key_id"`
	Epoch         uint64              `json:"epoch"`
	Cuts          int                 `json:"cuts"`
	Pinned        int                 `json:"pinned"`
	Placement     map[string][]string `json:"placement"`
}

// Keep says which cuts retention leaves.
type Keep struct {
	Last   int `json:"last"`
	Hourly int `json:"hourly"`
	Daily  int `json:"daily"`
	Weekly int `json:"weekly"`
}

// JobOf describes a job. schema is that of the document; "" within another one.
func JobOf(schema string, j store.Job, cluster store.Cluster, cuts []store.Cut) Job {
	out := Job{Schema: schema, Job: j.Name, Copies: j.Policy.EffectiveCopies(), Vaults: Some(j.EffectiveVaults(cluster)), ClusterVaults: j.Policy.Vaults == nil,
		Keep: Keep(j.Policy.Keep), Encrypted: orchestrator.Encrypted(j, cluster), KeyID: j.KeyID, Epoch: j.Epoch, Cuts: len(cuts), Placement: map[string][]string{}, Outside: []Outside{}}
	for _, r := range j.Policy.Outside {
		out.Outside = append(out.Outside, Outside(r))
	}
	for _, c := range cuts {
		if c.Pinned {
			out.Pinned++
		}
	}
	for host, members := range j.Placement {
		if len(members) > 0 {
			out.Placement[host] = store.Names(members)
		}
	}
	return out
}

// Outside is a rule for connections that lead outside of the job.
type Outside struct {
	Match string `json:"match"`
	As    string `json:"as"`
}

// outside is the rules in one line.
func (j Job) outside() string {
	var out []string
	for _, r := range j.Outside {
		out = append(out, strings.TrimPrefix(r.Match+"="+r.As, "="))
	}
	if len(out) == 0 {
		return store.OutsideRefuse
	}
	return strings.Join(out, ", ")
}

func (k Keep) String() string {
	var rules []string
	for _, r := range []struct {
		what string
		n    int
	}{{"last", k.Last}, {"hourly", k.Hourly}, {"daily", k.Daily}, {"weekly", k.Weekly}} {
		if r.n > 0 {
			rules = append(rules, fmt.Sprintf("%s %d", r.what, r.n))
		}
	}
	if len(rules) == 0 {
		return "all"
	}
	return strings.Join(rules, ", ")
}

func (j Job) on() []string { return slices.Sorted(maps.Keys(j.Placement)) }

// Table has a row for each property, without a head.
func (j Job) Table() Table {
	vaults := Dash(strings.Join(j.Vaults, ", "))
	if j.ClusterVaults {
		vaults += " (the cluster's)"
	}
	var on []string
	for _, h := range j.on() {
		on = append(on, h+": "+strings.Join(j.Placement[h], " "))
	}
	secret := "not encrypted"
	if j.Encrypted {
		secret = "encrypted, key " + Dash(j.KeyID)
	}
	return Table{{"job", j.Job}, {"members", Dash(strings.Join(on, "; "))}, {"copies", fmt.Sprint(j.Copies)}, {"vaults", vaults},
		{"keep", j.Keep.String()}, {"outside connections", j.outside()}, {"images", secret}, {"cuts", fmt.Sprintf("%d, %d pinned", j.Cuts, j.Pinned)}, {"epoch", fmt.Sprint(j.Epoch)}}
}

// Jobs is what job list says.
type Jobs struct {
	Schema string `json:"schema"` // ss/job-list/1
	Jobs   []Job  `json:"jobs"`
}

// Table has a row for each job.
func (d Jobs) Table() Table {
	rows := Table{{"JOB", "MEMBERS ON", "COPIES", "VAULTS", "KEEP", "CUTS", "PINNED"}}
	for _, j := range d.Jobs {
		rows = append(rows, []string{j.Job, Dash(strings.Join(j.on(), ",")), fmt.Sprint(j.Copies),
			Dash(strings.Join(j.Vaults, ",")), j.Keep.String(), fmt.Sprint(j.Cuts), fmt.Sprint(j.Pinned)})
	}
	return rows
}

// JobRemoved is what job rm says.
type JobRemoved struct {
	Schema string `json:"schema"` // ss/job-rm/1
	Job    string `json:"job"`
}

// Killed is what kill says.
type Killed struct {
	Schema string   `json:"schema"` // ss/kill/1
	Job    string   `json:"job"`
	Killed []string `json:"killed"`
}

// Cluster is what init says.
type Cluster struct {
	Schema     string   `json:"schema"` // ss/init/1
	Cluster    string   `json:"cluster"`
	Dir        string   `json:"dir"`
	Recipients []string `json:"recipients"`
	Vaults     []string `json:"vaults"`
	Encrypted  bool     `json:"encrypted"`
}

// Version is what version says.
type Version struct {
	Schema  string `json:"schema"` // ss/version/1
	Version string `json:"version"`
}
