package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Leaks lists what is on the hosts that are on and does not belong there when no job runs: processes other than PID 1
// and the agent, mounts that were not there at boot, cgroups below the host's own, packet filters beyond an idle agent's. Each entry is a line for a
// person. Commands that the test itself still runs on a host count too.
func (l *Lab) Leaks() []string {
	l.tb.Helper()
	var all []string
	for _, h := range l.hosts {
		if h.init == nil {
			continue
		}
		for _, find := range []func(*Host) ([]string, error){l.strayProcesses, strayMounts, strayCgroups, strayTables} {
			leaks, err := find(h)
			if err != nil {
				l.tb.Fatalf("look for leaks on %s: %v", h.Name, err)
			}
			for _, leak := range leaks {
				all = append(all, h.Name+": "+leak)
			}
		}
	}
	return all
}

func (l *Lab) strayProcesses(h *Host) ([]string, error) {
	proc := fmt.Sprintf("/proc/%d/root/proc", h.Pid())
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	agent := 0
	if a := l.agents[h.Name]; a != nil && a.running() {
		if agent, err = innerPid(a.cmd.Pid()); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	var stray []string
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == 1 || pid == agent {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(proc, entry.Name(), "cmdline"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		status, _ := os.ReadFile(filepath.Join(proc, entry.Name(), "stat")) // for a person to read
		stray = append(stray, fmt.Sprintf("process %d: %s (%s)", pid,
			strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")), strings.TrimSpace(string(status))))
	}
	return stray, nil
}

// innerPid is a host's process as the host's own PID namespace numbers it.
func innerPid(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(rest)
			if len(fields) < 2 {
				break
			}
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("process %d is on no host", pid)
}

// mountPoints lists what a process sees mounted, one "mount point filesystem" each.
func mountPoints(pid int) ([]string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(kind) < 1 {
			return nil, fmt.Errorf("malformed mountinfo: %q", lines.Text())
		}
		points = append(points, fields[4]+" "+kind[0])
	}
	return points, lines.Err()
}

func strayMounts(h *Host) ([]string, error) {
	now, err := mountPoints(h.Pid())
	if err != nil {
		return nil, err
	}
	var stray []string
	for _, m := range now {
		if !h.mounts[m] {
			stray = append(stray, "mount "+m)
		}
	}
	return stray, nil
}

func strayCgroups(h *Host) ([]string, error) {
	folders, err := cgroupFolders(h.cgroup() + "/*")
	if err != nil {
		return nil, err
	}
	var stray []string
	for _, folder := range folders {
		stray = append(stray, "cgroup "+folder)
	}
	return stray, nil
}

// strayTables compares what packets meet on the host with what they met when its agent had just become ready: an agent may
// have a table of its own all the time, but its gates are open when there are no more rules and elements in it than then.
func strayTables(h *Host) ([]string, error) {
	now, err := filters(h)
	for errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) { // what was just listed is gone, or the list has changed: look again
		now, err = filters(h)
	}
	if err != nil {
		return nil, err
	}
	var stray []string
	for what, size := range now {
		if before, ok := h.filters[what]; !ok || size > before {
			stray = append(stray, fmt.Sprintf("nft %s: %d rules or elements", what, size))
		}
	}
	slices.Sort(stray)
	return stray, nil
}

// filters counts what is in every nft table, chain and set of a host. What goes away while it is counted, as the table of
// an agent that was just killed does, is counted again without it.
func filters(h *Host) (map[string]int, error) {
	for {
		sizes, err := filtersOnce(h)
		if err == nil || !strings.Contains(err.Error(), unix.ENOENT.Error()) { // the library does not wrap it
			return sizes, err
		}
	}
}

func filtersOnce(h *Host) (map[string]int, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nft tables: %w", err)
	}
	sizes := map[string]int{}
	for _, table := range tables {
		sizes["table "+table.Name] = 0
		sets, err := conn.GetSets(table)
		if err != nil {
			return nil, fmt.Errorf("list nft sets: %w", err)
		}
		for _, set := range sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("list nft set %s: %w", set.Name, err)
			}
			sizes["set "+table.Name+" "+set.Name] = len(elements)
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nft chains: %w", err)
	}
	for _, chain := range chains {
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list nft chain %s: %w", chain.Name, err)
		}
		sizes["chain "+chain.Table.Name+" "+chain.Name] = len(rules)
	}
	return sizes, nil
}
