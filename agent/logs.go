package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/fault"
	"ss/names"
)

const (
	// logPiece bounds what is sent of a log at once, in bytes.
	logPiece = 64 << 10
	// logPoll is how often a log that is followed is looked at: a log may lie on a file system that tells of no writes.
	logPoll = 200 * time.Millisecond
	// lastWords bounds what is shown of the log of a program that has ended at once, in bytes.
	lastWords = 2 << 10
)

// logFolder is where the logs of a job are whose members were started without one.
func (a *Agent) logFolder(job string) string { return filepath.Join(a.cfg.StateDir, "logs", job) }

func (a *Agent) logFile(job, member string) string {
	return filepath.Join(a.logFolder(job), member+".log")
}

// logFolders lists the folder of a member's log, if it has a log.
func logFolders(m Member) []string {
	if m.Log == "" {
		return nil
	}
	return []string{filepath.Dir(logPath(m))}
}

// logPath is where a member's log is, "" if it has none. What a member names is relative to where it works.
func logPath(m Member) string {
	if m.Log == "" || filepath.IsAbs(m.Log) {
		return m.Log
	}
	return filepath.Join("/", m.Dir, m.Log)
}

// makeLog makes the folder for a member's log and returns the log's path. It is kept, whatever becomes of the member, until ForgetJob.
func (a *Agent) makeLog(job, member string) (string, error) {
	if err := os.MkdirAll(a.logFolder(job), 0o700); err != nil {
		return "", fmt.Errorf("make the folder of logs: %w", err)
	}
	return a.logFile(job, member), nil
}

// checkLog refuses a log that is in /proc, or that a link in /proc leads to (/dev/stdout does). Such a link leads to what whoever follows it has open: /proc/self/fd/1 would be the
// agent's own log.
func checkLog(path string) error {
	if path == "" {
		return nil
	}
	path = filepath.Clean(path)
	in, err := inProc(path)
	if errors.Is(err, fs.ErrNotExist) { // it will be made in its folder
		in, _ = inProc(filepath.Dir(path))
	}
	if in { // whatever else is wrong with it, the start finds
		return fault.New(fault.Usage, fmt.Sprintf("the log %s is in /proc, or is found by a link there, and would be another file for each process", path),
			"give --log a regular file, or leave it out: ssctl logs shows what the program writes then")
	}
	return nil
}

// inProc says whether a path leads to a file of /proc, or passes one of its links.
func inProc(path string) (bool, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ELOOP) { // for such a link, or for links that lead to one another
		_, err := os.Stat(path)
		return !errors.Is(err, unix.ELOOP), err
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	err = unix.Fstatfs(fd, &st)
	return err == nil && st.Type == unix.PROC_SUPER_MAGIC, err
}

// removeLog removes the log of a member whose start has failed, if it is one that makeLog made, and the folder if that is empty.
func (a *Agent) removeLog(m Member) error {
	path := a.logFile(m.Job, m.Name)
	if m.Log != path {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(a.logFolder(m.Job)) // the job has others: it stays
	return nil
}

// logBytes is how long a member's log is, -1 where that is not known.
func logBytes(m Member) int64 {
	if m.Log == "" {
		return -1
	}
	st, err := files.Stat(m.Log)
	if err != nil {
		return -1
	}
	return st.Size
}

// lastWords are the last lines of a member's log, for an error.
func (a *Agent) lastWords(m Member) string {
	f, err := files.Open(m.Log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if err := seekTail(f, lastWords); err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(f, lastWords))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(text))
}

// ForgetJob removes what is left of a job of which no member lives here: members that have ended, and the logs that Run has made.
func (a *Agent) ForgetJob(ctx context.Context, job string) error {
	if err := names.Check("job", job); err != nil {
		return a.fail("job rm", job, &fault.Error{Kind: fault.Usage, Err: err})
	}
	release, err := a.lockJob(job, "job rm")
	if err != nil {
		return a.fail("job rm", job, err)
	}
	defer release()
	living, err := a.running(ctx, job)
	if err == nil && len(living) > 0 {
		err = fault.New(fault.Conflict, fmt.Sprintf("member %s still runs", living[0].Name), "end it first with ssctl kill "+job)
	}
	if err == nil {
		_, err = a.killMembers(ctx, job) // all have ended: they are forgotten
	}
	if err == nil {
		err = os.RemoveAll(a.logFolder(job))
	}
	if err != nil {
		return a.fail("job rm", job, err)
	}
	a.mu.Lock()
	delete(a.rosters, job)
	a.mu.Unlock()
	return nil
}

// LogOptions says what of a log is wanted.
type LogOptions struct {
	Follow bool  // go on as it grows, until the member has ended
	Tail   int64 // begin so many bytes before its end, at the beginning of a line; 0: at its beginning
}

// Logs says when a member's log was last written to, and then sends it in pieces, each of which is to be used before send returns. Of a member that was forgotten it is the one
// that Run made, if it is still there.
func (a *Agent) Logs(ctx context.Context, job, member string, opt LogOptions, begin func(modified time.Time) error, send func([]byte) error) error {
	if err := checkNames(job, member); err != nil {
		return a.fail("logs", job, err)
	}
	if err := a.sendLog(ctx, job, member, opt, begin, send); err != nil {
		return a.fail("logs", job, fmt.Errorf("%s: %w", member, err))
	}
	return nil
}

func (a *Agent) sendLog(ctx context.Context, job, member string, opt LogOptions, begin func(modified time.Time) error, send func([]byte) error) error {
	m, err := a.member(ctx, job, member)
	if err != nil {
		return err
	}
	path := m.Log
	if m.Name == "" {
		path = a.logFile(job, member)
	}
	if path == "" {
		return fault.New(fault.NotFound, "it has no log: it was attached, or is of an agent that made none", "")
	}
	f, err := files.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "there is no log "+path, "see ssctl ps "+job)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = begin(info.ModTime())
	}
	if err != nil {
		return err
	}
	if opt.Tail > 0 {
		if err := seekTail(f, opt.Tail); err != nil {
			return err
		}
	}
	return a.pour(ctx, f, m, opt.Follow, send)
}

// pour sends what is in the log and, with follow, what comes, until the member has ended or the file is another one.
func (a *Agent) pour(ctx context.Context, f *os.File, m Member, follow bool, send func([]byte) error) error {
	buf := make([]byte, logPiece)
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		// Whether it has ended is asked before its log is read to the end: what it wrote last is not missed.
		ended := !follow
		if follow {
			now, err := a.member(ctx, m.Job, m.Name)
			if err != nil {
				return err
			}
			ended = now.State != Running
		}
		for {
			n, err := f.Read(buf)
			if n > 0 {
				if err := send(buf[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("read the log: %w", err)
			}
		}
		if ended {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// member finds a member of this host; one without a name says that it is not here.
func (a *Agent) member(ctx context.Context, job, name string) (Member, error) {
	all, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return Member{}, err
	}
	if i := slices.IndexFunc(all, func(m Member) bool { return m.Job == job && m.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Member{}, nil
}

// seekTail goes to the first beginning of a line in the last n bytes.
func seekTail(f *os.File, n int64) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end <= n {
		_, err = f.Seek(0, io.SeekStart)
		return err
	}
	tail := make([]byte, min(n, logPiece))
	got, err := f.ReadAt(tail, end-n)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	skip := bytes.IndexByte(tail[:got], '\n') + 1 // a line longer than the tail begins in its middle
	_, err = f.Seek(end-n+int64(skip), io.SeekStart)
	return err
}
