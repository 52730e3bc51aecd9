package waits

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Call is a system call that a thread stood in when its member was frozen.
type Call struct {
	Pid   int    `json:"pid"`   // the thread's process, as this host sees it
	Tid   int    `json:"tid"`   // the thread, as this host sees it
	Start uint64 `json:"start"` // when the thread started, in clock ticks after boot: with Tid it names one thread for good

	Nr   int       `json:"nr"`   // the call
	Code int       `json:"code"` // what it was about to return: a negative error number, restart codes included
	Args [6]uint64 `json:"args"`
	IP   uint64    `json:"ip"` // after the instruction that made the call
	SP   uint64    `json:"sp"`

	Idle bool `json:"idle,omitempty"` // see idle

	Kept     int           `json:"kept,omitempty"`     // the code that Keep has set; 0: none
	Deadline time.Duration `json:"deadline,omitempty"` // when a wait of some length ends, on CLOCK_MONOTONIC; 0: unknown, or never

	// Set are the arguments that the thread was given back. Signed says that no program passes such, so that a call with the same ones, at the same
	// place, is the same wait.
	Set    [6]uint64 `json:"set"`
	Signed bool      `json:"signed,omitempty"`

	Was   time.Duration `json:"-"` // the deadline of the wait that the thread stood in, at the same place, when it was frozen before
	again bool          // the kernel says that it is that wait
}

// CallLen is the length of the instruction that makes a system call, in bytes.
const CallLen = 2

// Inner is the thread in its own PID namespace. ok is false if it has ended.
func (c Call) Inner() (tid int, ok bool) {
	s, err := proc.ReadSignals(c.Pid, c.Tid)
	if err != nil {
		return 0, false
	}
	st, err := proc.ThreadStat(c.Pid, c.Tid)
	return s.Inner, err == nil && st.Start == c.Start
}

// Interruptible says whether a signal that has a handler may end the call.
func (c Call) Interruptible() bool {
	return c.Code != restartNoIntr && (c.Code != eintr || c.Kept != 0)
}

// Restarts says whether the call goes on after a signal whose handler says so.
func (c Call) Restarts() bool { return c.Code == restartSys }

// Record is what Keep has found of one member, and what GiveBack needs.
type Record struct {
	Boot  string `json:"boot"` // the kernel's boot_id: threads of another boot are gone
	Calls []Call `json:"calls"`
	Given bool   `json:"given"` // GiveBack is through with it
}

// byThread returns the calls of threads that may still be there, by tid.
func (r Record) byThread() map[int]Call {
	if r.Boot != proc.BootID() {
		return nil
	}
	out := make(map[int]Call, len(r.Calls))
	for _, c := range r.Calls {
		out[c.Tid] = c
	}
	return out
}

// Store is the file of a member's record. It is not synced: whom it speaks of does not outlive the kernel either.
type Store struct{ Path string }

// Load reads the record. Where there is none, or none that can be read, it is empty: the threads then go on as CRIU has left them.
func (s Store) Load() Record {
	var r Record
	text, err := os.ReadFile(s.Path)
	if err == nil && json.Unmarshal(text, &r) != nil {
		return Record{}
	}
	r.Boot = strings.TrimSpace(r.Boot) // earlier programs wrote a newline with it
	return r
}

// Kept says whether threads have been changed by Keep and not been given back what they had.
func (s Store) Kept() bool {
	r := s.Load()
	return len(r.Calls) > 0 && !r.Given && r.Boot == proc.BootID()
}

func (s Store) save(r Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode what the threads wait in: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(s.Path), "."+filepath.Base(s.Path)+"-*")
	if err != nil {
		return fmt.Errorf("write what the threads wait in: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.Path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write what the threads wait in: %w", err)
	}
	return nil
}

// lock makes the caller the only one to change the member's threads: a watcher and the next agent may come at once.
func (s Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(s.Path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock what the threads wait in: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock what the threads wait in: %w", err), f.Close())
		}
	}
}
