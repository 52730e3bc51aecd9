package criu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	gocriu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent"
	"ss/agent/proc"
)

// killWait bounds how long something that was killed may take to be gone.
const killWait = 10 * time.Second

// keeperWait is how long a keeper that has not started CRIU may take to find out that nobody waits for it any more.
const keeperWait = 2 * time.Second

// killGrace is how long a cancelled CRIU may take to undo what it did before it is killed, where the
// caller's context allows that much. A rollback takes milliseconds; one that hangs must not keep the members standing beyond
// the lease of a snapshot, which is 5 s.
const killGrace = 3 * time.Second

// operation is one CRIU, from its start to its end.
type operation struct {
	op     string // "dump" or "restore"
	unit   agent.Unit
	log    string // CRIU's log
	keep   string // where the log of a failure is kept
	output string // its standard error
	dir    string // our own folder for script, order and pipe
	pipe   *os.File

	started chan struct{} // closed when CRIU's PID is known
	done    chan struct{} // closed when CRIU and keeper are gone and err is set
	err     error         // go-criu's

	mu     sync.Mutex
	news   news
	pidfd  int // of CRIU; -1 while it is not known and after the end
	keeper int // the keeper's pidfd, likewise
	killed bool
	stood  string // where CRIU and its keeper were when they were killed
}

// begin writes what the keeper needs and starts CRIU with the request.
func (r *Runner) begin(op string, u agent.Unit, o order, logDir, logName string,
	opts *rpc.CriuOpts, hooks gocriu.Notify,
) (*operation, error) {
	fail := func(err error) (*operation, error) {
		return nil, &Error{Op: op, Job: u.Job, Member: u.Member, Pid: u.Pid, Err: err}
	}
	dir, err := os.MkdirTemp(r.cfg.WorkDir, opPattern())
	if err != nil {
		return fail(fmt.Errorf("make a work folder: %w", err))
	}
	p := &operation{
		op: op, unit: u, dir: dir, pidfd: -1, keeper: -1, started: make(chan struct{}), done: make(chan struct{}),
		log: filepath.Join(logDir, logName), output: filepath.Join(logDir, op+".out"),
		keep: filepath.Join(r.cfg.WorkDir, failedDir, op+"-"+u.Job+"-"+u.Member+".log"),
	}
	o.Criu, o.Output, o.Pipe = r.cfg.Path, p.output, filepath.Join(dir, "pipe")
	if o.Omitted != "" {
		o.Omit = filepath.Join(dir, omitName)
	}
	// CRIU before 4.2 reads the path of the images as a link (readlink(2)), and fails where it is none.
	images := filepath.Join(dir, "images")
	if err := os.Symlink(opts.GetImagesDir(), images); err != nil {
		p.clean()
		return fail(fmt.Errorf("link to the images: %w", err))
	}
	opts.ImagesDir = proto.String(images)
	if op == "dump" {
		// CRIU would open each file for its build id, and so break leases. The agent reads build ids itself.
		conf := filepath.Join(dir, "dump.conf")
		if err := os.WriteFile(conf, []byte("file-validation filesize\n"), 0o600); err != nil {
			p.clean()
			return fail(fmt.Errorf("write CRIU's configuration: %w", err))
		}
		opts.ConfigFile = proto.String(conf)
	}
	script, err := p.prepare(r.cfg.Exe, o)
	if err != nil {
		p.clean()
		return fail(err)
	}
	client := gocriu.MakeCriu()
	client.SetCriuPath(script)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		p.listen()
	}()
	go func() {
		agent.Ahead() // and CRIU after it
		ask := client.Restore
		if op == "dump" {
			ask = client.Dump
		}
		for range startsMost {
			if p.err = ask(opts, hooks); !lostSocket(p.err) {
				break
			}
			p.err = fmt.Errorf("%w: %w", errNoSocket, p.err)
		}
		// The keeper writes its last news before it ends, so all of it is in the pipe now, before this.
		_, _ = p.pipe.WriteString(lastNews + "\n")
		<-reader
		p.clean()
		close(p.done)
	}()
	return p, nil
}

// startsMost is how often a keeper is started that does not get its socket (errNoSocket).
const startsMost = 10

// lostSocket says whether a keeper ended because it did not get its socket.
func lostSocket(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == statusNoSocket
}

// prepare makes the FIFO, the order and the script in the operation's folder.
func (p *operation) prepare(exe []string, o order) (string, error) {
	if err := unix.Mkfifo(o.Pipe, 0o600); err != nil {
		return "", fmt.Errorf("make a pipe: %w", err)
	}
	var err error
	// Opened for both, so that it never reads as ended, whether or not a keeper has come yet.
	if p.pipe, err = os.OpenFile(o.Pipe, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return "", fmt.Errorf("open a pipe: %w", err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("encode the order: %w", err)
	}
	file, script := filepath.Join(p.dir, "order.json"), filepath.Join(p.dir, "criu")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", fmt.Errorf("write the order: %w", err)
	}
	body := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", quote(append(exe[:len(exe):len(exe)], file)...))
	// A child forked by another goroutine while the script is open for writing would hold it open, and
	// the kernel refuses to execute a file that someone may write to (ETXTBSY).
	syscall.ForkLock.RLock()
	err = os.WriteFile(script, []byte(body), 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", fmt.Errorf("write the script: %w", err)
	}
	return script, nil
}

// quote makes words for a shell.
func quote(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// lastNews ends listen. The keeper never writes it.
const lastNews = "end"

// listen takes in what the keeper tells, until lastNews or until the pipe is closed.
func (p *operation) listen() {
	lines := bufio.NewScanner(p.pipe)
	for lines.Scan() && lines.Text() != lastNews {
		var n news
		if json.Unmarshal(lines.Bytes(), &n) != nil {
			continue
		}
		p.mu.Lock()
		if n.Keeper != 0 && p.news.Keeper == 0 {
			p.news.Keeper = n.Keeper
			p.keeper, _ = proc.OpenChild(n.Keeper, os.Getpid()) // -1 if it has ended
		}
		if n.Criu != 0 && p.news.Criu == 0 {
			close(p.started)
			p.news.Criu = n.Criu
			p.pidfd, _ = proc.OpenChild(n.Criu, n.Keeper) // likewise
			if p.op == "dump" && p.pidfd >= 0 {           // what is restored may stay in CRIU's session
				agent.SessionAhead(n.Criu)
			}
		}
		if n.Exit != "" {
			p.news.Exit = n.Exit
		}
		if n.Failure != "" {
			p.news.Failure = n.Failure
		}
		p.mu.Unlock()
	}
}

// reached waits until CRIU has come to the notification that closes ready and its PID is known. If it ends
// before, or ctx does, that is the error, which is nobody's fault but CRIU's or ctx's.
func (p *operation) reached(ctx context.Context, ready <-chan struct{}) error {
	for _, event := range []<-chan struct{}{ready, p.started} {
		select {
		case <-event:
		case <-p.done:
			return p.failure(p.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// clean removes the operation's folder. Closing the pipe tells a keeper that still lives that nobody waits for it.
func (p *operation) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pipe != nil {
		_ = p.pipe.Close()
	}
	for _, fd := range []*int{&p.pidfd, &p.keeper} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
	_ = os.RemoveAll(p.dir)
}

// settle waits until CRIU is gone. When ctx ends, or after killGrace if it has no earlier end, it kills CRIU.
// An error says that CRIU would not even die, and nothing more can be read from p.
func (p *operation) settle(ctx context.Context) error {
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return p.end()
}

// end kills CRIU and waits until it is gone. A keeper that does not come as far as to start CRIU is killed, too.
func (p *operation) end() error {
	p.kill()
	for _, last := range []struct {
		wait time.Duration
		do   func()
	}{{keeperWait, p.killKeeper}, {killWait, func() {}}} {
		timer := time.NewTimer(last.wait)
		select {
		case <-p.done:
			timer.Stop()
			return nil
		case <-timer.C:
			last.do()
		}
	}
	return p.failure(errors.New("criu does not die: it waits for the kernel, see its /proc/PID/stack"))
}

// kill kills CRIU. The keeper freezes the member first, and then ends, too.
func (p *operation) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	p.stood = whereabouts(p.news.Criu, p.news.Keeper)
	if p.pidfd >= 0 {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		return
	}
	// The keeper has not come as far as to start CRIU, and will not: it finds nobody at the pipe.
	_ = os.Remove(filepath.Join(p.dir, "pipe"))
	_ = p.pipe.Close()
}

// killKeeper kills a keeper that has not started CRIU. One that has is CRIU's parent, and ends with it.
func (p *operation) killKeeper() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.news.Criu == 0 && p.keeper >= 0 {
		_ = unix.PidfdSendSignal(p.keeper, unix.SIGKILL, nil, 0)
	}
}

// whereabouts says what CRIU and its keeper are at, for whoever has to find out why they had to be killed.
func whereabouts(criu, keeper int) string {
	switch {
	case keeper == 0:
		return "criu's keeper had not come up"
	case criu == 0:
		return "criu had not been started, its keeper " + proc.Whereabouts(keeper)
	}
	return "criu " + proc.Whereabouts(criu) + ", its keeper " + proc.Whereabouts(keeper)
}

// throttle makes CRIU fail at its next write, see throttle in keeper.go.
func (p *operation) throttle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		throttle(p.news.Criu)
	}
}

// failure makes the error of an operation that is over.
func (p *operation) failure(err error) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &Error{
		Op: p.op, Job: p.unit.Job, Member: p.unit.Member, Pid: p.unit.Pid,
		Criu: p.news.Criu, Exit: p.news.Exit, Stood: p.stood, Log: p.log, Err: err,
	}
	select {
	case <-p.done:
		e.fromCriu = err != nil && errors.Is(err, p.err)
	default:
	}
	if !errors.Is(err, ErrCancelled) && keepLog(p.keep, p.log) == nil {
		e.Log = p.keep
	}
	e.Killed = p.killed || strings.HasPrefix(p.news.Exit, "signal:")
	if p.news.Failure != "" {
		e.Err = errors.New(p.news.Failure)
	}
	if errors.Is(err, ErrCancelled) {
		return e
	}
	if e.Killed {
		if e.fromCriu {
			e.Err = errors.New("criu was killed")
		}
		return e
	}
	if e.fromCriu && e.Criu != 0 && e.Exit == "" && p.news.Failure == "" {
		e.Err = errors.New("criu's keeper was killed, and criu with it")
		return e
	}
	e.Lines = logErrors(p.output, p.log)
	e.Hint = hintFor(e.Lines)
	return e
}
