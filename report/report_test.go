package report

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/upkeep"
	"ss/store"
)

// TestListsAreNeverNull: a document of nothing has empty lists and objects, and no null.
func TestListsAreNeverNull(t *testing.T) {
	for _, doc := range []any{
		MembersOf(nil, nil, nil), HostsOf([]orchestrator.HostStatus{{}}, nil), CutsOf([]store.Cut{{}}), CutOf("ss/cut/1", store.Cut{}),
		JobOf("ss/job/1", store.Job{}, store.Cluster{}, nil), RestorePlanOf(orchestrator.RestorePlan{}), RepairedOf([]upkeep.RepairedPart{{}}, true),
		CollectedOf(upkeep.GCResult{Places: []upkeep.Collected{{}}}, false), UsageOf(upkeep.Usage{}), VerifiedOf(upkeep.VerifyResult{}, true),
		FailureOf(errors.New("x"), fault.Failed, 1),
	} {
		text, err := json.Marshal(doc)
		if err != nil || strings.Contains(string(text), "null") || !strings.Contains(string(text), `"schema":"ss/`) {
			t.Errorf("%T: %s (%v)", doc, text, err)
		}
	}
}

// TestTablesAreEven: every row has a cell for each column of the head.
func TestTablesAreEven(t *testing.T) {
	cut := CutOf("", store.Cut{Hosts: []store.CutHost{{Host: "hostA", Members: []store.CutMember{{Name: "a"}}}}, Channels: []store.CutChannel{{}}})
	for i, table := range []Table{
		MembersOf([]orchestrator.Member{{Exit: "exit status 0"}}, nil, nil).Table(), HostsOf([]orchestrator.HostStatus{{}}, nil).Table(),
		CutsOf([]store.Cut{{}}).Table(), cut.MemberTable(), cut.ChannelTable(), cut.HostTable(),
		Jobs{Jobs: []Job{{}}}.Table(), PlanOf(orchestrator.RestorePlan{Parts: []orchestrator.PlannedPart{{}}}).Table(),
		RepairedOf([]upkeep.RepairedPart{{}}, true).Table(), CollectedOf(upkeep.GCResult{Places: []upkeep.Collected{{}}}, false).Table(),
		UsageOf(upkeep.Usage{Places: []upkeep.PlaceUsage{{}}}).Table(), VerifiedOf(upkeep.VerifyResult{Copies: []upkeep.CopyResult{{}}}, true).Table(),
	} {
		if len(table) < 2 {
			t.Errorf("table %d has no row", i)
		}
		for _, row := range table {
			if len(row) != len(table[0]) {
				t.Errorf("table %d: %q has %d cells, %q has %d", i, row, len(row), table[0], len(table[0]))
			}
		}
	}
}

// TestFailureOf: each part of an error is in its field, and the message says the rest.
func TestFailureOf(t *testing.T) {
	err := &fault.Error{Kind: fault.Refused, Op: "snapshot", Job: "sim", Err: &fault.Error{Host: "hostA", Snapshot: "s1", Phase: "dumping",
		Err: errors.New("criu: no room")}, Next: "free some disk"}
	got := FailureOf(err, fault.KindOf(err), 4)
	want := Failure{Schema: "ss/error/1", Kind: "refused", ExitCode: 4, Op: "snapshot", Host: "hostA", Job: "sim", Snapshot: "s1", Phase: "dumping",
		Message: "snapshot of job sim: on hostA (s1, while dumping): criu: no room", Next: "free some disk"}
	if got != want {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestJSONIsDocumented: docs/json.md and docs/errors.md name each field of an error and each kind.
func TestJSONIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	for f := range reflect.TypeFor[Failure]().Fields() {
		if name := f.Tag.Get("json"); name != "schema" && !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("json.md does not name %s", name)
		}
	}
	for k := fault.Failed; k <= fault.Outdated; k++ {
		if !strings.Contains(doc, "`"+k.String()+"`") {
			t.Errorf("json.md does not name the kind %s", k)
		}
	}
}
