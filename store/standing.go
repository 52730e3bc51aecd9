package store

import (
	"context"
	"fmt"
	"slices"

	"ss/store/kv"
)

// SetRestored notes that a job was restored: where its members are, of which epoch they are, and which hosts may have older copies. It is one
// transaction. A restore that is not newer than the last one changes nothing. The epoch counts as drawn: a catalogue that was rebuilt may not
// have drawn it.
func (c *Catalogue) SetRestored(ctx context.Context, job string, placement map[string][]Placed, epoch uint64, statement []byte, unsettled []Unsettled) error {
	return c.updateJob(ctx, job, false, func(tx kv.Tx, j *Job) error {
		if epoch <= j.Restored {
			return nil
		}
		last, _, err := get[uint64](tx, bucketEpochs, job)
		if err != nil {
			return err
		}
		if epoch > last {
			if err := put(tx, bucketEpochs, job, epoch); err != nil {
				return err
			}
		}
		j.Epoch, j.Restored, j.Statement, j.Unsettled = max(epoch, last), epoch, statement, nil
		for _, u := range unsettled {
			u.Since = u.Since.Round(0).UTC()
			j.Unsettled = append(j.Unsettled, u)
		}
		return j.setPlacement(placement)
	})
}

// SetSettled notes that a host has no older copies of a job's members any more, as of a restore.
func (c *Catalogue) SetSettled(ctx context.Context, job, host string, epoch uint64) error {
	return c.changeJob(ctx, job, false, func(j *Job) error {
		if epoch == j.Restored {
			j.Unsettled = slices.DeleteFunc(j.Unsettled, func(u Unsettled) bool { return u.Host == host })
		}
		return nil
	})
}

func (u Unsettled) validate() error {
	if err := validName("host", u.Host); err != nil {
		return err
	}
	for _, m := range u.Members {
		if err := validName("member", m); err != nil {
			return err
		}
	}
	if u.Since.IsZero() {
		return fmt.Errorf("host %q is unsettled since no time: %w", u.Host, ErrInvalid)
	}
	return nil
}
