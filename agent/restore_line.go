package agent

import (
	"context"
	"time"

	"ss/restoration"
)

// RestoreOut is one report for the coordinator.
type RestoreOut struct {
	Message  restoration.Message
	Problems []string // all that the check has found
	Notices  []string // what should be known of damage that was healed
	Failure  error    // what Message.Reason says
}

// RestoreLine is the coordinator's line to this host for one restore.
type RestoreLine struct {
	*line[RestoreOut]
	r *Restoration
}

// Receive takes an order of the coordinator.
func (l *RestoreLine) Receive(m restoration.Message) {
	m.ID, m.From, m.To = restoration.ID(l.r.plan.ID), restoration.CoordinatorHost, restoration.HostID(l.r.a.cfg.Host)
	l.r.post(restoreEvent{ev: restoration.Received{Message: m}})
}

// Hangup says that the line has ended, and returns when the host has let go of the job, or waits for another host's word.
func (l *RestoreLine) Hangup(ctx context.Context) {
	l.r.post(restoreEvent{ev: restoration.Gone{}, line: l})
	again := time.NewTicker(hangupLook)
	defer again.Stop()
	for !l.r.inDoubt() {
		select {
		case <-l.r.rest:
			return
		case <-l.r.done:
			return
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// hangupLook is how often a line that ends looks whether its host is in doubt.
const hangupLook = 20 * time.Millisecond
