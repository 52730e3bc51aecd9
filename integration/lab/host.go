package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience is how long the processes of a host may take to die.
const killPatience = 30 * time.Second

// privateFolders are the folders that each host has for itself, on disk, kept across PowerOff and PowerOn.
var privateFolders = []string{"/var/lib/ss", "/var/lib/ssctl", "/srv"}

// privateMemory are the folders that each host has for itself in memory, gone when it is switched off.
// /run is among them because CRIU keeps its feature cache there, and a host's own daemons their sockets.
var privateMemory = []string{"/run", "/dev/shm"}

// Host is one machine of a lab.
type Host struct {
	Name string

	lab    *Lab
	number int // last part of both addresses
	addr   netip.Prefix
	addr6  netip.Prefix

	init   *exec.Cmd // PID 1; nil while the host is off
	owner  io.Closer // closing it ends PID 1
	pidfd  int       // of PID 1, -1 while the host is off
	mounts map[string]bool
	// limited are the private folders that LimitDisk has put a file system in the place of.
	limited []string

	filters map[string]int // what packets meet when nothing is going on
}

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addr.Addr() }

// Addr6 is the host's IPv6 address.
func (h *Host) Addr6() netip.Addr { return h.addr6.Addr() }

// Pid is the host's PID 1 as the machine sees it; 0 while the host is off.
func (h *Host) Pid() int {
	if h.init == nil {
		return 0
	}
	return h.init.Process.Pid
}

// Path is where a file of one of the host's private folders is found on the machine, whether the host is on or off. A
// path outside them is the same everywhere and comes back as it is.
func (h *Host) Path(path string) string {
	for _, folder := range slices.Concat(privateMemory, h.limited) {
		if strings.HasPrefix(path, folder+"/") && h.init != nil {
			return fmt.Sprintf("/proc/%d/root%s", h.Pid(), path)
		}
	}
	for _, folder := range privateFolders {
		if rest, ok := strings.CutPrefix(path, folder); ok && (rest == "" || rest[0] == '/') {
			return filepath.Join(h.dir(), folder, rest)
		}
	}
	return path
}

// ReadFile reads a file as the host sees it.
func (h *Host) ReadFile(path string) ([]byte, error) { return os.ReadFile(h.Path(path)) }

// WriteFile writes a file where the host sees it.
func (h *Host) WriteFile(path string, data []byte) error {
	return os.WriteFile(h.Path(path), data, 0o600)
}

func (h *Host) dir() string    { return filepath.Join(h.lab.dir, h.Name) }
func (h *Host) cable() string  { return fmt.Sprintf("sslab-v%d", h.number) }
func (h *Host) cgroup() string { return h.lab.cgroup() + "/" + h.Name }

// boot starts the host's PID 1 and gives it its network.
func (h *Host) boot() error {
	spec := bootSpec{Hostname: h.Name, Binds: map[string]string{}, Tmpfs: privateMemory}
	for _, folder := range privateFolders {
		spec.Binds[folder] = h.Path(folder)
		for _, dir := range []string{folder, h.Path(folder)} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("boot %s: %w", h.Name, err)
			}
		}
	}
	if err := h.startInit(spec); err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	if err := h.lab.network.plug(h); err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	h.limited = nil
	if err := h.noteMounts(); err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	return h.lab.saveState()
}

// noteMounts notes what is mounted now as what belongs there.
func (h *Host) noteMounts() error {
	mounts, err := mountPoints(h.Pid())
	h.mounts = map[string]bool{}
	for _, m := range mounts {
		h.mounts[m] = true
	}
	return err
}

// startInit starts PID 1 in fresh namespaces and returns when it has prepared them.
func (h *Host) startInit(spec bootSpec) error {
	stdin, owner, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	ready, readyWriter, err := os.Pipe()
	if err != nil {
		return errors.Join(err, owner.Close())
	}
	defer ready.Close()

	pidfd := -1
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
	cmd.Args = []string{initName, h.lab.id, h.Name}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.Stdin = stdin
	cmd.ExtraFiles = []*os.File{readyWriter}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: hostNamespaces, Setsid: true, PidFD: &pidfd}
	err = errors.Join(cmd.Start(), readyWriter.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("start PID 1: %w", err), owner.Close())
	}
	h.init, h.owner, h.pidfd = cmd, owner, pidfd
	if err := json.NewEncoder(owner).Encode(spec); err != nil {
		return fmt.Errorf("instruct PID 1: %w", err)
	}
	answer, err := bufio.NewReader(ready).ReadString('\n')
	if answer != "ok\n" {
		return fmt.Errorf("PID 1 did not come up: %s (%w)", strings.TrimSpace(answer), err)
	}
	return nil
}

// PowerOff is what happens to a machine whose plug is pulled: its network is gone and every process with it, so no
// peer ever hears a FIN or a RST from it. What its disk held stays.
func (h *Host) PowerOff() {
	h.lab.tb.Helper()
	if err := h.powerOff(); err != nil {
		h.lab.tb.Fatalf("power off %s: %v", h.Name, err)
	}
}

// Crash kills every process of the host while its network still works, as a kernel's out-of-memory killer
// gone wild would: peers see connections end. Then the network goes.
func (h *Host) Crash() {
	h.lab.tb.Helper()
	if err := h.kill(); err != nil {
		h.lab.tb.Fatalf("crash %s: %v", h.Name, err)
	}
	if err := h.lab.network.unplug(h); err != nil {
		h.lab.tb.Fatalf("crash %s: %v", h.Name, err)
	}
}

// PowerOn starts a host that was switched off: same name, same addresses, same disk, nothing running.
func (h *Host) PowerOn() {
	h.lab.tb.Helper()
	if h.init != nil {
		h.lab.tb.Fatalf("power on %s: it is on", h.Name)
	}
	if err := h.boot(); err != nil {
		h.lab.tb.Fatalf("power on: %v", err)
	}
}

// Running says whether the host is on.
func (h *Host) Running() bool { return h.init != nil }

// CutNetwork takes the host off the network; what runs on it goes on, and sees silence.
func (h *Host) CutNetwork() {
	h.lab.tb.Helper()
	if err := h.lab.network.setCable(h, false); err != nil {
		h.lab.tb.Fatalf("cut network: %v", err)
	}
}

// HealNetwork undoes CutNetwork.
func (h *Host) HealNetwork() {
	h.lab.tb.Helper()
	if err := h.lab.network.setCable(h, true); err != nil {
		h.lab.tb.Fatalf("heal network: %v", err)
	}
}

func (h *Host) powerOff() error {
	if h.init == nil {
		return nil
	}
	if err := h.lab.network.unplug(h); err != nil {
		return err
	}
	return h.kill()
}

// kill ends PID 1 and with it everything on the host, and returns when it is all gone.
func (h *Host) kill() error {
	if h.init == nil {
		return nil
	}
	if err := unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill PID 1: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = h.init.Wait() // "signal: killed", as asked
	}()
	if err := awaitDeath(h.cgroup(), gone); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	_ = h.owner.Close() // nobody reads it any more
	_ = unix.Close(h.pidfd)
	h.init, h.pidfd = nil, -1
	return removeCgroup(h.cgroup())
}

// awaitDeath waits for gone. A task that the v1 freezer holds does not die of a signal before it is thawed, so every frozen
// cgroup below the given one is thawed until then; the killed tasks execute nothing any more.
func awaitDeath(cgroup string, gone <-chan struct{}) error {
	deadline := time.After(killPatience)
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		thaw(cgroup)
		select {
		case <-gone:
			return nil
		case <-retry.C:
		case <-deadline:
			return fmt.Errorf("processes still there %v after SIGKILL", killPatience)
		}
	}
}
