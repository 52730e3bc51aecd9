package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	agentPort = 7070
	// readyPatience is how long an agent may take from its start to READY=1, CRIU's own check included.
	readyPatience = 60 * time.Second
	// stopPatience is how long an agent may take to end after SIGTERM.
	stopPatience = 20 * time.Second
)

// Agent is the ssagent of one host. It may be killed and started again at will.
type Agent struct {
	// Env is added to the agent's environment at its next Start.
	Env []string
	// Bin is the folder of the ssagent that the next Start runs; empty for the program under test.
	Bin string

	host   *Host
	bundle string
	cmd    *Cmd
	ready  chan struct{} // closed when it has said so
	asked  bool          // to end, by the lab's user
}

// StartAgents makes a cluster of the lab's hosts: ssctl init and ssctl host add on "admin", an ssagent on every
// other host. It returns when every agent has said that it is ready.
func (l *Lab) StartAgents() {
	l.tb.Helper()
	l.Init()
	for _, h := range l.Hosts() {
		if err := l.agents[h.Name].start(); err != nil {
			l.tb.Fatalf("%v", err)
		}
	}
	for _, h := range l.Hosts() {
		err := l.agents[h.Name].awaitReady()
		if err == nil {
			h.filters, err = filters(h)
		}
		if err != nil {
			l.tb.Fatalf("%v", err)
		}
	}
}

// Init makes the cluster and every host's bundle, and starts nothing.
func (l *Lab) Init() {
	l.tb.Helper()
	if l.inited {
		return
	}
	l.inited = true
	l.MustCtl("init")
	for _, h := range l.Hosts() {
		bundle := filepath.Join(l.dir, "bundles", h.Name)
		if err := os.MkdirAll(filepath.Dir(bundle), 0o700); err != nil {
			l.tb.Fatalf("lab: %v", err)
		}
		l.MustCtl("host", "add", h.Name, "--addr", fmt.Sprintf("%s:%d", h.Addr(), agentPort), "--bundle", bundle)
		if err := l.adapt(h, filepath.Join(bundle, "agent.yaml")); err != nil {
			l.tb.Fatalf("lab: %v", err)
		}
		l.agents[h.Name] = &Agent{host: h, bundle: bundle, Bin: l.Bin}
	}
}

// StartOver makes another cluster of the same hosts: other authority, other keys, empty disks.
func (l *Lab) StartOver() {
	l.tb.Helper()
	l.stopAgents()
	folders := []string{l.Host(AdminName).Path("/var/lib/ssctl"), filepath.Join(l.dir, "bundles")}
	for _, h := range l.Hosts() {
		folders = append(folders, h.Path("/var/lib/ss"), h.Path("/srv"))
	}
	for _, folder := range folders {
		if err := emptyFolder(folder); err != nil {
			l.tb.Fatalf("start over: %v", err)
		}
	}
	l.inited = false
	l.StartAgents()
}

// emptyFolder removes what is in a folder, which may be a mount point, and not the folder.
func emptyFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(folder, e.Name())))
	}
	return errors.Join(errs...)
}

// adapt adds to an agent's configuration what is particular to a host that shares one cgroup tree with others.
func (l *Lab) adapt(h *Host, config string) error {
	f, err := os.OpenFile(config, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	extra := fmt.Sprintf("cgroup: %s\n%s", h.cgroup(), l.AgentConfig)
	if mode := os.Getenv(MemoryVariable); mode != "" {
		extra += fmt.Sprintf("memory: %s\n", mode)
		if !strings.Contains(l.AgentConfig, "tracked_from:") {
			extra += "tracked_from: 0\n"
		}
	}
	criu, err := l.criu()
	if criu != "" {
		extra += fmt.Sprintf("criu: %s\n", criu)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.WriteString(extra)
	return errors.Join(err, f.Close())
}

// Agent returns the agent of the named host, or ends the test.
func (l *Lab) Agent(host string) *Agent {
	l.tb.Helper()
	a := l.agents[host]
	if a == nil {
		l.tb.Fatalf("lab: host %q has no agent: call StartAgents or Init first", host)
	}
	return a
}

// Start starts the agent, which must not run, and returns when it is ready.
func (a *Agent) Start() {
	a.host.lab.tb.Helper()
	err := a.start()
	if err == nil {
		err = a.awaitReady()
	}
	if err != nil {
		a.host.lab.tb.Fatalf("%v", err)
	}
}

// Kill ends the agent with SIGKILL and returns when it is gone.
func (a *Agent) Kill() {
	a.host.lab.tb.Helper()
	if !a.running() {
		a.host.lab.tb.Fatalf("kill agent of %s: it does not run", a.host.Name)
	}
	a.asked = true
	a.cmd.Kill()
}

// Stop ends the agent with SIGTERM and returns when it is gone.
func (a *Agent) Stop() {
	a.host.lab.tb.Helper()
	if err := a.stop(); err != nil {
		a.host.lab.tb.Fatalf("%v", err)
	}
}

// Pid is the agent's process ID as the machine sees it.
func (a *Agent) Pid() int { return a.cmd.Pid() }

// Done is closed when the agent that runs now has ended.
func (a *Agent) Done() <-chan struct{} { return a.cmd.Done() }

// Log is everything the agent has written since the lab began, over all its lives.
func (a *Agent) Log() string {
	data, err := os.ReadFile(a.logPath())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (a *Agent) logPath() string    { return filepath.Join(a.host.dir(), "ssagent.log") }
func (a *Agent) notifyPath() string { return filepath.Join(a.host.dir(), "notify") }

func (a *Agent) running() bool {
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.cmd.Done():
		return false
	default:
		return true
	}
}

func (a *Agent) start() error {
	if a.running() {
		return fmt.Errorf("start agent of %s: it runs", a.host.Name)
	}
	log, err := os.OpenFile(a.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start agent of %s: %w", a.host.Name, err)
	}
	defer log.Close()
	bin, err := binaryIn(a.Bin, "ssagent")
	if err != nil {
		return err
	}
	// No ctx: the agent ends when it is told to, or when its host does.
	a.cmd = a.host.Command(context.Background(), bin,
		"--config", filepath.Join(a.bundle, "agent.yaml"), "--state-dir", "/var/lib/ss")
	a.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+a.notifyPath())
	a.cmd.Env = append(a.cmd.Env, a.Env...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	a.asked = false

	_ = os.Remove(a.notifyPath()) // of an earlier life
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: a.notifyPath(), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("start agent of %s: %w", a.host.Name, err)
	}
	if err := a.cmd.Start(); err != nil {
		return errors.Join(err, socket.Close())
	}
	a.ready = make(chan struct{})
	go awaitNotification(socket, a.ready)
	go func(cmd *Cmd) {
		<-cmd.Done()
		_ = socket.Close() // ends awaitNotification
	}(a.cmd)
	return nil
}

// awaitNotification closes ready when a service says READY=1 on its socket (sd_notify(3)), and ends with the socket.
func awaitNotification(socket *net.UnixConn, ready chan<- struct{}) {
	buf := make([]byte, 4096)
	for {
		n, err := socket.Read(buf)
		if err != nil {
			return
		}
		if ready != nil && slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			close(ready)
			ready = nil
		}
	}
}

// awaitReady returns when the started agent is ready.
func (a *Agent) awaitReady() error {
	var fault string
	select {
	case <-a.ready:
		return nil
	case <-a.cmd.Done():
		fault = fmt.Sprintf("it ended: %v", a.cmd.Wait())
	case <-time.After(readyPatience):
		fault = fmt.Sprintf("it did not become ready within %v", readyPatience)
	}
	return fmt.Errorf("start agent of %s: %s; the end of its log:\n%s", a.host.Name, fault, tail(a.Log(), 30))
}

func (a *Agent) stop() error {
	if !a.running() {
		return nil
	}
	a.asked = true
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop agent of %s: %w", a.host.Name, err)
	}
	select {
	case <-a.cmd.Done():
		return nil
	case <-time.After(stopPatience):
		a.cmd.Kill()
		return fmt.Errorf("stop agent of %s: it did not end within %v of SIGTERM", a.host.Name, stopPatience)
	}
}
