package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind sorts errors by what their reader can do about them.
type Kind int

// The kinds. docs/errors.md lists the exit code of each.
const (
	Failed      Kind = iota // something went wrong that no other kind describes
	Usage                   // the request makes no sense
	Refused                 // a check refused it; the job is as it was
	Unreachable             // a host could not be reached
	Denied                  // the caller's role may not do it
	Integrity               // stored data is not what it was
	Conflict                // another operation holds it
	RolledBack              // it failed, and the job is as it was before
	NotFound                // no such job, host, cut
	Interrupted             // the user gave up
	Unsettled               // it came at the wrong moment, nothing was harmed: try again
	InDoubt                 // it is not known how it ended: a host that decides does not answer. Unknown is not failed
	Outdated                // ssctl or an agent is of a version that the other does not talk to: upgrade the older one
)

// kindNames are in the JSON that ssctl prints: a name never changes its meaning.
var kindNames = [...]string{"failed", "usage", "refused", "unreachable", "denied", "integrity", "conflict", "rolled_back", "not_found",
	"interrupted", "unsettled", "in_doubt", "outdated"}

// String is the kind's name, in lower case with underscores.
func (k Kind) String() string {
	if k >= 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind_%d", int(k))
}

// Error is an error with what its reader needs. Fields that say nothing are empty.
type Error struct {
	Kind     Kind
	Op       string // "snapshot", "restore", "run"
	Host     string
	Job      string
	Snapshot string
	Phase    string
	Next     string // what to do about it
	Err      error
}

// Error says everything on one line, or more if CRIU did.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	for _, part := range []struct{ label, value string }{
		{" of job ", e.Job}, {" on ", e.Host}, {" (", e.Snapshot}, {", while ", e.Phase},
	} {
		if part.value == "" {
			continue
		}
		if part.label == ", while " && e.Snapshot == "" {
			part.label = " (while "
		}
		if b.Len() == 0 {
			part.label = strings.TrimLeft(part.label, " ,")
		}
		b.WriteString(part.label + part.value)
	}
	if e.Snapshot != "" || e.Phase != "" {
		b.WriteString(")")
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost Error in err's chain that has one, or Failed.
func KindOf(err error) Kind {
	var e *Error
	for errors.As(err, &e) {
		if e.Kind != Failed {
			return e.Kind
		}
		err = e.Err
	}
	return Failed
}

// Is tells whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// New makes an Error of a kind from a text.
func New(k Kind, text, next string) *Error {
	return &Error{Kind: k, Err: errors.New(text), Next: next}
}

// Problems is the text of a refusal that has several reasons, one to a line, for people who mend all of them at once.
func Problems(list []string) string {
	count := "1 problem"
	if len(list) != 1 {
		count = fmt.Sprintf("%d problems", len(list))
	}
	return count + " found:\n  " + strings.Join(list, "\n  ")
}
