package restoration

import (
	"slices"
	"strconv"
)

// name returns the i-th of names, or kind and the number where there is none.
func name(names []string, kind string, i int) string {
	if i >= 0 && i < len(names) && names[i] != "" {
		return names[i]
	}
	return kind + "(" + strconv.Itoa(i) + ")"
}

var (
	// phaseNames are on disk and on the wire: a name never changes its meaning.
	phaseNames = []string{"unknown", "planned", "checking", "checked", "fetching", "armed", "fencing", "fenced", "restoring",
		"standing", "resuming", "resumed", "whole", "stopping", "stopped", "left"}
	messageNames = []string{"", "Check", "Fetch", "Fence", "Restore", "Resume", "Abort", "Finish", "Ask", "Report"}
	actionNames  = []string{"", "Check", "Fetch", "Fence", "Restore", "Resume", "Stop", "Release"}
	stageNames   = []string{"new", "checking", "fetching", "deciding the fence", "fencing", "restoring", "deciding the resume", "resuming", "aborting", "over"}
	resultNames  = []string{"none", "checked", "untouched", "stopped", "resumed", "unknown"}
	causeNames   = []string{"none", "problems", "action failed", "unreachable", "timeout", "interrupted", "settled by the hosts", "job lost"}
)

// String is the phase's name.
func (p Phase) String() string { return name(phaseNames, "Phase", int(p)) }

// ParsePhase is the phase of a name. ok is false if there is none.
func ParsePhase(s string) (p Phase, ok bool) {
	i := slices.Index(phaseNames, s)
	return Phase(max(i, 0)), i >= 0
}

// String is the message's name without its prefix.
func (t MessageType) String() string { return name(messageNames, "Message", int(t)) }

// String is the action's name without its prefix.
func (t ActionType) String() string { return name(actionNames, "Action", int(t)) }

// String is the stage in a few words.
func (s Stage) String() string { return name(stageNames, "Stage", int(s)) }

// String is the result in a word.
func (r Result) String() string { return name(resultNames, "Result", int(r)) }

// String is the cause in a few words.
func (c Cause) String() string { return name(causeNames, "Cause", int(c)) }
