package image

import (
	"fmt"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

func TestOwnSessions(t *testing.T) {
	// Each process is PID PPID SID PGID. Process 1 is the root, and led its own session.
	// Process 9 has ended, and nobody has waited for it.
	for name, row := range map[string]struct{ before, after string }{
		"its leader is a zombie":  {"1 0 1 1, 9 1 9 9, 10 1 9 9", "1 0 1 1, 9 1 9 9, 10 1 10 10"},
		"nothing to do":           {"1 0 1 1, 2 1 1 2, 3 1 3 3, 4 3 3 4", ""},
		"an orphaned daemon":      {"1 0 1 1, 5 1 4 4", "1 0 1 1, 5 1 5 5"},
		"with children":           {"1 0 1 1, 5 1 4 4, 6 5 4 4, 7 6 4 7, 8 6 8 8", "1 0 1 1, 5 1 5 5, 6 5 5 5, 7 6 5 7, 8 6 8 8"},
		"two of one session":      {"1 0 1 1, 5 1 4 4, 6 1 4 4", "1 0 1 1, 5 1 5 5, 6 1 6 6"},
		"its leader is a process": {"1 0 1 1, 4 1 4 4, 5 1 4 4", ""},
		"the root is a daemon":    {"5 0 4 4, 6 5 4 4", ""},
		"no root":                 {"5 3 4 4", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree := parseTree(t, row.before)
			changed := ownSessions(tree, map[uint32]bool{9: true})
			want := row.after
			if want == "" {
				want = row.before
			}
			if got := printTree(tree); got != want || changed != (row.after != "") {
				t.Errorf("%s (changed: %v)\nand must be %s", got, changed, want)
			}
		})
	}
}

func parseTree(t *testing.T, text string) (tree []*pstree.PstreeEntry) {
	t.Helper()
	for line := range strings.SplitSeq(text, ", ") {
		var pid, ppid, sid, pgid uint32
		if _, err := fmt.Sscan(line, &pid, &ppid, &sid, &pgid); err != nil {
			t.Fatal(err)
		}
		tree = append(tree, &pstree.PstreeEntry{Pid: proto.Uint32(pid), Ppid: proto.Uint32(ppid), Sid: proto.Uint32(sid), Pgid: proto.Uint32(pgid)})
	}
	return tree
}

func printTree(tree []*pstree.PstreeEntry) string {
	lines := make([]string, 0, len(tree))
	for _, p := range tree {
		lines = append(lines, fmt.Sprint(p.GetPid(), " ", p.GetPpid(), " ", p.GetSid(), " ", p.GetPgid()))
	}
	return strings.Join(lines, ", ")
}
