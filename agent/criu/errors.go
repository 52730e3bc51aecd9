package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ErrCancelled is what an operation ends with that was cancelled.
var ErrCancelled = errors.New("cancelled")

// Error is a failed operation of CRIU, with CRIU's own words.
type Error struct {
	Op     string // "dump", "restore", "check"
	Job    string
	Member string
	Pid    int    // of the member's root as this host sees it, or 0
	Criu   int    // of CRIU as this host sees it, or 0 if it never started
	Exit   string // how CRIU ended: "exit status 1", "signal: killed"; "" if that is not known
	Killed bool   // CRIU was killed: sockets may be in repair mode, and tasks may still hold its code
	Stood  string // if we killed it, where CRIU and its keeper were then; "" otherwise
	Log    string // where CRIU's log is; of a failure, a copy that no rollback removes
	Lines  []string
	Hint   string // what to do, or ""
	Err    error

	fromCriu bool // Err is go-criu's
}

// Error says which operation failed, what CRIU said, and what to do, in one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "criu %s", e.Op)
	if e.Member != "" {
		fmt.Fprintf(&b, " of %s/%s", e.Job, e.Member)
	}
	if e.Pid != 0 {
		fmt.Fprintf(&b, " (pid %d)", e.Pid)
	}
	// go-criu's own error repeats the first of CRIU's lines, over several of its own.
	if e.Err != nil && (len(e.Lines) == 0 || !e.fromCriu) {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Criu != 0 && e.Exit != "" {
		fmt.Fprintf(&b, " (criu pid %d: %s)", e.Criu, e.Exit)
	}
	if e.Stood != "" {
		fmt.Fprintf(&b, " (when it was killed: %s)", e.Stood)
	}
	if len(e.Lines) > 0 {
		fmt.Fprintf(&b, ": %s", strings.Join(e.Lines, " | "))
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "; %s", e.Hint)
	}
	if e.Log != "" {
		fmt.Fprintf(&b, " (log: %s)", e.Log)
	}
	return b.String()
}

// Unwrap gives what go-criu or the kernel said.
func (e *Error) Unwrap() error { return e.Err }

// hints maps words of CRIU's log to what a person can do. The first that is found counts.
var hints = []struct{ words, hint string }{
	{"multipathtcp", "the program listens with MPTCP, which CRIU cannot dump: start it with GODEBUG=multipathtcp=0"},
	{"Unsupported proto 262", "the program uses MPTCP, which CRIU cannot dump: start a Go program with GODEBUG=multipathtcp=0"},
	{"io_uring", "the program uses io_uring, which CRIU cannot dump: make it use epoll"},
	{"Can't get 1:16 opt", "this CRIU is too old for this kernel (SO_PASSCRED): run scripts/install-criu"},
	{"Unexpected rt vDSO area bounds", "this CRIU is too old for this kernel: run scripts/install-criu"},
	{"Can't lookup mount=", "a file was opened outside the member's mount namespace and inherited: start the member so that it opens its files itself"},
	{"In-flight connection", "a connection waits to be accepted: let the program accept it, and try again"},
	{"Connected TCP socket", "a connection leads out of the job: close it, or take the other end into the job"},
	{"Can't fork for", "a process with that PID is there already: restore into a fresh cell, and reap what the old tree left"},
	{"Cannot assign requested address", "an address of the images is not on this host, or an old connection still holds the tuple: name the move with --remap, or destroy the old socket"},
	{"Can't bind inet socket", "the port or address is taken or not on this host: name the move with --remap, or end what holds it"},
	{"Address already in use", "the port is taken: end what listens on it"},
	{"Broken pipe", "the other end's kernel refused the connection while it was restored: gates must be closed on both ends"},
	{"Can't open file", "a file that the process had open is not on this host: bring it here under the same path"},
	{"File has bad size", "a file is not the one that the process had open: bring the same file to this host"},
	{"has bad build-ID", "an executable or library is another build here: bring the same one to this host"},
	{"is traced by", "a debugger or tracer holds a process of the tree: detach it"},
	{"session leader", "the tree's session leader is not in the tree: attach the session leader's tree"},
	{"Connected UDP socket", "CRIU cannot dump this UDP socket: close it"},
	{"Can't dump ghost file", "a deleted file that is still open is too large to be put into the images: close it"},
	{"Dump eventpoll", "an epoll watches a file that its process has closed: have it remove what it closes (EPOLL_CTL_DEL)"},
	{"Can't make VM id", "processes share their memory and are not threads of one another (clone with CLONE_VM): have them use threads or fork"},
	{"packetized mode for pipes", "the program has a pipe of packets (O_DIRECT): have it use a pipe without"},
	{"Can't dump corked dgram socket", "the program holds back a datagram (UDP_CORK): have it send it"},
	{"netlink: The socket has data to read", "the program has not read an answer of the kernel on a netlink socket: have it read it"},
	{"Can't dump nested", "the program has made a namespace of its own: make it a member of its own, or start it without"},
	{"external socket is used", "a UNIX socket leads out of the member: take its other end into the member"},
	{"No space left on device", "the disk that the images go to is full: make room there"},
	{"Unable to create a netlink socket", "CRIU needs sock_diag: load the kernel modules tcp_diag, udp_diag, unix_diag"},
	{"Can not set ofd lock", "another process has taken a lock on a file that the images have locked: end that (lslocks names it), and restore again"},
	{"Operation not permitted", "CRIU needs root and all its capabilities"},
}

func hintFor(lines []string) string {
	all := strings.Join(lines, "\n")
	for _, h := range hints {
		if strings.Contains(all, h.words) {
			return h.hint
		}
	}
	return ""
}

// tailSize bounds how much of a log is read: a log can be as large as memory is fragmented, and what
// went wrong stands at its end.
const tailSize = 256 << 10

// logErrors returns the lines of the files that CRIU marks as errors. Where there are none, it returns the last line of those that are not of CRIU's log,
// such as what a shell says that cannot start it. Files that cannot be read are left out.
func logErrors(paths ...string) []string {
	var lines, plain []string
	for _, path := range paths {
		found, last := readErrors(path)
		lines = append(lines, found...)
		if last != "" {
			plain = append(plain, last)
		}
	}
	if len(lines) == 0 {
		return plain
	}
	return lines
}

// maxLog bounds how much of a log is read in which the end names no error: CRIU can fail early, and its other processes write on.
const maxLog = 64 << 20

func readErrors(path string) (found []string, last string) {
	for _, limit := range []int64{tailSize, maxLog} {
		tail, err := readTail(path, limit)
		if err != nil {
			return nil, ""
		}
		found, last = errorLines(tail)
		if len(found) > 0 || int64(len(tail)) < limit {
			break
		}
	}
	return found, last
}

func readTail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if over := info.Size() - limit; over > 0 {
		if _, err := f.Seek(over, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// failedDir is the folder, in the work folder, of the logs of failed operations, the last one of each kind for each
// member: a rollback removes the images, and would take the log that its error names with them.
const failedDir = "failed"

// keepLog copies the end of a log.
func keepLog(to, from string) error {
	tail, err := readTail(from, tailSize)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, tail, 0o600)
}

// shownLines is how many error lines are quoted from either end: the first is mostly the cause, the
// last what CRIU made of it.
const shownLines = 4

// harmless is an error that CRIU goes on after: it would like to have more descriptors than the host lets it.
const harmless = "Can't setup RLIMIT_NOFILE for self"

var (
	// errorMark begins the text of an error, after the time and the process that log levels above 2 write before it. A path may have the word as well.
	errorMark = regexp.MustCompile(`^(?:\([0-9.]+\)|pie:|[0-9]+:|\s)*(Error \([^() ]+:[0-9]+\): .*)`)
	// logMark begins any other line of CRIU's log: one with a time, or a warning, or one of its code in a process.
	logMark = regexp.MustCompile(`^(?:\([0-9.]+\)|Warn |pie: )`)
)

// errorLines picks the lines that CRIU marks as errors, without their time stamps, and the last of the lines that are not CRIU's log.
func errorLines(log []byte) (found []string, last string) {
	for raw := range bytes.Lines(log) {
		line := strings.ToValidUTF8(strings.TrimSpace(string(raw)), "?")
		if line == "" || strings.Contains(line, harmless) {
			continue
		}
		switch m := errorMark.FindStringSubmatch(line); {
		case m != nil:
			found = append(found, clip(m[1]))
		case !logMark.MatchString(line):
			last = clip(line)
		}
	}
	if len(found) > 2*shownLines {
		found = append(found[:shownLines:shownLines], found[len(found)-shownLines:]...)
	}
	return found, last
}

func clip(line string) string {
	const limit = 300
	if len(line) > limit {
		return line[:limit] + "…"
	}
	return line
}
