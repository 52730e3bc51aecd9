// ssctl takes, lists, checks and restores snapshots of a cluster's jobs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"ss/fault"
	"ss/store"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	app := newApp()
	err := app.command().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	exit := exitCode(err, interrupted)
	if err != nil {
		app.complain(err, exit)
	}
	os.Exit(exit)
}

// exitCode is the one place where errors become exit codes. docs/errors.md is the table for people.
func exitCode(err error, interrupted bool) int {
	if err == nil {
		return 0
	}
	switch kindOf(err) {
	case fault.Usage:
		return 2
	case fault.Refused, fault.Outdated:
		return 4
	case fault.Unreachable:
		return 5
	case fault.Denied:
		return 6
	case fault.Integrity:
		return 7
	case fault.Conflict:
		return 8
	case fault.RolledBack, fault.Unsettled:
		return 9
	case fault.NotFound:
		return 10
	case fault.InDoubt:
		return 11
	case fault.Interrupted:
		return 130
	}
	if interrupted {
		return 130
	}
	return 1
}

// kindOf is fault.KindOf, and knows the catalogue's errors as well.
func kindOf(err error) fault.Kind {
	if k := fault.KindOf(err); k != fault.Failed {
		return k
	}
	for _, c := range []struct {
		is   error
		kind fault.Kind
	}{
		{store.ErrNotFound, fault.NotFound}, {store.ErrAmbiguous, fault.Usage}, {store.ErrInvalid, fault.Usage},
		{store.ErrConflict, fault.Conflict}, {store.ErrLocked, fault.Conflict},
		{store.ErrCorrupt, fault.Integrity}, {store.ErrUnknownVersion, fault.Integrity},
		{os.ErrPermission, fault.Denied}, {errUsage, fault.Usage},
	} {
		if errors.Is(err, c.is) {
			return c.kind
		}
	}
	return fault.Failed
}

var errUsage = errors.New("see ssctl --help")

func usage(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errUsage)
}
