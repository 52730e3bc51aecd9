package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"ss/integration/lab"
)

// Counters are what TCP counts on all hosts together (/proc/net/netstat and /proc/net/snmp).
type Counters struct {
	Timeouts     int `json:"timeouts"` // TcpExtTCPTimeouts
	SpuriousRTOs int `json:"spurious_rtos"`
	LossProbes   int `json:"loss_probes"`
	Retransmits  int `json:"retransmits"` // TcpRetransSegs
}

func (c Counters) minus(d Counters) Counters {
	return Counters{c.Timeouts - d.Timeouts, c.SpuriousRTOs - d.SpuriousRTOs, c.LossProbes - d.LossProbes, c.Retransmits - d.Retransmits}
}

func readCounters(l *lab.Lab) (Counters, error) {
	var c Counters
	for _, h := range l.Hosts() {
		for file, fields := range map[string]map[string]*int{
			"netstat": {"TcpExt TCPTimeouts": &c.Timeouts, "TcpExt TCPSpuriousRTOs": &c.SpuriousRTOs, "TcpExt TCPLossProbes": &c.LossProbes},
			"snmp":    {"Tcp RetransSegs": &c.Retransmits},
		} {
			if err := addCounters(fmt.Sprintf("/proc/%d/net/%s", h.Pid(), file), fields); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// addCounters adds the named fields of a file that has pairs of lines: names, then values.
func addCounters(path string, fields map[string]*int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	found := 0
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) || len(names) == 0 {
			continue
		}
		group := strings.TrimSuffix(names[0], ":")
		for k := 1; k < len(names); k++ {
			to := fields[group+" "+names[k]]
			if to == nil {
				continue
			}
			v, err := strconv.Atoi(values[k])
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			*to += v
			found++
		}
	}
	if found != len(fields) {
		return fmt.Errorf("%s does not have all of what is wanted", path)
	}
	return nil
}
