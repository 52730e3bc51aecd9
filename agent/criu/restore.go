package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	gocriu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/criu/image"
)

const (
	restoreLog    = "restore.log"
	restoreConfig = "restore.conf"
)

// restore is a CRIU that restores one member. It implements agent.Restore and gocriu.Notify.
type restore struct {
	gocriu.NoNotify
	*operation

	ready  chan struct{} // closed at the post-restore notification
	inner  int
	answer chan error

	smu      sync.Mutex
	answered bool
	resumed  bool
}

// PostRestore comes when every task is made and none runs yet, the sockets in repair mode.
func (s *restore) PostRestore(pid int32) error {
	s.inner = int(pid)
	close(s.ready)
	return <-s.answer
}

// StartRestore restores the images into the member's cell and returns at CRIU's post-restore notification.
// The cell must be fresh: no process in it may have a PID of the images (PIDs of members count from 1000 on).
// The tree becomes a child of the cell's PID 1 when CRIU is gone.
func (r *Runner) StartRestore(ctx context.Context, spec agent.RestoreSpec) (agent.Restore, error) {
	s := &restore{ready: make(chan struct{}), answer: make(chan error, 1)}
	opts, err := restoreOptions(spec)
	if err != nil {
		return nil, &Error{Op: "restore", Job: spec.Unit.Job, Member: spec.Unit.Member, Err: err}
	}
	opts.LogLevel = r.cfg.logLevel()
	o := order{InitPid: spec.Unit.InitPid, IPC: !image.HoldsIPC(spec.Dir), Cgroup: spec.Unit.Cgroup, LockFile: spec.LockFile}
	if o.Hand, opts.InheritFd, err = image.GiveFiles(spec.Dir, spec.Hand); err != nil {
		return nil, &Error{Op: "restore", Job: spec.Unit.Job, Member: spec.Unit.Member, Err: err}
	}
	done, err := r.takeNames(ctx, spec.Dir)
	if err != nil {
		return nil, &Error{Op: "restore", Job: spec.Unit.Job, Member: spec.Unit.Member, Err: err}
	}
	defer done()
	s.operation, err = r.begin("restore", spec.Unit, o, spec.LogDir, restoreLog, opts, s)
	if err != nil {
		return nil, err
	}
	limited, blocked := context.WithCancelCause(ctx)
	stop := s.watchLocks(limited, r.lockWait, blocked)
	err = s.reached(limited, s.ready)
	stop()
	blocked(nil)
	if err == nil {
		return s, nil
	}
	failure := new(Error)
	if !errors.As(err, &failure) {
		s.answer <- ErrCancelled // should CRIU come that far
		if err := s.end(); err != nil {
			return nil, err
		}
		failure = s.failure(fmt.Errorf("%w: %w", ErrCancelled, err))
	}
	return nil, withCause(failure, s.killTree(context.WithoutCancel(ctx)))
}

// takeNames waits until no other CRIU of this host gives names to files that have none, if the images hold such files.
func (r *Runner) takeNames(ctx context.Context, dir string) (done func(), err error) {
	unnamed, err := image.Unnamed(dir)
	if err != nil || !unnamed {
		return func() {}, err
	}
	select {
	case r.naming <- struct{}{}:
		return func() { <-r.naming }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func restoreOptions(spec agent.RestoreSpec) (*rpc.CriuOpts, error) {
	shellJob, err := image.ForeignSession(spec.Dir)
	if err != nil {
		return nil, err
	}
	opts := &rpc.CriuOpts{
		ImagesDirFd:       proto.Int32(-1),
		ImagesDir:         proto.String(spec.Dir),
		TcpEstablished:    proto.Bool(true),
		FileLocks:         proto.Bool(true),
		ExtUnixSk:         proto.Bool(true), // datagram sockets to paths of other programs, such as /dev/log; CRIU refuses all else
		LinkRemap:         proto.Bool(true),
		ShellJob:          proto.Bool(shellJob),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		GhostLimit:        proto.Uint32(ghostLimit),
		LogFile:           proto.String(restoreLog),
	}
	// Log and statistics go to CRIU's work folder, which is the images' unless a configuration file says
	// otherwise (there is a request for it by descriptor only, see dumpOptions).
	if filepath.Clean(spec.LogDir) != filepath.Clean(spec.Dir) {
		if strings.ContainsAny(spec.LogDir, "\"\n\\") {
			return nil, fmt.Errorf("the log folder's name %q cannot be given to CRIU", spec.LogDir)
		}
		conf := filepath.Join(spec.LogDir, restoreConfig)
		if err := os.WriteFile(conf, fmt.Appendf(nil, "work-dir \"%s\"\n", spec.LogDir), 0o600); err != nil {
			return nil, fmt.Errorf("write CRIU's configuration: %w", err)
		}
		opts.ConfigFile = proto.String(conf)
	}
	return opts, nil
}

// InnerPid is the root's PID in the cell.
func (s *restore) InnerPid() int { return s.inner }

// reply answers the notification, the first time only.
func (s *restore) reply(err error) bool {
	s.smu.Lock()
	defer s.smu.Unlock()
	if s.answered {
		return false
	}
	s.answered, s.resumed = true, err == nil
	s.answer <- err
	return true
}

// Resume lets the tree run. If CRIU fails or ctx ends before it is gone, nothing of the tree is left.
func (s *restore) Resume(ctx context.Context) error {
	if !s.reply(nil) {
		return &Error{Op: "restore", Job: s.unit.Job, Member: s.unit.Member, Err: ErrCancelled}
	}
	var err error
	select {
	case <-s.done:
		err = s.err
	case <-ctx.Done():
		if err := s.end(); err != nil {
			return err
		}
		err = fmt.Errorf("%w: %w", ErrCancelled, context.Cause(ctx))
	}
	if err != nil {
		return withCause(s.failure(err), s.killTree(context.WithoutCancel(ctx)))
	}
	return nil
}

// Cancel backs out. CRIU kills what it made; what a CRIU that was killed left is killed here.
func (s *restore) Cancel(ctx context.Context) error {
	s.reply(ErrCancelled)
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.killTree(context.WithoutCancel(ctx))
}

// killTree ends every process in the member's cgroup.
func (s *restore) killTree(ctx context.Context) error {
	if s.unit.Cgroup == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	if err := cgroup.Dir(s.unit.Cgroup).Kill(ctx); err != nil {
		left, _ := cgroup.Dir(s.unit.Cgroup).Live()
		return fmt.Errorf("kill what was restored of %s/%s: processes %v are still there: %w", s.unit.Job, s.unit.Member, left, err)
	}
	return nil
}

func withCause(e *Error, more error) error {
	if more != nil {
		e.Err = errors.Join(e.Err, more)
	}
	return e
}
