package upkeep

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ss/names"
	"ss/orchestrator"
	"ss/store"
)

// place puts in where the hosts that answered say that members are. Manifests say where they were at their cuts, which counts for the hosts
// that did not answer. The remarks say that, and of when the jobs' settings are.
func (g *gathering) place(ctx context.Context, r *store.Rebuilt) (remarks []string) {
	said := map[string][]orchestrator.Member{} // by job
	answered := map[string]bool{}
	for _, h := range r.Hosts {
		if !g.asked[h.Name] {
			continue
		}
		members, err := g.c.MembersOf(ctx, h, "")
		if err != nil {
			remarks = append(remarks, fmt.Sprintf("%s does not say which members it has: %v", h.Name, err))
			continue
		}
		answered[h.Name] = true
		for _, m := range members {
			said[m.Job] = append(said[m.Job], m)
		}
	}
	for i := range r.Jobs {
		remarks = append(remarks, placeJob(&r.Jobs[i], said[r.Jobs[i].Name], answered)...)
		remarks = append(remarks, g.settingsOf(r.Jobs[i].Name)...)
		delete(said, r.Jobs[i].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(said)) { // jobs that have no cut
		j := store.Job{Name: name, Created: r.Cluster.Created, Epoch: store.EpochMargin}
		remarks = append(remarks, placeJob(&j, said[name], answered)...)
		remarks = append(remarks, fmt.Sprintf("job %s has no cut: it is known by its members, and its settings are lost", name))
		r.Jobs = append(r.Jobs, j)
	}
	return remarks
}

// placeJob places the members of one job, and counts on from the highest of their numbers.
func placeJob(j *store.Job, members []orchestrator.Member, answered map[string]bool) (remarks []string) {
	placed := map[string][]store.Placed{}
	for host, before := range j.Placement {
		placed[host] = []store.Placed{}
		if !answered[host] {
			placed[host] = slices.Clone(before)
		}
	}
	orchestrator.SortMembers(members)
	at := map[string]string{}
	for _, m := range members {
		if other, ok := at[m.Name]; ok {
			remarks = append(remarks, fmt.Sprintf("member %s of job %s is on %s and on %s: the one on %s is taken for the job's", m.Name, j.Name, other, m.Host, other))
			continue
		}
		at[m.Name] = m.Host
		for host := range placed { // what a silent host had, and lives elsewhere, is not there any more
			placed[host] = slices.DeleteFunc(placed[host], func(p store.Placed) bool { return p.Name == m.Name })
		}
		placed[m.Host] = append(placed[m.Host], orchestrator.PlacedOf(m))
	}
	j.Placement = placed
	if j.Drawn == nil {
		j.Drawn = map[string]uint64{}
	}
	for name := range at {
		if prefix, n, ok := names.Number(name); ok {
			j.Drawn[prefix] = max(j.Drawn[prefix], n)
		}
	}
	return remarks
}

// settingsOf says of when the settings of a job are.
func (g *gathering) settingsOf(job string) []string {
	var newest store.CutFile
	for _, f := range g.files {
		if f.Job.Name == job && f.Signed.After(newest.Signed) {
			newest = f
		}
	}
	if newest.Signed.IsZero() {
		return nil
	}
	return []string{strings.TrimSpace(fmt.Sprintf("settings of job %s are those of %s, kept with its cuts; what was set later, and reached no holder, is lost",
		job, newest.Signed.Local().Format("2006-01-02 15:04:05")))}
}
