package agent

import (
	"context"
	"fmt"
	"time"

	"ss/agent/proc"
)

// endedSoon bounds the wait for the exit status of a member that has ended. Its cell's PID 1 is not frozen and writes it down at once, but a busy machine may
// let that process wait.
const endedSoon = 2 * time.Second

// ended adds to what failed with a member that the member has ended, if it has. CRIU, for instance, only says that it misses a process.
func (a *Agent) ended(m Member, err error) error {
	if st, gone := proc.ReadStat(m.Pid); m.Pid == 0 || gone == nil && !st.Dead() || gone != nil && !proc.Gone(gone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), endedSoon)
	defer cancel()
	if left, bad := a.pids(ctx, m); bad != nil || len(left) > 0 {
		return err // what its first process has left runs on: the member has not ended, and other members stand still meanwhile
	}
	now, bad := a.cfg.Cells.AwaitEnd(ctx, m)
	if bad != nil || now.State != Exited {
		return err
	}
	return fmt.Errorf("the member has ended meanwhile (%s): %w", now.Exit, err)
}
