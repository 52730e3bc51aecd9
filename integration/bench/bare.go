package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// criuPaths are where CRIU is looked for: that of scripts/install-criu, as the lab's agents do, or the system's.
var criuPaths = []string{"/opt/ss/criu/bin/criu", "/usr/sbin/criu", "/usr/local/sbin/criu"}

// bareOptions are those of the agents' own dumps and restores, as far as they change what CRIU does to the program.
var bareOptions = []string{"--tcp-established", "--file-locks", "--link-remap", "--manage-cgroups=ignore"}

// How a bare dump keeps packets from a program that receives at full speed; without that CRIU fails ("recv failed").
const (
	// lockNftables has CRIU do it by itself, by the faster of its two ways: this is what a bare dump of such a program is.
	lockNftables = "nftables"
	// lockSkip has all packets of the connection dropped from before the dump until after it, which costs the bare dump nothing at all.
	lockSkip = "skip"
)

func criuPath() (string, error) {
	for _, path := range criuPaths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no CRIU: run scripts/setup bench as root")
}

// Dump is one bare dump. All times are in milliseconds.
type Dump struct {
	Wall   float64 `json:"wall_ms"`  // of the whole command
	Still  float64 `json:"still_ms"` // as the program itself saw it
	Frozen float64 `json:"frozen_ms"`
	CRIU   Stats   `json:"criu"`
}

// bareDump dumps a member that runs, in its own namespaces, to its host's disk, and throws the images away.
func (j *job) bareDump(m *member) Dump {
	dir, clear := j.bareFolder(m)
	defer clear()
	j.settleDisk()
	speak := func() {}
	if j.lock == lockSkip {
		speak = j.silence(m.host)
	}
	args := append([]string{"dump", "--leave-running", "-t", strconv.Itoa(m.pid), "-D", "/srv/bare", "-o", "dump.log", "--network-lock", j.lock}, bareOptions...)
	began := time.Now()
	wall, err := runInside(m.proc, args)
	speak()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "dump.log"))
		j.Fatalf("bare dump of %s on %s: %v\n%s", j.name, m.host.Name, err, log)
	}
	// The packets that the lock has dropped are sent again before anything else is measured.
	j.awaitFlow(time.Now())
	st, err := readStats(filepath.Join(dir, "stats-dump"))
	if err != nil {
		j.Fatalf("bare dump: %v", err)
	}
	return Dump{Wall: ms(wall), Still: m.longest("still", began), Frozen: st.Frozen, CRIU: st}
}

// bareFolder makes a folder on the member's host, /srv/bare there, and returns how to remove it.
func (j *job) bareFolder(m *member) (dir string, clear func()) {
	dir = m.host.Path("/srv/bare")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		j.Fatalf("make a folder: %v", err)
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			j.Fatalf("remove a folder: %v", err)
		}
	}
}

// bareRestore restores the large member's images into fresh namespaces and kills it again. The time is
// that from CRIU's start until the program's own loop turns. Its connection is silenced meanwhile: its partner is dead,
// and a partner's RST would end it before it could tell.
func (j *job) bareRestore(images string) (run, wall float64) {
	m := j.big
	work, clear := j.bareFolder(m)
	defer clear()
	j.settleDisk()
	defer j.silence(m.host)()
	endCell, proc := j.startCell(m.host)
	defer endCell()
	began := time.Now()
	args := append([]string{"restore", "--restore-detached", "-D", images, "-W", "/srv/bare", "-o", "restore.log", "--network-lock", lockSkip}, bareOptions...)
	took, err := runInside(proc, args)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
		j.Fatalf("bare restore of %s: %v\n%s", j.name, err, log)
	}
	return j.firstLook("a bare restore", m, began), ms(took)
}

// firstLook is the time from began until the member's own loop looked at the clock again.
func (j *job) firstLook(after string, m *member, began time.Time) float64 {
	j.await("first sign of life after "+after, func() bool { return len(m.since("still", began)) > 0 })
	return ms(m.since("still", began)[0].end.Sub(began))
}

// settleDisk has everything written that the last measurement left to be written, and makes room for what the next one
// writes: on a virtual machine, memory that was free for long belongs to the machine below, and getting it back takes
// longer than the dump. Whoever comes second would pay for it, or would not.
func (j *job) settleDisk() {
	fd, err := unix.Open(j.lab.Dir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Syncfs(fd), unix.Close(fd))
	}
	if err != nil {
		j.Fatalf("sync: %v", err)
	}
	room := (2*j.mib + 256) << 20
	memory, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		j.Fatalf("make room: %v", err)
	}
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // only faster
	for i := 0; i < room; i += os.Getpagesize() {
		memory[i] = 1
	}
	if err := unix.Munmap(memory); err != nil {
		j.Fatalf("make room: %v", err)
	}
}

// runInside runs CRIU in the namespaces of the process whose folder in /proc is given.
func runInside(proc string, args []string) (time.Duration, error) {
	path, err := criuPath()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append([]string{"--no-default-config"}, args...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	began := time.Now()
	if err := startInside(proc, cmd); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return time.Since(began), nil
}

// memberNamespaces are entered in this order; the one of the mounts comes last, since the others are found by it.
var memberNamespaces = []string{"pid", "ipc", "uts", "net", "mnt"}

// startInside starts a command in the namespaces of a process.
func startInside(proc string, cmd *exec.Cmd) error {
	var fds []int
	for _, ns := range memberNamespaces {
		fd, err := unix.Open(filepath.Join(proc, "ns", ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespaces: %w", err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine and takes the foreign namespaces with it.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns(2) wants it, for mounts
				return fmt.Errorf("unshare: %w", err)
			}
			for i, fd := range fds {
				if err := unix.Setns(fd, 0); err != nil {
					return fmt.Errorf("enter the %s namespace: %w", memberNamespaces[i], err)
				}
			}
			return cmd.Start()
		}()
	}()
	return <-done
}

// innermostPid is a process's ID in its own PID namespace.
func innermostPid(proc string) (int, error) {
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			return strconv.Atoi(f[len(f)-1])
		}
	}
	return 0, fmt.Errorf("%s/status has no NSpid", proc)
}
