package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"ss/store/kv/bolt"
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
	c, err := Open(context.Background(), dir)
	if err != nil {
		return err
	}
	switch do {
	case "names":
		for range 25 {
			if _, err := c.DrawMember(context.Background(), "ring", "hostA", nil); err != nil {
				return err
			}
		}
	case "attempt":
		a, err := c.BeginAttempt(context.Background(), Attempt{Kind: KindSnapshot, Job: "ring"})
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
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+dirOf(c), "STORE_TEST_DO="+do)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestConcurrent: processes and handles that write at once lose nothing and draw no name twice.
func TestConcurrent(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 2 {
		cmd := childCommand(c, "names")
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
				name, err := handle.DrawMember(t.Context(), "ring", "hostA", nil)
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				if seen[name] {
					errs <- fmt.Errorf("%s twice", name)
				}
				seen[name] = true
				mu.Unlock()
				if _, err := handle.Cuts(t.Context(), ""); err != nil {
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
	j, err := c.Job(t.Context(), "ring")
	check(t, err)
	if n := j.Drawn["hostA"]; n != 6*25 {
		t.Errorf("number %d after %d draws", n, 6*25)
	}
	check(t, c.Check(t.Context()))
}

// TestKilledSsctl: while the other process lives its attempt counts; when it is killed, no more.
func TestKilledSsctl(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	cmd := childCommand(c, "attempt")
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	id, err := bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	_, err = c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: "ring"})
	wantErr(t, err, ErrConflict, fmt.Sprint(cmd.Process.Pid))
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
	attempts, err := c.Attempts(t.Context())
	check(t, err)
	if len(attempts) != 1 || attempts[0].Live || attempts[0].ID+"\n" != id {
		t.Fatalf("attempts %+v, id %q", attempts, id)
	}
	begin(t, c, "ring")
	check(t, c.EndAttempt(t.Context(), attempts[0].ID))
}

func TestLockTimeout(t *testing.T) {
	c := create(t)
	f, err := os.Open(pathOf(c))
	check(t, err)
	defer f.Close()
	check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	c.db.(*bolt.DB).LockTimeout = 50 * time.Millisecond
	_, err = c.Cluster(t.Context()) // readers do not mind each other
	check(t, err)
	wantErr(t, c.AddHost(t.Context(), Host{Name: "a", Addr: "10.0.0.9:7070"}), ErrLocked, pathOf(c))
	check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
	check(t, c.AddHost(t.Context(), Host{Name: "a", Addr: "10.0.0.9:7070"}))
}
