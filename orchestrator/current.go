package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
	"ss/store/tombstone"
)

// Statements signs statements as an admin, and opens those of any admin of the cluster.
type Statements interface {
	tombstone.Signer
	tombstone.Verifier
	// SignRemovedHosts and OpenRemovedHosts are for the list of removed hosts.
	SignRemovedHosts(store.RemovedHosts) ([]byte, error)
	OpenRemovedHosts(statement []byte) (store.RemovedHosts, error)
}

// Word is what ssctl tells an agent whenever it asks it something. The zero value tells nothing.
type Word struct {
	Mark    store.Mark   // the catalogue's generation
	History []store.Mark // generations that the catalogue has had: an agent whose newest is none of them does not take Mark
	Jobs    []string     // that the catalogue knows
	// RemovedHosts is the signed list of removed hosts; nil where nobody was ever removed.
	RemovedHosts []byte
}

// marksTold is how many generations are told at once: each command makes one, so most agents have seen one of the last few, and need not be asked twice.
const marksTold = 8

// word is what there is to tell now.
func (c *Cluster) word(ctx context.Context) (Word, error) {
	marks, err := c.Catalogue.Marks(ctx, marksTold)
	if err != nil {
		return Word{}, err
	}
	w := Word{}
	if len(marks) > 0 { // else an older program made the catalogue, and nothing has changed it since
		w.Mark, w.History = marks[0], marks[1:]
	}
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return Word{}, err
	}
	for _, j := range jobs {
		w.Jobs = append(w.Jobs, j.Name)
	}
	list, err := c.Catalogue.RemovedHosts(ctx)
	if err != nil || list.Version == 0 || c.Statements == nil {
		return w, err
	}
	w.RemovedHosts, err = c.Statements.SignRemovedHosts(list)
	return w, err
}

// mergeRemovedHosts takes in the lists of removed hosts that agents have and the catalogue has not: it was made again, or is an older copy.
func (c *Cluster) mergeRemovedHosts(ctx context.Context, statuses []HostStatus) error {
	if c.Statements == nil {
		return nil
	}
	own, err := c.Catalogue.RemovedHosts(ctx)
	if err != nil {
		return err
	}
	for _, h := range statuses {
		if len(h.Info.RemovedHosts) == 0 {
			continue
		}
		list, err := c.Statements.OpenRemovedHosts(h.Info.RemovedHosts)
		if err != nil || list.Version <= own.Version {
			continue // an agent cannot make one up
		}
		if err := c.Catalogue.MergeRemovedHosts(noted(ctx), list); err != nil {
			return err
		}
	}
	return nil
}

// greet asks a host for its state, and shows its agent the catalogue's generation. An agent whose newest generation this catalogue has had takes
// the present one; one that knows a generation which this catalogue never had is ahead of it.
func (c *Cluster) greet(ctx context.Context, h store.Host, word Word) HostStatus {
	st := HostStatus{Host: h}
	st.Info, st.Err = c.Ask(ctx, h, word)
	if st.Err != nil || st.Info.Catalogue.Generation == 0 || st.Info.Catalogue.Same(word.Mark) {
		return st
	}
	seen := st.Info.Catalogue
	had, err := c.Catalogue.HadMark(ctx, seen)
	switch {
	case err != nil:
		st.Err = err
	case !had:
		st.Ahead = &seen
	case seen.Generation < word.Mark.Generation:
		word.History = append(slices.Clone(word.History), seen)
		st.Info, st.Err = c.Ask(ctx, h, word)
		if now := st.Info.Catalogue; st.Err == nil && now.Generation != 0 && !now.Same(word.Mark) {
			if had, err := c.Catalogue.HadMark(ctx, now); err != nil || !had { // somebody came in between
				st.Ahead, st.Err = &now, err
			}
		}
	}
	return st
}

// Current refuses to go on with a catalogue that is not the newest: an older copy of it, put back, or one of two copies that are used at once. What
// it does not know it must not remove, nor replace.
func Current(statuses []HostStatus) error {
	for _, h := range statuses {
		if h.Ahead != nil {
			return &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("%s", aheadText(h)), Next: AheadNext}
		}
	}
	return nil
}

// AheadNext is what to do with a catalogue that is not the newest.
const AheadNext = "use that other copy of the folder; or ssctl catalog rebuild --replace makes a catalogue of what hosts and vaults hold, and from then on no other copy counts"

func aheadText(h HostStatus) string {
	where := h.Ahead.Where
	if where == "" {
		where = "an unknown place"
	}
	return fmt.Sprintf("this catalogue is not the newest: %s has seen generation %d of it, made by %s at %s, which this copy never had; "+
		"it is an older copy that was put back, or two copies are in use", h.Name, h.Ahead.Generation, where, h.Ahead.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// tellAhead says, once in a command, that the catalogue is not the newest. Commands that change something stop for it; the others go on.
func (c *Cluster) tellAhead(statuses []HostStatus) {
	for _, h := range statuses {
		if h.Ahead != nil {
			c.aheadTold.Do(func() { c.Noticef("%s; %s", strings.TrimSpace(aheadText(h)), AheadNext) })
			return
		}
	}
}
