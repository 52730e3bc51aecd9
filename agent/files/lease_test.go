package files

import (
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// TestLeaseOfWhatCanOnlyBeWritten needs root. The holder of a write lease, which is this process, keeps it while its file is read, with owner and signal; if somebody opens the file meanwhile, it
// hears what it would have heard.
func TestLeaseOfWhatCanOnlyBeWritten(t *testing.T) {
	_, home := playground(t)
	path := home + "/leased"
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	must(t, err)
	defer file.Close()
	_, err = file.WriteString("what it holds")
	must(t, err)
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGUSR2)
	defer signal.Stop(heard)
	for _, c := range []struct{ call, value int }{
		{unix.F_SETSIG, int(unix.SIGUSR2)},
		{unix.F_SETLEASE, unix.F_WRLCK},
		{unix.F_SETOWN, os.Getpid()}, // the kernel makes the calling thread the owner, and signals leaders of processes alone
	} {
		_, err := unix.FcntlInt(file.Fd(), c.call, c.value)
		must(t, err)
	}
	for range 3 {
		c, err := Take(t.Context(), []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}, nil, nil)
		must(t, err)
		dir := t.TempDir()
		must(t, c.Copy(t.Context(), false, func(string) string { return dir }))
		must(t, c.Close())
		found := false
		for _, s := range c.Stored("m") {
			if s.Path == path {
				found = true
				if got := read(t, filepath.Join(dir, s.Name)); got != "what it holds" {
					t.Errorf("the cut has %q", got)
				}
			}
		}
		for call, want := range map[int]int{unix.F_GETLEASE: unix.F_WRLCK, unix.F_GETSIG: int(unix.SIGUSR2), unix.F_GETOWN: os.Getpid()} {
			if got, err := unix.FcntlInt(file.Fd(), call, 0); err != nil || got != want || !found {
				t.Errorf("fcntl %d: %d, want %d (%v); found: %v", call, got, want, err, found)
			}
		}
	}
	select {
	case <-heard:
		t.Fatal("the holder was told that its lease is broken")
	default:
	}
	if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		_ = unix.Close(fd)
		t.Error("the file was opened beside the lease")
	}
	select {
	case <-heard:
	case <-time.After(time.Minute):
		t.Error("the holder was not told that its lease is broken")
	}
}

// TestLeaseThatIsBrokenMeanwhile needs root: a lease that cannot be taken again is told as the kernel tells it.
func TestLeaseThatIsBrokenMeanwhile(t *testing.T) {
	_, home := playground(t)
	file, err := os.OpenFile(home+"/leased", os.O_WRONLY|os.O_CREATE, 0o600)
	must(t, err)
	defer file.Close()
	other, err := os.Open(proc.OwnFd(int(file.Fd())))
	must(t, err)
	defer other.Close()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGIO)
	defer signal.Stop(heard)
	l := lease{file: int(file.Fd()), fd: int(file.Fd()), owner: ownerEx{1, int32(os.Getpid())}}
	must(t, l.retake())
	select {
	case <-heard:
	case <-time.After(time.Minute):
		t.Error("the holder was not told")
	}
}
