package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is what one agent needs for itself while it takes part in a snapshot, in MiB.
type Memory struct {
	Host   string  `json:"host"`
	MiB    int     `json:"mib"`    // of the large member
	Before float64 `json:"before"` // resident
	Peak   float64 `json:"peak"`   // the most that was resident (VmHWM)
}

// memory takes one snapshot and reads the agents' own memory.
func (j *job) memory() []Memory {
	var all []Memory
	for _, h := range j.lab.Hosts() {
		pid := j.lab.Agent(h.Name).Pid()
		// 5 resets the peak to what is resident now (proc_pid_clear_refs(5)).
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			j.Fatalf("reset the agent's peak: %v", err)
		}
		all = append(all, Memory{Host: h.Name, MiB: j.mib, Before: j.resident(pid, "VmRSS:")})
	}
	j.snapshot()
	for i := range all {
		all[i].Peak = j.resident(j.lab.Agent(all[i].Host).Pid(), "VmHWM:")
	}
	j.Logf("%-13s memory of the agents: %+v", j.name, all)
	return all
}

// resident reads a line of a process's status, in MiB.
func (j *job) resident(pid int, what string) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		j.Fatalf("memory of the agent: %v", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == what {
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				j.Fatalf("memory of the agent: %v", err)
			}
			return kib / 1024
		}
	}
	j.Fatalf("memory of the agent: no %s", what)
	return 0
}
