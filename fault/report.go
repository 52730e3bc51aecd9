package fault

import (
	"errors"
	"strings"
)

// Report is an error as data. Fields that the error does not tell are empty.
type Report struct {
	Kind     Kind
	Op       string
	Host     string
	Job      string
	Snapshot string
	Phase    string
	Message  string // all of the error but Next
	Next     string
}

// Told is an error that another program has reported: all of its text, and the parts that it told apart.
type Told struct {
	Text   string
	Report Report
}

// Error is the text.
func (t Told) Error() string { return t.Text }

// Describe takes an error apart: of each field, what the outermost error in its chain says that says anything. Where errors are joined, it follows
// the first one that is an Error or was told by another program.
func Describe(err error) Report {
	r := Report{Kind: KindOf(err), Message: err.Error()}
	for err != nil {
		switch e := next(err); e := e.(type) { //nolint:errorlint // next has looked through the chain
		case *Error:
			r.add(Report{Op: e.Op, Host: e.Host, Job: e.Job, Snapshot: e.Snapshot, Phase: e.Phase, Next: e.Next})
			err = e.Err
		case Told:
			r.add(e.Report)
			err = nil
		default:
			err = nil
		}
	}
	r.Message = strings.TrimSuffix(r.Message, "; "+r.Next)
	return r
}

// next is the outermost Error or Told in a chain; nil if there is none.
func next(err error) error {
	var told Told
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.As(err, &told) {
		return told
	}
	return nil
}

func (r *Report) add(o Report) {
	for _, f := range []struct {
		to   *string
		from string
	}{{&r.Op, o.Op}, {&r.Host, o.Host}, {&r.Job, o.Job}, {&r.Snapshot, o.Snapshot}, {&r.Phase, o.Phase}, {&r.Next, o.Next}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
}
