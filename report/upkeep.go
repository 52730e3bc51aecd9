package report

import (
	"fmt"
	"slices"
	"strings"

	"ss/orchestrator/upkeep"
)

// RepairedPart is a host's part of a cut, and what repair has found and done.
type RepairedPart struct {
	Cut      string   `json:"cut"`
	Job      string   `json:"job"`
	Host     string   `json:"host"`
	State    string   `json:"state"`
	Copies   []string `json:"copies"`
	Vaults   []string `json:"vaults"`
	Silent   []string `json:"silent"`
	Done     []string `json:"done"`
	Problems []string `json:"problems"`

	on string // holders for people, those that are silent included
}

// Repaired is what repair says.
type Repaired struct {
	Schema string         `json:"schema"`
	DryRun bool           `json:"dry_run"`
	Parts  []RepairedPart `json:"parts"`
}

// RepairedOf describes what repair has done, or would do.
func RepairedOf(parts []upkeep.RepairedPart, dry bool) Repaired {
	doc := Repaired{Schema: "ss/repair/2", DryRun: dry, Parts: []RepairedPart{}}
	for _, p := range parts {
		doc.Parts = append(doc.Parts, RepairedPart{Cut: p.Key.Snapshot, Job: p.Key.Job, Host: p.Key.Host, State: string(p.State), Copies: answering(p.Copies, p.Silent),
			Vaults: answering(p.Vaults, p.Silent), Silent: Some(p.Silent), Done: Some(p.Done), Problems: Some(p.Problems), on: copiesOn(p)})
	}
	return doc
}

// answering lists those of holders that answer.
func answering(holders, silent []string) []string {
	return slices.DeleteFunc(Some(holders), func(h string) bool { return slices.Contains(silent, h) })
}

func copiesOn(p upkeep.RepairedPart) string {
	var on []string
	for _, h := range append(Some(p.Copies), p.Vaults...) {
		if slices.Contains(p.Silent, h) {
			h += " (silent)"
		}
		on = append(on, h)
	}
	return Dash(strings.Join(on, ","))
}

// Table has a row for each part.
func (d Repaired) Table() Table {
	rows := Table{{"CUT", "JOB", "IMAGES OF", "STATE", "COPIES ON", "DONE"}}
	if d.DryRun {
		rows[0][3], rows[0][5] = "WOULD BE", "TO DO"
	}
	for _, p := range d.Parts {
		rows = append(rows, []string{p.Cut, p.Job, p.Host, p.State, p.on, Dash(strings.Join(p.Done, ", "))})
	}
	return rows
}

// Problems is what was not repaired, for people: a line for each.
func (d Repaired) Problems() []string {
	var out []string
	for _, p := range d.Parts {
		for _, f := range p.Problems {
			out = append(out, fmt.Sprintf("%s, images of %s: %s", p.Cut, p.Host, f))
		}
	}
	return out
}

// CollectedPlace is a host or a vault, and what gc removed there.
type CollectedPlace struct {
	Where   string   `json:"where"`
	Vault   bool     `json:"vault"`
	Job     string   `json:"job,omitempty"`
	Sets    []string `json:"sets"`
	Objects int      `json:"objects"`
	Bytes   int64    `json:"bytes"`
	Skipped string   `json:"skipped,omitempty"`
}

// Collected is what gc says.
type Collected struct {
	Schema  string           `json:"schema"`
	DryRun  bool             `json:"dry_run"`
	Expired []string         `json:"expired"`
	Places  []CollectedPlace `json:"places"`
}

// CollectedOf describes what gc has removed, or would remove.
func CollectedOf(res upkeep.GCResult, dry bool) Collected {
	doc := Collected{Schema: "ss/gc/1", DryRun: dry, Expired: []string{}, Places: []CollectedPlace{}}
	for _, p := range res.Places {
		doc.Places = append(doc.Places, CollectedPlace{p.Where, p.Vault, p.Job, Some(p.Sets), p.Objects, p.Bytes, p.Skipped})
	}
	for _, cut := range res.Expired {
		doc.Expired = append(doc.Expired, cut.ID)
	}
	return doc
}

// Table has a row for each place.
func (d Collected) Table() Table {
	rows := Table{{"WHERE", "JOB", "SETS", "OBJECTS", "SIZE"}}
	for _, p := range d.Places {
		rows = append(rows, []string{p.Where, Dash(p.Job), fmt.Sprint(len(p.Sets)), fmt.Sprint(p.Objects), Size(p.Bytes)})
	}
	return rows
}

// PlaceUsage is what a job's images take on a host or in a vault.
type PlaceUsage struct {
	Where string `json:"where"`
	Vault bool   `json:"vault"`
	Job   string `json:"job"`
	Sum
}

// Sum is what image sets take.
type Sum struct {
	Sets    int     `json:"sets"`
	Logical int64   `json:"logical_bytes"`
	Stored  int64   `json:"stored_bytes"`
	Ratio   float64 `json:"ratio"` // how many bytes of files a stored byte stands for; 0 if nothing is stored
}

func sum(sets int, logical, stored int64) Sum {
	s := Sum{Sets: sets, Logical: logical, Stored: stored}
	if stored > 0 {
		s.Ratio = float64(logical) / float64(stored)
	}
	return s
}

func (s Sum) cells() []string {
	r := "-"
	if s.Stored > 0 {
		r = fmt.Sprintf("%.2f", s.Ratio)
	}
	return []string{fmt.Sprint(s.Sets), Size(s.Logical), Size(s.Stored), r}
}

// Usage is what df says.
type Usage struct {
	Schema      string            `json:"schema"`
	Usage       []PlaceUsage      `json:"usage"`
	FreeBytes   map[string]int64  `json:"free_bytes"` // by host
	Unreachable map[string]string `json:"unreachable"`
	Total       Sum               `json:"total"`

	rows Table
}

// UsageOf describes what images take.
func UsageOf(u upkeep.Usage) Usage {
	doc := Usage{Schema: "ss/df/1", Usage: []PlaceUsage{}, FreeBytes: map[string]int64{}, Unreachable: errorTexts(u.Silent),
		rows: Table{{"WHERE", "JOB", "SETS", "LOGICAL", "STORED", "RATIO", "FREE"}}}
	row := func(where, job string, s Sum, room string) {
		doc.rows = append(doc.rows, append(append([]string{where, job}, s.cells()...), room))
	}
	var sets int
	var logical, stored int64
	for _, p := range u.Places {
		room := "-"
		if !p.Vault {
			doc.FreeBytes[p.Where] = p.Free
			room = Size(p.Free)
		}
		if len(p.Jobs) == 0 {
			row(p.Where, "-", Sum{}, room)
		}
		for _, j := range p.Jobs {
			line := PlaceUsage{p.Where, p.Vault, j.Job, sum(j.Sets, j.Logical, j.Stored)}
			doc.Usage = append(doc.Usage, line)
			row(line.Where, line.Job, line.Sum, room)
			sets, logical, stored = sets+j.Sets, logical+j.Logical, stored+j.Stored
		}
	}
	doc.Total = sum(sets, logical, stored)
	row("total", "-", doc.Total, "-")
	return doc
}

// Table has a row for each job on each place, and the total.
func (d Usage) Table() Table { return d.rows }

// VerifiedCopy is a copy of a host's part of a cut.
type VerifiedCopy struct {
	Host   string `json:"host"`
	Holder string `json:"holder"`
	Vault  bool   `json:"vault"`
	Files  int    `json:"files"`
	Bytes  int64  `json:"bytes"`

	whole bool
}

// Verified is what verify says.
type Verified struct {
	Schema          string         `json:"schema"`
	Cut             string         `json:"cut"`
	Copies          []VerifiedCopy `json:"copies"`
	Channels        int            `json:"channels"`
	ChannelsChecked bool           `json:"channels_checked"`
	ReadData        bool           `json:"read_data"`
}

// VerifiedOf describes what verify has found.
func VerifiedOf(res upkeep.VerifyResult, readData bool) Verified {
	doc := Verified{Schema: "ss/verify/1", Cut: res.Cut.ID, Copies: []VerifiedCopy{}, Channels: res.Channels, ChannelsChecked: len(res.Unchecked) == 0, ReadData: readData}
	for _, cp := range res.Copies {
		doc.Copies = append(doc.Copies, VerifiedCopy{cp.Host, cp.Holder, cp.Vault, cp.Files, cp.Bytes, cp.Err == nil})
	}
	return doc
}

// Table has a row for each copy.
func (d Verified) Table() Table {
	rows := Table{{"IMAGES OF", "COPY ON", "FILES", "SIZE", "STATE"}}
	for _, cp := range d.Copies {
		state := "see below"
		if cp.whole {
			state = "whole"
		}
		rows = append(rows, []string{cp.Host, cp.Holder, fmt.Sprint(cp.Files), Size(cp.Bytes), state})
	}
	return rows
}
