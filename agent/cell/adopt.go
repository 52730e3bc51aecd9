package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// adoptCall asks PID 1 to take a restored root for its member's.
type adoptCall struct {
	root   int
	answer chan error
}

// adoptRequest and adoptReply are the one exchange on a control socket.
type adoptRequest struct {
	Root int `json:"root"`
}

type adoptReply struct {
	Error string `json:"error,omitempty"`
}

// Adopt records that the tree restored into m's cell has the root innerPid, and takes what of the
// tree CRIU left outside of m's cgroup into it. Best called when CRIU stands at its post-restore
// notification: PIDs that the tree draws before the call may lie in the range that is CRIU's own.
func (g *Manager) Adopt(ctx context.Context, m agent.Member, innerPid int) (agent.Member, error) {
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return m, err
	}
	defer unlock()
	m, err = g.adopt(ctx, m, innerPid)
	if err != nil {
		return m, fmt.Errorf("adopt the restored tree of %s/%s: %w", m.Job, m.Name, err)
	}
	return m, nil
}

func (g *Manager) adopt(ctx context.Context, m agent.Member, innerPid int) (agent.Member, error) {
	r, err := g.record(m)
	if err != nil {
		return m, err
	}
	dir := g.dir(m.Job, m.Name)
	var init proc.Identity
	if err := readState(dir, initFile, &init); err != nil {
		return m, err
	}
	if !init.Alive() {
		return m, errors.New("its cell has ended")
	}
	gr := g.cg.group(m.Job, m.Name)
	root, err := findInner(init, innerPid, gr)
	if err != nil {
		return m, err
	}
	if err := gr.gather(root); err != nil {
		return m, err
	}
	if err := askAdopt(ctx, dir, innerPid); err != nil {
		return m, err
	}
	return g.inspect(r)
}

// findInner returns the PID that the process inner of that cell has here. CRIU makes it in the member's group: only where it is not found there are all
// processes of the host looked at.
func findInner(init proc.Identity, inner int, gr group) (int, error) {
	ns, err := proc.Namespace(init.Pid, "pid")
	if err != nil {
		return 0, err
	}
	for _, list := range []func() ([]int, error){gr.procs, proc.Pids} {
		pids, err := list()
		if err != nil {
			return 0, err
		}
		for _, pid := range pids {
			p, err := proc.NSPids(pid)
			if err != nil || len(p) < 2 || p[1] != inner {
				continue
			}
			if n, err := proc.Namespace(pid, "pid"); err == nil && n == ns {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("no process %d in the cell: did CRIU restore it there?", inner)
}

// askAdopt speaks to PID 1. Both sides name the socket through /proc/self/fd, because a socket's
// path may have 107 bytes only and the folder's may have more.
func askAdopt(ctx context.Context, dir string, innerPid int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", throughFd(d))
	if err != nil {
		return fmt.Errorf("reach the cell's PID 1: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(adoptRequest{Root: innerPid}); err != nil {
		return fmt.Errorf("ask the cell's PID 1: %w", err)
	}
	var rep adoptReply
	if err := json.NewDecoder(conn).Decode(&rep); err != nil {
		return errors.Join(fmt.Errorf("hear from the cell's PID 1: %w", err), ctx.Err())
	}
	if rep.Error != "" {
		return errors.New(rep.Error)
	}
	return nil
}

func throughFd(dir *os.File) string {
	return filepath.Join(proc.OwnFd(int(dir.Fd())), controlFile)
}

// listen is PID 1's side of askAdopt.
func (p *pid1) listen() error {
	d, err := os.Open(p.spec.StateDir)
	if err != nil {
		return fmt.Errorf("open the member's folder: %w", err)
	}
	defer d.Close()
	l, err := net.Listen("unix", throughFd(d))
	if err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	go func() { // ends with the process
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(conn)
		}
	}()
	return nil
}

func (p *pid1) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // an agent that stalls does not keep the next one out
	var req adoptRequest
	if json.NewDecoder(conn).Decode(&req) != nil {
		return
	}
	c := adoptCall{root: req.Root, answer: make(chan error, 1)}
	p.adopt <- c
	var rep adoptReply
	if err := <-c.answer; err != nil {
		rep.Error = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(rep) // if nobody hears it, the next agent reads root.json
}

// take makes root the member's root. The tree's next PIDs follow its present ones: CRIU sets each
// task's PID, and leaves the namespace's counter where its own low ones have brought it.
func (p *pid1) take(root int) error {
	if p.root == root {
		return nil
	}
	if p.root != 0 {
		return fmt.Errorf("this cell has a root already: %d", p.root)
	}
	last, err := proc.HighestThread()
	if err != nil {
		return err
	}
	if err := setLastPid(max(firstPid, last)); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(root, 0)
	if err != nil {
		return fmt.Errorf("no process %d in the cell: %w", root, err)
	}
	if err := writeState(p.spec.StateDir, rootFile, rootRecord{InnerPid: root}); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	p.root, p.rootEnd = root, make(chan struct{})
	go func(end chan struct{}) { // ends with the root
		defer close(end)
		defer unix.Close(fd)
		_ = proc.Poll(context.Background(), fd, unix.POLLIN)
	}(p.rootEnd)
	return nil
}
