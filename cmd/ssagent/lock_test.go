package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests' program is an agent as well, of which only the lock is real: it takes that in the folder named, starts a program that outlives it, and waits.
const lockIn = "TEST_LOCK_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(lockIn); dir != "" {
		if _, err := lockState(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		keeper := exec.Command("sleep", "1000")
		if err := keeper.Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(keeper.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

// TestLockState: a second agent on a state folder does not start, and is told of the first. When that is killed the next one starts, though what the first has started lives.
func TestLockState(t *testing.T) {
	dir := t.TempDir()
	first := exec.Command("/proc/self/exe")
	first.Env = append(os.Environ(), lockIn+"="+dir)
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Process.Kill() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	defer func() { _ = unix.Kill(keeper, unix.SIGKILL) }()
	refused := func(want string) {
		t.Helper()
		f, err := lockState(dir)
		if err == nil {
			f.Close()
			t.Fatal("a second agent has the folder")
		}
		for _, w := range []string{want, "works in the state folder " + dir + " already", "systemctl stop ssagent"} {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("no %q in: %v", w, err)
			}
		}
	}
	refused(fmt.Sprintf("another agent, process %d (/proc/self/exe), ", first.Process.Pid))
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("1\n"), 0o600); err != nil { // a number of another PID namespace
		t.Fatal(err)
	}
	refused("another agent works")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = first.Process.Wait()
	if err := unix.Kill(keeper, 0); err != nil {
		t.Fatal(err)
	}
	f, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("%q, %v", b, err)
	}
}
