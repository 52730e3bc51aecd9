// Package meet is how two test programs find each other, and how they learn that they are to come to an end. It imports the
// standard library alone.
package meet

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	patience = 30 * time.Second
	retry    = 20 * time.Millisecond
)

// Dial connects to a program that may still be about to listen.
func Dial(addr string) (*net.TCPConn, error) {
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		// There is no event to wait for that says a port on another host is open.
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(retry)
	}
}

// Accept returns the first connection made to addr. The listener stays open, as a server's does, until close is called.
func Accept(addr string) (conn *net.TCPConn, close func() error, err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	c, err := listener.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return c.(*net.TCPConn), listener.Close, nil
}

// Stopper tells a program when it has done enough, and holds it back while it does it.
type Stopper struct {
	// Limit is a number of things to do; 0 means no limit.
	Limit uint64
	// File is the path of a file whose appearance means enough; "" means none.
	File string
	// Rate is how many things are done in a second at most; 0 means no bound. A test that measures nothing leaves the processors to others.
	Rate uint64

	asked time.Time
	began time.Time // of the second that is counted
	done  uint64    // by then
}

// Flags adds the flags that set it. What is the name of the things, and of the flag that bounds their number.
func (s *Stopper) Flags(flags *flag.FlagSet, what string) {
	flags.Uint64Var(&s.Limit, what, 0, "stop after so many "+what+"; 0: do not")
	flags.Uint64Var(&s.Rate, "rate", 0, "do not more than so many "+what+" in a second; 0: as many as it can")
	flags.StringVar(&s.File, "until", "", "stop when this `file` appears")
}

// burst is the least time that a program is held back: shorter pauses would cost more than they save.
const burst = 5 * time.Millisecond

// hold waits until n things are not more than Rate allows.
func (s *Stopper) hold(n uint64) {
	if s.Rate == 0 {
		return
	}
	now := time.Now()
	// What stood still, for a snapshot or a slow partner, does not catch up.
	if past := now.Sub(s.began); past > time.Second || past < 0 {
		s.began, s.done = now, n
	}
	due := s.began.Add(time.Duration(n-s.done) * time.Second / time.Duration(s.Rate))
	if wait := due.Sub(now); wait >= burst {
		time.Sleep(wait)
	}
}

// Enough says whether it is time to stop after n things. It looks for the file a few times a second and no oftener. Before it answers, it
// waits until Rate allows the next thing.
func (s *Stopper) Enough(n uint64) bool {
	s.hold(n)
	if s.Limit > 0 && n >= s.Limit {
		return true
	}
	if s.File == "" || time.Since(s.asked) < retry {
		return false
	}
	s.asked = time.Now()
	_, err := os.Stat(s.File)
	return err == nil
}

// Verdict turns the outcome of a program into its last line and its exit status.
func Verdict(name, summary string, err error) (line string, status int) {
	if err != nil {
		return fmt.Sprintf("FAIL %s: %v", name, err), 1
	}
	return fmt.Sprintf("PASS %s %s", name, summary), 0
}
