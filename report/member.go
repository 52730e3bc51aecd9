package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ss/orchestrator"
)

// Member is a member of a job.
type Member struct {
	Job      string   `json:"job"`
	Name     string   `json:"name"`
	Host     string   `json:"host"`
	Pid      int      `json:"pid"`
	Command  []string `json:"command"`
	State    string   `json:"state"`
	Exit     string   `json:"exit,omitempty"`
	RSS      int64    `json:"rss_bytes"`
	Channels int      `json:"channels"`
	Attached bool     `json:"attached,omitempty"`
	Epoch    uint64   `json:"epoch"`
	// SupersededBy is there for an old copy.
	SupersededBy uint64 `json:"superseded_by,omitempty"`
	// Aliases are where connections go that it opens to addresses of its past.
	Aliases map[string]string `json:"aliases,omitempty"`
	// Log is the path of its log on the host, and LogBytes how long that is: -1 where that is not known.
	Log      string `json:"log,omitempty"`
	LogBytes int64  `json:"log_bytes"`
	// Since is of state "unreachable": when the host was first found silent.
	Since *time.Time `json:"since,omitempty"`
}

// MemberOf describes a member.
func MemberOf(m orchestrator.Member) Member {
	state := m.State
	if m.Frozen {
		state = "frozen"
	}
	var since *time.Time
	if !m.Since.IsZero() {
		since = &m.Since
	}
	return Member{Since: since, Job: m.Job, Name: m.Name, Host: m.Host, Pid: m.Pid, Command: m.Command, State: state, Exit: m.Exit,
		RSS: m.RSS, Channels: m.Channels, Attached: m.Attached, Epoch: m.Epoch, Aliases: m.Aliases, SupersededBy: m.SupersededBy,
		Log: m.Log, LogBytes: m.LogBytes}
}

// Started is what run and attach say.
type Started struct {
	Schema string `json:"schema"`
	Member
}

// StartedOf describes a member that was started.
func StartedOf(m orchestrator.Member) Started { return Started{"ss/member/1", MemberOf(m)} }

// Members is what ps says.
type Members struct {
	Schema      string            `json:"schema"`
	Members     []Member          `json:"members"`
	Unreachable map[string]string `json:"unreachable"` // hosts, and why
	Unsettled   []Unsettled       `json:"unsettled"`
}

// MembersOf describes members, and the hosts that did not say theirs.
func MembersOf(members []orchestrator.Member, missing map[string]error, unsettled []orchestrator.Unsettled) Members {
	doc := Members{Schema: "ss/ps/1", Members: []Member{}, Unreachable: errorTexts(missing), Unsettled: UnsettledOf(unsettled)}
	for _, m := range members {
		doc.Members = append(doc.Members, MemberOf(m))
	}
	return doc
}

// Table has a row for each member.
func (d Members) Table() Table {
	rows := Table{{"JOB", "MEMBER", "HOST", "PID", "STATE", "RSS", "CHANNELS", "LOG", "COMMAND"}}
	for _, m := range d.Members {
		rows = append(rows, []string{m.Job, m.Name, m.Host, fmt.Sprint(m.Pid), m.stateText(), Size(m.RSS), fmt.Sprint(m.Channels), m.logText(), short(strings.Join(m.Command, " "), 60)})
	}
	return rows
}

func (m Member) stateText() string {
	state := m.State
	if m.State == orchestrator.StateUnreachable {
		state = "not reachable"
		if m.Since != nil {
			state += " since " + When(*m.Since)
		}
	}
	if m.Exit != "" {
		state += " (" + m.Exit + ")"
	}
	for _, from := range slices.Sorted(maps.Keys(m.Aliases)) {
		state += fmt.Sprintf(", %s is %s", from, m.Aliases[from])
	}
	if m.SupersededBy > 0 {
		state += fmt.Sprintf(", superseded by epoch %d", m.SupersededBy)
	}
	return state
}

// logText is a member's log and how long it is.
func (m Member) logText() string {
	switch {
	case m.Log == "":
		return "-"
	case m.LogBytes < 0:
		return m.Log
	}
	return fmt.Sprintf("%s (%s)", m.Log, Size(m.LogBytes))
}

// Unsettled is a host that a job was restored without.
type Unsettled struct {
	Job     string    `json:"job"`
	Host    string    `json:"host"`
	Members []string  `json:"members"`
	Epoch   uint64    `json:"epoch"`
	Since   time.Time `json:"since"`
}

// UnsettledOf describes them.
func UnsettledOf(in []orchestrator.Unsettled) []Unsettled {
	out := []Unsettled{}
	for _, u := range in {
		out = append(out, Unsettled{Job: u.Job, Host: u.Host, Members: Some(u.Members), Epoch: u.Epoch, Since: u.Since})
	}
	return out
}
