package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ss/marker"
	"ss/store/sealed"
)

// journalSchema is the version of what a journal says. Version 1, and a journal without a version, is a marker.Entry as Go's JSON has it, with
// its phase as a number of oldPhases.
const journalSchema = 2

// oldPhases are the phases of version 1, by their numbers.
var oldPhases = []marker.Phase{marker.Idle, marker.Preparing, marker.Prepared, marker.Recording, marker.Settling, marker.Dumping, marker.Storing,
	marker.Complete, marker.Finishing, marker.RollingBack}

// journalEntry is a marker.Entry on disk.
type journalEntry struct {
	Key   journalKey   `json:"key"`
	Phase string       `json:"phase"` // a name of marker.Phase
	Stop  bool         `json:"stop,omitempty"`
	Fence uint64       `json:"fence,omitempty"`
	Ends  []journalEnd `json:"ends,omitempty"`
	Doubt []journalKey `json:"doubt,omitempty"`
}

type journalKey struct {
	Job      string `json:"job"`
	Snapshot string `json:"snapshot"`
	Epoch    uint64 `json:"epoch"`
}

type journalEnd struct {
	Host     string `json:"host"`
	Member   string `json:"member"`
	Local    string `json:"local"`
	Remote   string `json:"remote"`
	SndUna   uint32 `json:"snd_una"`
	WriteSeq uint32 `json:"write_seq"`
	RcvNxt   uint32 `json:"rcv_nxt"`
	Unsent   uint32 `json:"unsent,omitempty"`
	Ended    bool   `json:"ended,omitempty"`
	Pending  bool   `json:"pending,omitempty"`
	Unread   uint32 `json:"unread,omitempty"`
	Outside  string `json:"outside,omitempty"` // a name of marker.OutsidePolicy, where it is not to refuse
}

func toJournalEnd(e marker.End) journalEnd {
	out := journalEnd{
		Host: string(e.Host), Member: e.Member, Local: e.Local, Remote: e.Remote, SndUna: e.SndUna, WriteSeq: e.WriteSeq, RcvNxt: e.RcvNxt,
		Unsent: e.Unsent, Ended: e.Ended, Pending: e.Pending, Unread: e.Unread,
	}
	if e.Outside != marker.OutsideRefuse {
		out.Outside = e.Outside.String()
	}
	return out
}

func (j journalEnd) end() marker.End {
	outside, _ := marker.ParseOutside(j.Outside)
	return marker.End{
		Host: marker.HostID(j.Host), Member: j.Member, Local: j.Local, Remote: j.Remote, SndUna: j.SndUna, WriteSeq: j.WriteSeq, RcvNxt: j.RcvNxt,
		Unsent: j.Unsent, Ended: j.Ended, Pending: j.Pending, Unread: j.Unread, Outside: outside,
	}
}

func toJournalKey(k marker.Key) journalKey {
	return journalKey{Job: string(k.Job), Snapshot: string(k.Snapshot), Epoch: uint64(k.Epoch)}
}

func (k journalKey) key() marker.Key {
	return marker.Key{Job: marker.JobID(k.Job), Snapshot: marker.SnapshotID(k.Snapshot), Epoch: marker.Epoch(k.Epoch)}
}

func toJournal(e marker.Entry) journalEntry {
	out := journalEntry{Key: toJournalKey(e.Key), Phase: e.Phase.String(), Stop: e.Stop, Fence: uint64(e.Fence)}
	for _, end := range e.Ends {
		out.Ends = append(out.Ends, toJournalEnd(end))
	}
	for _, k := range e.Doubt {
		out.Doubt = append(out.Doubt, toJournalKey(k))
	}
	return out
}

// entry is the marker.Entry. ok is false if the phase has a name that this program does not know.
func (j journalEntry) entry() (e marker.Entry, ok bool) {
	e = marker.Entry{Key: j.Key.key(), Stop: j.Stop, Fence: marker.Epoch(j.Fence)}
	e.Phase, ok = marker.ParsePhase(j.Phase)
	for _, end := range j.Ends {
		e.Ends = append(e.Ends, end.end())
	}
	for _, k := range j.Doubt {
		e.Doubt = append(e.Doubt, k.key())
	}
	return e, ok
}

// readJournal reads a journal of any version.
func readJournal(path string) (marker.Entry, error) {
	var j journalEntry
	schema, err := sealed.Read(path, journalSchema, &j)
	if err == nil && schema == journalSchema {
		if e, ok := j.entry(); ok {
			return e, nil
		}
		return marker.Entry{}, fmt.Errorf("%s: phase %q: %w", path, j.Phase, sealed.ErrDamaged)
	}
	if errors.Is(err, sealed.ErrUnknownVersion) {
		return marker.Entry{}, err
	}
	var old marker.Entry
	if _, err := sealed.Read(path, journalSchema, &old); err != nil {
		return marker.Entry{}, err
	}
	if old.Phase < 0 || int(old.Phase) >= len(oldPhases) {
		return marker.Entry{}, fmt.Errorf("%s: phase %d: %w", path, old.Phase, sealed.ErrDamaged)
	}
	old.Phase = oldPhases[old.Phase]
	return old, nil
}

// journal keeps one marker.Entry per job, so that an agent that was killed knows what to undo. An
// entry is written before the first action it speaks of starts.
type journal struct{ dir string }

func (j journal) path(job string) string { return filepath.Join(j.dir, job+".json") }

func (j journal) put(e marker.Entry) error {
	if err := sealed.Write(j.path(string(e.Key.Job)), journalSchema, toJournal(e)); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// load reads the entries, by job. Of a job whose file is damaged, or speaks of another job, there is none: it is in bad.
func (j journal) load() (entries map[string]marker.Entry, bad map[string]error, err error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read the journal: %w", err)
	}
	entries, bad = map[string]marker.Entry{}, map[string]error{}
	for _, f := range files {
		job, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue // a temporary file that a crash left
		}
		e, err := readJournal(j.path(job))
		if err == nil && string(e.Key.Job) != job {
			err = fmt.Errorf("it is that of job %q: %w", e.Key.Job, sealed.ErrDamaged)
		}
		if err != nil {
			bad[job] = err
			continue
		}
		entries[job] = e
	}
	return entries, bad, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
