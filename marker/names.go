package marker

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
	messageNames = []string{"", "Prepare", "Start", "Renew", "AllRecorded", "Commit", "Abort",
		"Prepared", "Recorded", "Complete", "Failed", "Aborted", "Done", "Marker", "Dumped", "Captured", "Lacks", "Hold", "Calm"}
	actionNames = []string{"", "Prepare", "Record", "Settle", "Dump", "Thaw", "Open", "Store",
		"Rollback", "Finish", "Release", "Discard", "OpenRest", "Hold"}
	// phaseNames are on disk: a name never changes its meaning.
	phaseNames = []string{"idle", "preparing", "prepared", "recording", "settling", "dumping",
		"storing", "complete", "finishing", "rolling back"}
	causeNames = []string{"none", "refused", "conflict", "stale epoch", "action failed", "lease ran out",
		"agent restarted", "peer unreachable", "unreachable", "timeout", "interrupted", "check failed",
		"commit failed", "bad config", "resolved", "outside connection", "connection not accepted", "job lost"}
	// outsideNames are on disk, and in a job's policy.
	outsideNames  = []string{"refuse", "close", "keep"}
	stageNames    = []string{"new", "preparing", "running", "committing", "finishing", "aborting", "over"}
	progressNames = []string{"untouched", "contacted", "prepared", "calm", "recorded", "complete", "done", "aborted"}
)

// String is the message's name without its prefix.
func (t MessageType) String() string { return name(messageNames, "Message", int(t)) }

// String is the action's name without its prefix.
func (t ActionType) String() string { return name(actionNames, "Action", int(t)) }

// String is the phase in lower case.
func (p Phase) String() string { return name(phaseNames, "Phase", int(p)) }

// ParsePhase is the phase of a name. ok is false if there is none.
func ParsePhase(s string) (p Phase, ok bool) {
	i := slices.Index(phaseNames, s)
	return Phase(max(i, 0)), i >= 0
}

// String is the cause in a few words.
func (c Cause) String() string { return name(causeNames, "Cause", int(c)) }

// String is the policy as a job's settings name it.
func (o OutsidePolicy) String() string { return name(outsideNames, "OutsidePolicy", int(o)) }

// ParseOutside is the policy of a name. ok is false if there is none; the policy is to refuse then.
func ParseOutside(s string) (o OutsidePolicy, ok bool) {
	i := slices.Index(outsideNames, s)
	return OutsidePolicy(max(i, 0)), i >= 0
}

// String is the stage in lower case.
func (s Stage) String() string { return name(stageNames, "Stage", int(s)) }

// String is the progress in lower case.
func (p Progress) String() string { return name(progressNames, "Progress", int(p)) }
