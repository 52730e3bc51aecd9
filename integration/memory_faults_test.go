package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// memoryFaults hit hosts that copy memory while members run. Rows of one group are struck on one job.
var memoryFaults = []struct {
	name    string
	prepare func(*faultRig)
	rows    []blow
}{
	// The memory is tracked since the last cut: what was written since is found and copied, at once, in further rounds, and at the freeze.
	{"second cut", (*faultRig).keepMemory, []blow{
		{"snapshot", "agent", "hostB", "dumping", undone},
		{"snapshot", "agent", "hostB", "copying memory", undone},
		{"snapshot", "agent", "hostB", "holding new connections", undone},
		{"snapshot", "ssctl", "hostB", "copying memory", undone},
		{"snapshot", "ssctl", "hostB", "holding new connections", undone},
		{"snapshot", "ssctl", "hostB", "dumping", undone},
		{"snapshot", "criu", "hostB", "copying memory", undone},
		{"snapshot", "criu", "hostB", "holding new connections", undone},
		{"snapshot", "criu", "hostB", "dumping", undone},
		{"snapshot", "agent", "hostA", "copying memory", undone},
		{"snapshot", "agent", "hostB", "storing", undone},
		{"snapshot --stop", "agent", "hostB", "storing", undone},
	}},
	// Nothing is tracked yet: the memory is protected and copied as a whole, then what was written since in further rounds, and at the freeze.
	{"first cut", (*faultRig).forgetMemory, []blow{
		{"snapshot", "agent", "hostB", "copying memory", undone},
		{"snapshot", "agent", "hostB", "holding new connections", undone},
		{"snapshot", "agent", "hostB", "dumping", undone},
		{"snapshot", "ssctl", "hostB", "copying memory", undone},
		{"snapshot", "ssctl", "hostB", "holding new connections", undone},
		{"snapshot", "ssctl", "hostB", "dumping", undone},
		{"snapshot", "criu", "hostB", "copying memory", undone},
		{"snapshot", "criu", "hostB", "holding new connections", undone},
		{"snapshot", "criu", "hostB", "dumping", undone},
		{"snapshot", "agent", "hostB", "dumping memory", undone},
		{"snapshot", "criu", "hostB", "dumping memory", undone},
		{"snapshot", "ssctl", "hostB", "storing", undone},
		{"snapshot", "agent criu", "hostB", "dumping", undone},
		{"snapshot", "agent-term", "hostB", "copying memory", undone},
	}},
	// The members whose memory is tracked end, and it is given back, while a restore puts others in their place.
	{"given back", (*faultRig).keepMemory, []blow{
		{"restore", "agent", "hostB", "restoring", stopped},
		{"restore", "ssctl", "hostB", "restoring", stopped},
		{"restore", "criu", "hostB", "restoring", stopped},
		{"restore", "agent-term", "hostB", "restoring", stopped},
	}},
}

// TestFaultsOfTrackedMemory kills agent, ssctl and CRIU in each phase of a snapshot of tracked memory. After each row an agent keeps copies of nothing but members that
// live. SS_MEMORY_FAULTS says how many of the rows (1); make test-memory takes all.
func TestFaultsOfTrackedMemory(t *testing.T) {
	left := 1
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_FAULTS")); err == nil {
		left = n
	}
	for _, g := range memoryFaults {
		rows := g.rows[:min(left, len(g.rows))]
		left -= len(rows)
		if len(rows) == 0 {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			strikeAll(t, "tracked_from: 0\n", func(f *faultRig) {
				f.keptMatches()
				g.prepare(f)
			}, rows)
		})
	}
}

// keepMemory takes a cut, after which the memory of the members on each host is tracked still.
func (f *faultRig) keepMemory() {
	f.t.Helper()
	f.snapshot()
	for _, host := range []string{"hostA", "hostB"} {
		if len(f.kept(host)) == 0 {
			f.t.Fatalf("the agent of %s keeps no memory after a cut", host)
		}
	}
}

// forgetMemory puts other processes in the place of all members: nothing of them is tracked yet.
func (f *faultRig) forgetMemory() {
	f.t.Helper()
	cuts := f.cuts()
	f.MustCtl("restore", cuts[len(cuts)-1])
	f.mustFlow("after a restore", soon)
	for _, host := range []string{"hostA", "hostB"} {
		await(f.t, "no kept memory on "+host, func() string { return strings.Join(f.kept(host), " ") })
	}
}

var keptName = regexp.MustCompile(`/memory/memory-(\d+)-(\d+) \(deleted\)$`)

// kept lists the copies of memory that a host's agent keeps for the next cut, one for each process, as PID/BORN. They are files without a name.
func (c *cluster) kept(host string) (out []string) {
	c.t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.Agent(host).Pid()))
	must(c.t, err)
	for _, fd := range fds {
		link, _ := os.Readlink(fd) // gone: it is closed
		if m := keptName.FindStringSubmatch(link); m != nil {
			out = append(out, m[1]+"/"+m[2])
		}
	}
	return out
}

// keptMatches returns when agents keep copies of the memory of living processes alone, and ends the test if that takes too long.
func (c *cluster) keptMatches() {
	c.t.Helper()
	await(c.t, "memory of ended processes given back", func() string {
		for _, h := range c.Hosts() {
			for _, copied := range c.kept(h.Name) {
				pid, born, _ := strings.Cut(copied, "/")
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%s/stat", h.Pid(), pid))
				_, rest, _ := strings.Cut(string(stat), ") ")
				if fields := strings.Fields(rest); err != nil || len(fields) < 20 || fields[19] != born {
					return fmt.Sprintf("the agent of %s keeps memory of process %s, which has ended", h.Name, pid)
				}
			}
		}
		return ""
	})
}
