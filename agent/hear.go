package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"ss/store/sealed"
)

// Mark is one generation of the catalogue. The agent does not know what is in it: it remembers the newest that it has seen, so that an
// ssctl with an older copy, or one of two copies in use, is told.
type Mark struct {
	Generation uint64    `json:"generation"`
	Nonce      string    `json:"nonce"`
	Where      string    `json:"where"`
	Time       time.Time `json:"time"`
}

func (m Mark) same(o Mark) bool { return m.Generation == o.Generation && m.Nonce == o.Nonce }

// Word is what an admin's ssctl tells with a question.
type Word struct {
	Mark    Mark
	History []Mark // generations that the same catalogue has had
	Jobs    []string
	// RemovedHosts is the signed list of removed hosts.
	RemovedHosts []byte
}

// Membership is the list of removed hosts that this host goes by. *identity.Credentials implements it.
type Membership interface {
	// TakeRemoved makes a signed list count if it is newer than the one that is known, and says whether it was.
	TakeRemoved(statement []byte) (bool, error)
	// Removed is the newest list, signed; nil if there is none.
	Removed() []byte
}

// catalogueFile holds the newest generation, in the state folder.
const (
	catalogueFile   = "catalogue.json"
	catalogueSchema = 1
	jobsFile        = "jobs.json" // the jobs that the catalogue knows
	jobsSchema      = 1
	removedFile     = "removed-hosts" // the signed list
)

// memory is what the agent has heard.
type memory struct {
	mu   sync.Mutex
	mark Mark
	jobs []string // sorted
}

func (a *Agent) cataloguePath() string { return filepath.Join(a.cfg.StateDir, catalogueFile) }

// recall reads what an earlier agent had heard. Where that is damaged the next ssctl that comes is believed.
func (a *Agent) recall() {
	_, err := sealed.Read(a.cataloguePath(), catalogueSchema, &a.heard.mark)
	if err != nil {
		a.heard.mark = Mark{}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("the newest generation of the catalogue is forgotten", "error", err)
	}
	if _, err := sealed.Read(filepath.Join(a.cfg.StateDir, jobsFile), jobsSchema, &a.heard.jobs); err != nil {
		a.heard.jobs = nil // until the next ssctl comes
	}
	b, err := os.ReadFile(filepath.Join(a.cfg.StateDir, removedFile))
	if err == nil && a.cfg.Members != nil {
		_, err = a.cfg.Members.TakeRemoved(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("the list of removed hosts is forgotten until ssctl or another agent brings it again", "error", err)
	}
}

// TakeRemoved takes a list of removed hosts from ssctl or another agent, if it is newer than the one here.
func (a *Agent) TakeRemoved(statement []byte) {
	if len(statement) == 0 || a.cfg.Members == nil {
		return
	}
	taken, err := a.cfg.Members.TakeRemoved(statement)
	if err == nil && taken {
		err = sealed.WriteWhole(filepath.Join(a.cfg.StateDir, removedFile), statement)
	}
	if err != nil {
		a.log.Error("list of removed hosts", "error", err)
	}
}

// Removed is the newest signed list of removed hosts that this host knows; nil if there is none.
func (a *Agent) Removed() []byte {
	if a.cfg.Members == nil {
		return nil
	}
	return a.cfg.Members.Removed()
}

// knows says whether this host has word of a job: from an admin's ssctl, or by what is under way here.
func (a *Agent) knows(job string) bool {
	a.heard.mu.Lock()
	_, heard := slices.BinarySearch(a.heard.jobs, job)
	a.heard.mu.Unlock()
	if heard {
		return true
	}
	a.mu.Lock()
	_, busy := a.busy[job]
	a.mu.Unlock()
	return busy
}

// maxJobs bounds the jobs that are remembered.
const maxJobs = 100_000

// hearJobs is called with heard.mu held.
func (a *Agent) hearJobs(jobs []string) {
	jobs = slices.Sorted(slices.Values(jobs[:min(len(jobs), maxJobs)]))
	if len(jobs) == 0 || slices.Equal(jobs, a.heard.jobs) {
		return
	}
	if err := sealed.WriteVolatile(filepath.Join(a.cfg.StateDir, jobsFile), jobsSchema, jobs); err != nil {
		a.log.Error("the catalogue's jobs are not remembered", "error", err)
	}
	a.heard.jobs = jobs
}

// Hear takes what an admin's ssctl says, and returns the newest generation of the catalogue that this host knows then. It takes a newer one only from
// an ssctl whose catalogue descends from the one that it knows.
func (a *Agent) Hear(w Word) Mark {
	a.TakeRemoved(w.RemovedHosts)
	a.heard.mu.Lock()
	defer a.heard.mu.Unlock()
	now := a.heard.mark
	if w.Mark.Generation == 0 || w.Mark.Generation >= now.Generation {
		a.hearJobs(w.Jobs)
	}
	switch {
	case w.Mark.Generation == 0, w.Mark.same(now), w.Mark.Generation < now.Generation:
		return now
	case now.Generation != 0 && !slices.ContainsFunc(w.History, now.same):
		return now
	}
	if err := sealed.WriteVolatile(a.cataloguePath(), catalogueSchema, w.Mark); err != nil {
		a.log.Error("the catalogue's generation is not remembered", "error", err)
	}
	a.heard.mark = w.Mark
	return w.Mark
}

// Heard is the newest generation that this host knows; zero if it knows none.
func (a *Agent) Heard() Mark {
	a.heard.mu.Lock()
	defer a.heard.mu.Unlock()
	return a.heard.mark
}
