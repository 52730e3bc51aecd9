package criu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"time"

	gocriu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"ss/agent"
	"ss/agent/criu/image"
	"ss/agent/proc"
	"ss/fault"
	"ss/marker"
)

const (
	dumpLog = "dump.log"
	// ghostLimit is the most, in bytes, that CRIU takes of a deleted file that is still open. It is all that CRIU's own type can say: what a snapshot
	// takes is bounded before the freeze, with all other files.
	ghostLimit = 1<<32 - 1
	// seizeTimeout bounds the time CRIU takes to stop the tasks, in seconds. It does not bound the dump.
	seizeTimeout = 30
)

type dumpState int

const (
	dumpWaits dumpState = iota // at the pre-dump notification
	dumpRuns
	dumpOver
)

// dump is a CRIU that dumps one member. It implements agent.Dump and gocriu.Notify.
type dump struct {
	gocriu.NoNotify
	*operation
	dir   string // images
	omits bool   // see agent.DumpSpec.Omits
	// ipc is what the cell's IPC namespace was when CRIU went into it, which leaves it out of the images; nil: CRIU is outside, or there is no cell.
	ipc map[string]string

	ready  chan struct{} // closed at the pre-dump notification
	answer chan error    // Run's or Cancel's answer to it

	smu       sync.Mutex
	state     dumpState
	cancelled bool
}

// PreDump is CRIU's last word before it touches the member.
func (d *dump) PreDump() error {
	close(d.ready)
	return <-d.answer
}

// PostDump comes when the images are complete and the tasks are still held. An error rolls back.
func (d *dump) PostDump() error {
	d.smu.Lock()
	defer d.smu.Unlock()
	if d.cancelled {
		return ErrCancelled
	}
	return nil
}

// StartDump starts CRIU in the member's namespaces up to its pre-dump notification, where it has read its options
// and learned what the kernel can do, and has not touched the member. spec.Dir is where images and log go.
func (r *Runner) StartDump(ctx context.Context, spec agent.DumpSpec) (agent.Dump, error) {
	d := &dump{dir: spec.Dir, omits: spec.Omits, ready: make(chan struct{}), answer: make(chan error, 1)}
	opts, err := dumpOptions(spec)
	if err != nil {
		return nil, &Error{Op: "dump", Job: spec.Unit.Job, Member: spec.Unit.Member, Pid: spec.Unit.Pid, Err: err}
	}
	opts.LogLevel = r.cfg.logLevel()
	o := order{Dump: true, InitPid: spec.Unit.InitPid, Cgroup: spec.Unit.Cgroup, LockFile: spec.LockFile}
	if spec.Unit.InitPid != 0 {
		ipc, plain, err := plainIPC(spec.Unit.InitPid)
		if err != nil {
			return nil, &Error{Op: "dump", Job: spec.Unit.Job, Member: spec.Unit.Member, Pid: spec.Unit.Pid, Err: err}
		}
		if plain {
			o.IPC, d.ipc = true, ipc
		}
	}
	if spec.Omits {
		o.Omitted = filepath.Join(spec.Dir, image.OmittedName)
	}
	d.operation, err = r.begin("dump", spec.Unit, o, spec.Dir, dumpLog, opts, d)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, r.startLimit, fmt.Errorf("%w within %s: try again", errNotReady, r.startLimit))
	defer cancel()
	err = d.reached(bounded, d.ready)
	if err == nil {
		return d, nil
	}
	if failure := new(Error); errors.As(err, &failure) {
		return nil, failure
	}
	d.answer <- ErrCancelled // should CRIU come that far
	if killed := d.end(); killed != nil {
		return nil, killed
	}
	if !errors.Is(err, errNotReady) {
		err = fmt.Errorf("%w: %w", ErrCancelled, err)
	}
	return nil, d.failure(err) // it has not touched the member
}

// startLimit is ample for CRIU to come to its first notification, on a busy host too; it takes milliseconds.
const startLimit = 20 * time.Second

var errNotReady = errors.New("criu did not become ready to dump")

func dumpOptions(spec agent.DumpSpec) (*rpc.CriuOpts, error) {
	u := spec.Unit
	if u.InnerPid <= 0 {
		return nil, errors.New("the member has no process")
	}
	shellJob, err := foreignSession(u)
	if err != nil {
		return nil, err
	}
	return &rpc.CriuOpts{
		// A path, not a descriptor: CRIU would look for a descriptor in /proc/PID/fd of the asking process, which
		// has no PID that it can see from inside the cell.
		ImagesDirFd:    proto.Int32(-1),
		ImagesDir:      proto.String(spec.Dir),
		Pid:            proto.Int32(int32(u.InnerPid)),
		LeaveRunning:   proto.Bool(true),
		TcpEstablished: proto.Bool(true),
		// What waits at a listener is recorded by its other end (agent.Socket.HalfOpen).
		TcpSkipInFlight:   proto.Bool(true),
		FileLocks:         proto.Bool(true),
		ExtUnixSk:         proto.Bool(true), // datagram sockets to paths of other programs, such as /dev/log; CRIU refuses all else
		LinkRemap:         proto.Bool(true),
		ShellJob:          proto.Bool(shellJob),
		TrackMem:          proto.Bool(false),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		// Tasks that are frozen already can only be dumped by a CRIU that knows by whom: it thaws them
		// when it holds them itself, and freezes them again before it lets them go.
		FreezeCgroup: proto.String(u.Cgroup),
		GhostLimit:   proto.Uint32(ghostLimit),
		Timeout:      proto.Uint32(seizeTimeout),
		LogFile:      proto.String(dumpLog),
	}, nil
}

// foreignSession says whether the leader of the root's session is outside the tree, as with a command
// that was started from a shell.
func foreignSession(u agent.Unit) (bool, error) {
	root, err := proc.ReadStat(u.Pid)
	if err != nil {
		return false, fmt.Errorf("the member's root: %w", err)
	}
	return root.Session != u.Pid, nil
}

// Run lets CRIU dump. The member must be frozen. When ctx ends before CRIU does, the dump is cancelled.
func (d *dump) Run(ctx context.Context, conns []uint64, captured func()) (agent.DumpResult, error) {
	early := false
	err := d.leavesOut()
	if err != nil {
		return agent.DumpResult{}, &Error{Op: "dump", Job: d.unit.Job, Member: d.unit.Member, Pid: d.unit.Pid, Err: err}
	}
	watch, err := d.letGo(conns, func() { early = true; captured() })
	if err != nil {
		return agent.DumpResult{}, &Error{Op: "dump", Job: d.unit.Job, Member: d.unit.Member, Pid: d.unit.Pid, Err: err}
	}
	defer watch.close()

	select {
	case <-d.done:
	case <-ctx.Done():
		if err := d.abort(context.WithoutCancel(ctx)); err != nil {
			return agent.DumpResult{}, err
		}
	}
	d.smu.Lock()
	d.state = dumpOver
	cancelled := d.cancelled
	d.smu.Unlock()
	if d.err != nil {
		if cancelled {
			return agent.DumpResult{}, d.failure(fmt.Errorf("%w: %w", ErrCancelled, context.Cause(ctx)))
		}
		return agent.DumpResult{}, d.failure(d.err)
	}
	watch.close()
	result, err := image.DumpResult(d.dir)
	if err == nil {
		err = addLocks(d.dir, d.unit.Pid)
	}
	if err == nil {
		result.Ends, err = d.ends(conns, early)
	}
	if err != nil {
		return agent.DumpResult{}, d.failure(err)
	}
	return result, nil
}

// leavesOut says what a CRIU in the cell's IPC namespace would leave out of the images: the member is frozen, so nothing comes after it.
func (d *dump) leavesOut() error {
	if d.ipc == nil {
		return nil
	}
	now, err := readIPC(d.unit.InitPid)
	if err == nil && !maps.Equal(now, d.ipc) {
		err = fault.New(fault.Unsettled, newIPC, "try again")
	}
	return err
}

// ends reads the connections that the images hold. early says that captured was called.
func (d *dump) ends(conns []uint64, early bool) ([]marker.End, error) {
	sockets, err := image.InetSockets(d.dir)
	if err != nil {
		return nil, err
	}
	if n := image.Unlisted(sockets, conns); early && n > 0 {
		// The gates may have opened while CRIU still read a connection that nobody knew of.
		return nil, fmt.Errorf("the images hold %d connections that were not listed: try again", n)
	}
	return image.EndsOf(d.dir, sockets)
}

// letGo answers the pre-dump notification, with the images under watch.
func (d *dump) letGo(conns []uint64, captured func()) (*streamWatch, error) {
	d.smu.Lock()
	defer d.smu.Unlock()
	if d.state != dumpWaits {
		return nil, ErrCancelled
	}
	watch, err := watchStreams(d.dir, conns, captured)
	if err != nil {
		return nil, err
	}
	d.state = dumpRuns
	d.answer <- nil
	return watch, nil
}

// Cancel ends the dump wherever it is and waits until CRIU is gone. A CRIU that is in the midst of
// the dump rolls back. If it had to be killed, the error says so, and the member is frozen and needs to be healed.
func (d *dump) Cancel(ctx context.Context) error {
	if err := d.abort(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	killed := d.killed && strings.HasPrefix(d.news.Exit, "signal:")
	d.mu.Unlock()
	if killed {
		return d.failure(errors.New("criu had to be killed: it did not give up when it was told to"))
	}
	return nil
}

// abort makes CRIU give up and waits for its end.
func (d *dump) abort(ctx context.Context) error {
	d.smu.Lock()
	waits := d.state == dumpWaits && !d.cancelled
	runs := d.state == dumpRuns
	d.cancelled = true
	if waits {
		d.state = dumpOver
		d.answer <- ErrCancelled
	}
	d.smu.Unlock()
	if runs {
		d.throttle()
	}
	return d.settle(ctx)
}
