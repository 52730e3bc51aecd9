package report

import (
	"fmt"
	"time"

	"ss/fault"
	"ss/orchestrator"
)

// Host is a registered host.
type Host struct {
	Host      string   `json:"host"`
	Addr      string   `json:"addr"`
	Reachable bool     `json:"reachable"`
	Version   string   `json:"version,omitempty"`
	Kernel    string   `json:"kernel,omitempty"`
	Addrs     []string `json:"addrs,omitempty"`
	CRIU      string   `json:"criu"`
	Gate      string   `json:"gate"`
	Memory    string   `json:"memory"`
	MemoryWhy string   `json:"memory_reason"`
	FreeBytes int64    `json:"free_bytes"`
	Error     string   `json:"error,omitempty"`
	Damage    []Damage `json:"damage"`
	Unsettled []string `json:"unsettled"` // jobs that were restored without the host and may have members there
	SetAside  []Aside  `json:"set_aside"`

	state, criu string   // for the table
	problems    []string // for people, one a line
}

// Aside is a damaged state file. Its job stands still on the host.
type Aside struct {
	Job    string `json:"job"`
	File   string `json:"file"`
	Detail string `json:"detail"`
	Next   string `json:"next"`
}

// Damage is an object that was found damaged.
type Damage struct {
	Job    string    `json:"job"`
	Object string    `json:"object"`
	Detail string    `json:"detail"`
	Found  time.Time `json:"found"`
	Healed bool      `json:"healed"`
}

func (d Damage) String() string {
	state := "ssctl repair heals it from another copy"
	if d.Healed {
		state = "healed from another copy"
	}
	return fmt.Sprintf("damaged object %s of job %s, found %s: %s; %s", d.Object, d.Job, When(d.Found), d.Detail, state)
}

// Hosts is what host list says.
type Hosts struct {
	Schema string `json:"schema"`
	Hosts  []Host `json:"hosts"`
}

// HostsOf describes hosts.
func HostsOf(hosts []orchestrator.HostStatus, unsettled []orchestrator.Unsettled) Hosts {
	doc := Hosts{Schema: "ss/host-list/1", Hosts: []Host{}}
	for _, h := range hosts {
		doc.Hosts = append(doc.Hosts, hostOf(h, unsettled))
	}
	return doc
}

func hostOf(h orchestrator.HostStatus, unsettled []orchestrator.Unsettled) Host {
	j := Host{Host: h.Name, Addr: h.Addr, Reachable: h.Err == nil, Version: h.Info.Version, Kernel: h.Info.Kernel,
		CRIU: h.Info.CRIU, Gate: h.Info.Gate, FreeBytes: h.Info.FreeBytes, Damage: []Damage{}, SetAside: []Aside{}, Unsettled: []string{},
		state: "up", criu: h.Info.CRIU}
	for _, ad := range h.Info.Addrs {
		j.Addrs = append(j.Addrs, ad.String())
	}
	switch {
	case fault.Is(h.Err, fault.Outdated):
		j.state, j.Error = "other version", h.Err.Error()
	case h.Err != nil:
		j.state, j.Error = "unreachable", h.Err.Error()
	case h.Info.CRIUError != "":
		j.criu, j.Error = "unusable", h.Info.CRIUError
	}
	j.Memory, j.MemoryWhy = memoryMode(h), h.Info.Memory
	if j.MemoryWhy != "" {
		j.problems = append(j.problems, h.Name+": memory is "+j.Memory+": "+j.MemoryWhy)
	}
	if j.Error != "" {
		j.problems = append(j.problems, h.Name+": "+j.Error)
	}
	for _, d := range h.Info.Damage {
		damage := Damage{d.Job, d.Digest, d.Detail, d.Found, d.Healed}
		j.Damage = append(j.Damage, damage)
		j.problems = append(j.problems, h.Name+": "+damage.String())
		if !d.Healed {
			j.state = "damaged"
		}
	}
	for _, sa := range h.Info.SetAside {
		j.SetAside = append(j.SetAside, Aside{sa.Job, sa.File, sa.Detail, sa.Next})
		j.problems = append(j.problems, fmt.Sprintf("%s: job %s is set aside: %s; %s", h.Name, sa.Job, sa.Detail, sa.Next))
		j.state = "damaged"
	}
	for _, u := range unsettled {
		if u.Host == h.Name {
			j.Unsettled = append(j.Unsettled, u.Job)
			j.problems = append(j.problems, h.Name+": "+u.String())
		}
	}
	return j
}

// memoryMode says how a host copies the memory of members; nothing where nobody knows.
func memoryMode(h orchestrator.HostStatus) string {
	switch {
	case h.Err != nil:
		return ""
	case h.Info.Memory != "":
		return "copied while frozen"
	}
	return "tracked"
}

// Table has a row for each host.
func (d Hosts) Table() Table {
	rows := Table{{"HOST", "ADDR", "STATE", "VERSION", "KERNEL", "CRIU", "GATE", "MEMORY", "FREE"}}
	for _, h := range d.Hosts {
		rows = append(rows, []string{h.Host, h.Addr, h.state, h.Version, h.Kernel, h.criu, h.Gate, h.Memory, Size(h.FreeBytes)})
	}
	return rows
}

// Problems is what is wrong with the hosts, for people: a line for each.
func (d Hosts) Problems() []string {
	var out []string
	for _, h := range d.Hosts {
		out = append(out, h.problems...)
	}
	return out
}

// HostAdded is what host add says.
type HostAdded struct {
	Schema string `json:"schema"` // ss/host-add/1
	Host   string `json:"host"`
	Addr   string `json:"addr"`
	Bundle string `json:"bundle"`
}

// HostRemoved is what host rm says.
type HostRemoved struct {
	Schema string   `json:"schema"` // ss/host-rm/1
	Host   string   `json:"host"`
	Lost   bool     `json:"lost"`
	Cuts   []string `json:"cuts"`
}
