package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"ss/store/kv"
)

// A catalogue has generations: the first change that a program makes to it makes the next one, with a number at random. Agents remember the
// newest that they have seen. A catalogue that has had that one itself is current; one that has not is an older copy, or a copy that
// went another way, and must not remove anything.

// marksKept is how many generations a catalogue remembers to have had. An agent that has not been reached for longer is taken to be behind.
const marksKept = 4096

// RebuiltAhead is how far a catalogue that was made again is ahead of all generations that agents know.
const RebuiltAhead = 1 << 20

// Mark is one generation of a catalogue.
type Mark struct {
	Generation uint64    `json:"generation"` // from 1 on; 0: none
	Nonce      string    `json:"nonce"`      // 16 hex digits
	Where      string    `json:"where"`      // machine and folder of the program that made it, for people
	Time       time.Time `json:"time"`
}

// Same says whether two marks are of the same generation of the same catalogue.
func (m Mark) Same(o Mark) bool { return m.Generation == o.Generation && m.Nonce == o.Nonce }

func markKey(generation uint64) string { return fmt.Sprintf("%016x", generation) }

// Advance makes the next generation, if this handle has not yet: a command that will change something shows it to the agents with its first question, so
// that a copy of the catalogue from before that is known for what it is.
func (c *Catalogue) Advance(ctx context.Context) error {
	if c.advanced() {
		return nil
	}
	return c.update(ctx, func(kv.Tx) error { return nil })
}

func (c *Catalogue) advanced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mark.Generation != 0
}

// advance makes the next generation, once for a handle. The zero Mark means that there was no need.
func (c *Catalogue) advance(tx kv.Tx) (Mark, error) {
	if c.advanced() {
		return Mark{}, nil
	}
	newest, err := newestMark(tx)
	if err != nil {
		return Mark{}, err
	}
	m, err := c.nextMark(newest.Generation + 1)
	if err != nil {
		return Mark{}, err
	}
	return m, putMark(tx, m)
}

func (c *Catalogue) nextMark(generation uint64) (Mark, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return Mark{}, fmt.Errorf("draw the catalogue's generation: %w", err)
	}
	return Mark{Generation: generation, Nonce: hex.EncodeToString(b[:]), Where: c.Where, Time: now()}, nil
}

func putMark(tx kv.Tx, m Mark) error {
	if err := put(tx, bucketMarks, markKey(m.Generation), m); err != nil {
		return err
	}
	return trim(tx, bucketMarks, marksKept)
}

func newestMark(tx kv.Tx) (m Mark, err error) {
	last, err := tx.List(bucketMarks, "", -1)
	if err != nil || len(last) == 0 {
		return Mark{}, err
	}
	return m, decode(bucketMarks, last[0].Key, last[0].Value, &m)
}

// Mark is the catalogue's newest generation; zero of one that an older program made and nobody has changed since.
func (c *Catalogue) Mark(ctx context.Context) (m Mark, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		m, err = newestMark(tx)
		return err
	})
	return m, err
}

// Marks lists the newest generations of the catalogue, at most n, newest first.
func (c *Catalogue) Marks(ctx context.Context, n int) (marks []Mark, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		last, err := tx.List(bucketMarks, "", -n)
		if err != nil {
			return err
		}
		marks = make([]Mark, len(last))
		for i, e := range last {
			if err := decode(bucketMarks, e.Key, e.Value, &marks[len(last)-1-i]); err != nil {
				return err
			}
		}
		return nil
	})
	return marks, err
}

// HadMark says whether this catalogue has had a generation itself, or one so old that it does not remember.
func (c *Catalogue) HadMark(ctx context.Context, m Mark) (had bool, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		had, err = hadMark(tx, m)
		return err
	})
	return had, err
}

func hadMark(tx kv.Tx, m Mark) (bool, error) {
	own, ok, err := get[Mark](tx, bucketMarks, markKey(m.Generation))
	if err != nil {
		return false, err
	}
	first, err := tx.List(bucketMarks, "", 1)
	return ok && own.Same(m) || len(first) > 0 && markKey(m.Generation) < first[0].Key, err
}

// exchanged is an error if the database does not have the generation that this handle made: somebody has put another copy of the catalogue in its place since.
// What that copy does not know must not be taken for what is not there.
func (c *Catalogue) exchanged(tx kv.Tx) error {
	c.mu.Lock()
	mine := c.mark
	c.mu.Unlock()
	if mine.Generation == 0 {
		return nil
	}
	if had, err := hadMark(tx, mine); had || err != nil {
		return err
	}
	return fmt.Errorf("another copy of the catalogue was put in its place while this command ran; ssctl catalog rebuild --replace makes one of what hosts and vaults hold: %w", ErrConflict)
}
