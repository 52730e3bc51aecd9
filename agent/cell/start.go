package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/store/sealed"
)

// spec is what PID 1 is told, on descriptor 3.
type spec struct {
	StateDir string   `json:"state_dir"` // the member's own
	Kind     kind     `json:"kind"`
	Command  []string `json:"command"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Log      string   `json:"log"`
	V2       string   `json:"v2"` // the member's cgroup folders
	V1       string   `json:"v1"`
	V1Mount  string   `json:"v1_mount"`
}

// reply is what PID 1 answers, on descriptor 4.
type reply struct {
	InnerPid int    `json:"inner_pid"`
	Error    string `json:"error,omitempty"`
}

// baseEnv is what every member's environment begins with.
var baseEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root",
	// Go programs from 1.24 on listen with MPTCP, which CRIU cannot dump; for all others this says nothing.
	"GODEBUG=multipathtcp=0",
}

// Start makes a cell and starts m in it. Job, Name and Command must be set. It returns when the command has been executed, or with
// the reason why it could not be and with nothing left behind but the log file. A member of that name, or processes in its cgroup,
// make the error wrap ErrExists, and stay as they are.
func (g *Manager) Start(ctx context.Context, m agent.Member) (agent.Member, error) {
	if len(m.Command) == 0 || m.Command[0] == "" {
		return m, errors.New("start a member: no command given")
	}
	return g.make(ctx, m, started)
}

// NewCell makes a cell with nothing in it, for CRIU to restore m into. Its log file is there afterwards, where it can be made. What is there already makes it fail as Start does.
func (g *Manager) NewCell(ctx context.Context, m agent.Member) (agent.Member, error) {
	return g.make(ctx, m, restored)
}

func (g *Manager) make(ctx context.Context, m agent.Member, k kind) (agent.Member, error) {
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return m, err
	}
	defer unlock()
	if m.Dir == "" {
		m.Dir = "/"
	}
	if m.Log != "" && !filepath.IsAbs(m.Log) {
		m.Log = filepath.Join(m.Dir, m.Log)
	}
	m.Attached = false
	dir, err := g.makeDir(m.Job, m.Name)
	if err != nil {
		return m, err
	}
	gr := g.cg.group(m.Job, m.Name)
	if err := gr.create(); err != nil { // before the record: what a record has a cgroup of is ours to end
		return m, errors.Join(fmt.Errorf("start %s of job %s: %w", m.Name, m.Job, err), g.removeDir(m.Job, m.Name))
	}
	err = writeState(dir, memberFile, newRecord(m, k))
	if err == nil && k == started {
		err = redirect(gr, m) // before anything of it runs; a restored one opens connections to its own addresses first
	}
	if err == nil {
		env := mergeEnv(baseEnv, m.Env)
		sp := spec{StateDir: dir, Kind: k, Command: m.Command, Env: env, Dir: m.Dir, Log: m.Log, V2: gr.v2, V1: gr.v1, V1Mount: g.cg.v1}
		err = g.spawn(ctx, m, sp)
	}
	if err != nil {
		err = fmt.Errorf("start %s of job %s: %w", m.Name, m.Job, err)
		return m, errors.Join(err, g.undo(context.WithoutCancel(ctx), m))
	}
	return g.inspect(newRecord(m, k))
}

// undo ends and removes what a start that failed has made: its PID 1, and with that whatever runs in the cell. Nothing else is
// touched, whatever is in the cgroup.
func (g *Manager) undo(ctx context.Context, m agent.Member) error {
	var init proc.Identity
	err := readState(g.dir(m.Job, m.Name), initFile, &init)
	if err == nil {
		err = g.endInit(ctx, init)
	}
	if err := ifThere(err); err != nil {
		return err
	}
	return errors.Join(g.cg.group(m.Job, m.Name).removeEmpty(), g.removeDir(m.Job, m.Name))
}

// Vacant returns nil if m is a member here, or its cgroup has no process: a cell could be made once the member has ended. Processes that
// somebody else has started there make the error wrap ErrExists.
func (g *Manager) Vacant(_ context.Context, m agent.Member) error {
	if err := checkNames(m); err != nil {
		return err
	}
	if _, err := g.record(m); !errors.Is(err, ErrUnknown) {
		return err
	}
	return g.cg.group(m.Job, m.Name).vacant()
}

// spawn starts PID 1 and returns when it has done what sp says.
func (g *Manager) spawn(ctx context.Context, m agent.Member, sp spec) (err error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer specW.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make a pipe: %w", err), specR.Close())
	}
	defer statusR.Close()

	args := append(append([]string{}, g.cfg.Exe...), InitCommand, m.Job+"/"+m.Name)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	// It waits nearly all the time; one processor and a small heap do.
	cmd.Env = agent.HelperEnv("GOMAXPROCS=1", "GOGC=20")
	cmd.ExtraFiles = []*os.File{specR, statusW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC}
	err = cmd.Start()
	_ = specR.Close()
	_ = statusW.Close()
	if err != nil {
		return fmt.Errorf("start the cell's PID 1: %w", err)
	}
	g.reap(cmd)

	id, err := proc.Identify(cmd.Process.Pid)
	if err == nil {
		err = writeState(sp.StateDir, initFile, id)
	}
	if err != nil {
		// PID 1 reads end of file where it wants a spec, and ends; it is gone before anything of the cell is removed.
		return errors.Join(err, specW.Close(), g.endInit(context.WithoutCancel(ctx), proc.Identity{Pid: cmd.Process.Pid}))
	}
	b, err := json.Marshal(sp)
	if err == nil {
		_, err = specW.Write(b)
	}
	if err = errors.Join(err, specW.Close()); err != nil {
		return fmt.Errorf("tell the cell's PID 1 what to do: %w", err)
	}
	return readReply(ctx, statusR)
}

func readReply(ctx context.Context, r *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := io.ReadAll(r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for the cell's PID 1: %w", err)
	}
	var rep reply
	if err := json.Unmarshal(b, &rep); err != nil {
		return fmt.Errorf("the cell's PID 1 ended before it answered (is the kernel out of memory?): %w", err)
	}
	if rep.Error != "" {
		return errors.New(rep.Error)
	}
	return nil
}

// reap waits for a PID 1 that this process started, so that it is not a zombie when it has ended. The
// goroutine lives as long as the cell; the agent does not wait for it, since cells outlive agents.
func (g *Manager) reap(cmd *exec.Cmd) {
	done := make(chan struct{})
	g.mu.Lock()
	g.inits[cmd.Process.Pid] = done
	g.mu.Unlock()
	go func() {
		_ = cmd.Wait() // what the member's root returned is in exit.json
		g.mu.Lock()
		delete(g.inits, cmd.Process.Pid)
		g.mu.Unlock()
		close(done)
	}()
}

// endInit kills a PID 1, and with it whatever runs in its namespace, and waits until it is gone.
func (g *Manager) endInit(ctx context.Context, id proc.Identity) error {
	g.mu.Lock()
	done := g.inits[id.Pid]
	g.mu.Unlock()
	fd, err := id.OpenPidfd()
	if err != nil && !proc.Gone(err) {
		return err
	}
	if err == nil {
		defer unix.Close(fd)
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !proc.Gone(err) {
			return fmt.Errorf("kill the cell's PID 1: %w", err)
		}
		if err := proc.Poll(ctx, fd, unix.POLLIN); err != nil {
			return fmt.Errorf("wait for the end of the cell's PID 1: %w", err)
		}
	}
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the cell's PID 1: %w", ctx.Err())
	}
}

// sweep removes cells that ended before anything ran in them, as they do when the agent dies while
// it makes them, and completes attaches.
func (g *Manager) sweep() error {
	ctx := context.Background()
	recs, err := g.records()
	if err != nil {
		return err
	}
	errs := []error{g.sweepFolders(recs)}
	for _, r := range recs {
		if r.damage != nil {
			continue // it is set aside
		}
		m := agent.Member{Job: r.Job, Name: r.Name}
		if r.Kind == attached {
			if r.Root.Alive() {
				errs = append(errs, g.cg.group(r.Job, r.Name).gather(r.Root.Pid))
			}
			continue
		}
		dir := g.dir(r.Job, r.Name)
		var init proc.Identity
		if err := ifThere(readState(dir, initFile, &init)); err != nil {
			if !errors.Is(err, sealed.ErrDamaged) {
				errs = append(errs, err)
			}
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, rootFile)); errors.Is(err, fs.ErrNotExist) && !init.Alive() {
			errs = append(errs, g.undo(ctx, m))
		}
	}
	return errors.Join(errs...)
}

// sweepFolders removes the folders of members that have no record: their agent ended before anything of them was started.
func (g *Manager) sweepFolders(recs []record) error {
	known := map[string]bool{}
	for _, r := range recs {
		known[g.dir(r.Job, r.Name)] = true
	}
	dirs, err := filepath.Glob(filepath.Join(g.membersDir(), "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if !known[dir] {
			errs = append(errs, g.removeDir(filepath.Base(filepath.Dir(dir)), filepath.Base(dir)))
		}
	}
	return errors.Join(errs...)
}

// mergeEnv returns base and extra, in that order, with the last of each name.
func mergeEnv(base, extra []string) []string {
	var out []string
	at := map[string]int{}
	for _, kv := range append(append([]string{}, base...), extra...) {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}
