package agent

import (
	"errors"
	"io/fs"
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
}

// catalogueFile holds the newest generation, in the state folder.
const (
	catalogueFile   = "catalogue.json"
	catalogueSchema = 1
)

// memory is what the agent has heard.
type memory struct {
	mu   sync.Mutex
	mark Mark
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
}

// Hear takes what an admin's ssctl says, and returns the newest generation of the catalogue that this host knows then. It takes a newer one only from
// who has had the one that it knows.
func (a *Agent) Hear(w Word) Mark {
	a.heard.mu.Lock()
	defer a.heard.mu.Unlock()
	now := a.heard.mark
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
