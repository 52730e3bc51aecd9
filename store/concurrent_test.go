package store

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test program be a second ssctl.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_CHILD"); dir != "" {
		if err := child(dir, os.Getenv("STORE_TEST_DO")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(dir, do string) error {
	c, err := Open(dir)
	if err != nil {
		return err
	}
	switch do {
	case "epochs":
		for range 25 {
			if _, err := c.NextEpoch("ring"); err != nil {
				return err
			}
		}
	case "attempt":
		a, err := c.BeginAttempt(Attempt{Kind: KindSnapshot, Job: "ring"})
		if err != nil {
			return err
		}
		fmt.Println(a.ID)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the parent has done its part
	}
	return nil
}

func childCommand(c *Catalogue, do string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+c.dir, "STORE_TEST_DO="+do)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestConcurrent: processes and handles that write at once lose nothing and draw no epoch twice.
func TestConcurrent(t *testing.T) {
	c := create(t)
	check(t, c.AddMember("ring", "hostA", "hostA-1"))
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for range 2 {
		cmd := childCommand(c, "epochs")
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				errs <- fmt.Errorf("child: %w: %s", err, out)
			}
		})
	}
	for range 4 {
		handle := reopen(t, c)
		wg.Go(func() {
			for range 25 {
				epoch, err := handle.NextEpoch("ring")
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				if seen[epoch] {
					errs <- fmt.Errorf("epoch %d twice", epoch)
				}
				seen[epoch] = true
				mu.Unlock()
				if _, err := handle.Cuts(""); err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	j, err := c.Job("ring")
	check(t, err)
	if j.Epoch != 6*25 {
		t.Errorf("epoch %d after %d draws", j.Epoch, 6*25)
	}
	check(t, c.Check())
}

// TestKilledSsctl: while the other process lives its attempt counts; when it is killed, no more.
func TestKilledSsctl(t *testing.T) {
	c := create(t)
	check(t, c.AddMember("ring", "hostA", "hostA-1"))
	cmd := childCommand(c, "attempt")
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	id, err := bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	_, err = c.BeginAttempt(Attempt{Kind: KindSnapshot, Job: "ring"})
	wantErr(t, err, ErrConflict, fmt.Sprint(cmd.Process.Pid))
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
	attempts, err := c.Attempts()
	check(t, err)
	if len(attempts) != 1 || attempts[0].Live || attempts[0].ID+"\n" != id {
		t.Fatalf("attempts %+v, id %q", attempts, id)
	}
	begin(t, c, "ring")
	check(t, c.EndAttempt(attempts[0].ID))
}

func TestLockTimeout(t *testing.T) {
	c := create(t)
	f, err := os.Open(c.path())
	check(t, err)
	defer f.Close()
	check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	c.LockTimeout = 50 * time.Millisecond
	_, err = c.Cluster() // readers do not mind each other
	check(t, err)
	wantErr(t, c.AddHost(Host{Name: "a", Addr: "10.0.0.9:7070"}), ErrLocked, c.path())
	check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
	check(t, c.AddHost(Host{Name: "a", Addr: "10.0.0.9:7070"}))
}
