package report

import (
	"fmt"
	"strings"
	"time"

	"ss/orchestrator"
	"ss/store"
)

// CutMember is a member in a cut.
type CutMember struct {
	Host       string   `json:"host"`
	Name       string   `json:"name"`
	Pid        int      `json:"pid"`
	Command    []string `json:"command"`
	ImageBytes int64    `json:"image_bytes"`
	FrozenMs   float64  `json:"frozen_ms"`
	StallMs    float64  `json:"stall_ms"`

	Memory store.CutMemory `json:"memory"`
}

// End is an end of a connection that a restore puts back otherwise than it was.
type End struct {
	Host   string `json:"host"`
	Member string `json:"member"`
	Local  string `json:"local"`
	Remote string `json:"remote"`
	As     string `json:"as"`
}

// Channel is one direction of a connection in a cut.
type Channel struct {
	From       string `json:"from"`
	To         string `json:"to"`
	FromMember string `json:"from_member"`
	ToMember   string `json:"to_member"`
	FromAddr   string `json:"from_addr"`
	ToAddr     string `json:"to_addr"`
	InTransit  uint32 `json:"in_transit_bytes"`
	SndUna     uint32 `json:"snd_una"`
	RcvNxt     uint32 `json:"rcv_nxt"`
	WriteSeq   uint32 `json:"write_seq"`
}

// CutHost is a host's part of a cut.
type CutHost struct {
	Host       string           `json:"host"`
	Addrs      []string         `json:"addrs"`
	Manifest   string           `json:"manifest"`
	Copies     []string         `json:"copies"`
	Phases     []store.CutPhase `json:"phases"`
	Vaults     []string         `json:"vaults"`
	NewBytes   int64            `json:"new_bytes"`
	WroteBytes int64            `json:"wrote_bytes"`
	MovedBytes int64            `json:"moved_bytes"`
}

// Cut is a cut: what snapshot, show and import say, and list for each.
type Cut struct {
	Schema    string      `json:"schema,omitempty"`
	Cut       string      `json:"cut"`
	Job       string      `json:"job"`
	Epoch     uint64      `json:"epoch"`
	Time      time.Time   `json:"time"`
	Label     string      `json:"label,omitempty"`
	Stopped   bool        `json:"stopped"`
	Bytes     int64       `json:"bytes"`
	InTransit int64       `json:"in_transit_bytes"`
	StallMs   float64     `json:"stall_ms"`
	TotalMs   float64     `json:"total_ms"`
	CRIU      string      `json:"criu"`
	Hosts     []CutHost   `json:"hosts"`
	Members   []CutMember `json:"members"`
	Channels  []Channel   `json:"channels"`
	Ends      []End       `json:"ends"`
	Pinned    bool        `json:"pinned"`
	KeyID     string      `json:"key_id"`
	EndedWell []string    `json:"ended_well"`
	Without   []string    `json:"without"`
}

// CutOf describes a cut. schema is that of the document; "" within another one.
func CutOf(schema string, c store.Cut) Cut {
	out := Cut{Schema: schema, Cut: c.ID, Job: c.Job, Epoch: c.Epoch, Time: c.Time, Label: c.Label, Stopped: c.Stopped, Bytes: c.Bytes(),
		InTransit: c.InTransit(), StallMs: stall(c), TotalMs: c.TotalMs, CRIU: c.CRIUVersion, Pinned: c.Pinned, KeyID: c.KeyID, EndedWell: Some(c.EndedWell), Without: Some(c.Without),
		Hosts: []CutHost{}, Members: []CutMember{}, Channels: []Channel{}, Ends: []End{}}
	for _, h := range c.Hosts {
		out.Hosts = append(out.Hosts, CutHost{Host: h.Host, Addrs: h.Addrs, Manifest: h.Manifest, Copies: Some(h.Copies), Phases: h.Phases,
			Vaults: Some(h.Vaults), NewBytes: h.NewBytes, WroteBytes: h.WroteBytes, MovedBytes: h.MovedBytes})
		for _, m := range h.Members {
			out.Members = append(out.Members, CutMember{Host: h.Host, Name: m.Name, Pid: m.Pid, Command: m.Command,
				ImageBytes: m.ImageBytes, FrozenMs: m.FrozenMs, StallMs: m.StallMs, Memory: m.Memory})
		}
	}
	for _, ch := range c.Channels {
		out.Channels = append(out.Channels, Channel{From: ch.FromHost, To: ch.ToHost, FromMember: ch.FromMember, ToMember: ch.ToMember,
			FromAddr: ch.FromAddr, ToAddr: ch.ToAddr, InTransit: ch.InTransit, SndUna: ch.SndUna, RcvNxt: ch.RcvNxt, WriteSeq: ch.WriteSeq})
	}
	for _, e := range c.Ends {
		out.Ends = append(out.Ends, End(e))
	}
	return out
}

// stall is the longest that any member's channels stood still.
func stall(c store.Cut) float64 {
	longest := 0.0
	for _, h := range c.Hosts {
		for _, m := range h.Members {
			longest = max(longest, m.StallMs)
		}
	}
	return longest
}

// HostNames are the cut's hosts, with commas.
func (c Cut) HostNames() string {
	var names []string
	for _, h := range c.Hosts {
		names = append(names, h.Host)
	}
	return strings.Join(names, ",")
}

// Summary is the line that snapshot prints.
func (c Cut) Summary() string {
	return fmt.Sprintf("%s: %d members on %s, %s of images, %s in transit, longest stall %s, all running again after %s",
		c.Cut, len(c.Members), c.HostNames(), Size(c.Bytes), Size(c.InTransit), Millis(c.StallMs), Millis(c.TotalMs))
}

// MemberTable has a row for each member.
func (c Cut) MemberTable() Table {
	rows := Table{{"MEMBER", "HOST", "PID", "IMAGES", "MEMORY", "FROZEN", "STALL", "COMMAND"}}
	for _, m := range c.Members {
		rows = append(rows, []string{m.Name, m.Host, fmt.Sprint(m.Pid), Size(m.ImageBytes), memoryOf(m.Memory), Millis(m.FrozenMs), Millis(m.StallMs), short(strings.Join(m.Command, " "), 50)})
	}
	return rows
}

// memoryOf says how a member's memory was copied.
func memoryOf(m store.CutMemory) string {
	if m.Tracked {
		return "tracked"
	}
	return "frozen"
}

// ChannelTable has a row for each channel.
func (c Cut) ChannelTable() Table {
	rows := Table{{"CHANNEL", "FROM", "TO", "IN TRANSIT", "SND_UNA", "RCV_NXT", "WRITE_SEQ"}}
	for _, ch := range c.Channels {
		rows = append(rows, []string{ch.From + " → " + ch.To, ch.FromAddr, ch.ToAddr, Size(int64(ch.InTransit)),
			fmt.Sprint(ch.SndUna), fmt.Sprint(ch.RcvNxt), fmt.Sprint(ch.WriteSeq)})
	}
	return rows
}

// EndTable has a row for each end of a connection that is put back otherwise than it was.
func (c Cut) EndTable() Table {
	rows := Table{{"CONNECTION", "WITH", "OF", "RESTORED AS"}}
	for _, e := range c.Ends {
		rows = append(rows, []string{e.Local, e.Remote, e.Member, e.As})
	}
	return rows
}

// HostTable has a row for each host's part.
func (c Cut) HostTable() Table {
	rows := Table{{"HOST", "COPIES ON", "VAULTS", "NEW", "WROTE", "MOVED", "PHASES"}}
	for _, h := range c.Hosts {
		var phases []string
		for _, p := range h.Phases {
			if p.DurationMs > 0 {
				phases = append(phases, p.Name+" "+Millis(p.DurationMs))
			}
		}
		rows = append(rows, []string{h.Host, Dash(strings.Join(h.Copies, ",")), Dash(strings.Join(h.Vaults, ",")),
			Size(h.NewBytes), Size(h.WroteBytes), Size(h.MovedBytes), strings.Join(phases, ", ")})
	}
	return rows
}

// Cuts is what list says.
type Cuts struct {
	Schema string `json:"schema"`
	Cuts   []Cut  `json:"cuts"`
}

// CutsOf describes cuts.
func CutsOf(cuts []store.Cut) Cuts {
	doc := Cuts{Schema: "ss/list/1", Cuts: []Cut{}}
	for _, c := range cuts {
		doc.Cuts = append(doc.Cuts, CutOf("", c))
	}
	return doc
}

// Table has a row for each cut.
func (d Cuts) Table() Table {
	rows := Table{{"CUT", "JOB", "TIME", "HOSTS", "SIZE", "IN TRANSIT", "STALL", "PINNED", "LABEL"}}
	for _, c := range d.Cuts {
		pinned := "-"
		if c.Pinned {
			pinned = "PINNED"
		}
		rows = append(rows, []string{c.Cut, c.Job, When(c.Time), c.HostNames(), Size(c.Bytes), Size(c.InTransit), Millis(c.StallMs), pinned, Dash(c.Label)})
	}
	return rows
}

// Rebuilt is what catalog rebuild says.
type Rebuilt struct {
	Schema  string   `json:"schema"` // ss/catalog-rebuild/1
	Hosts   int      `json:"hosts"`
	Jobs    int      `json:"jobs"`
	Cuts    []Cut    `json:"cuts"`
	Remarks []string `json:"remarks"`
	Asked   []string `json:"asked"`
	Aside   string   `json:"aside"`
}

// Imported is what import says: the cut that it has made.
type Imported struct {
	Schema  string            `json:"schema"`
	From    string            `json:"from_cluster"`
	Targets map[string]string `json:"targets"` // the host that holds each host's images now
	Cut
}

// ImportedOf describes an import.
func ImportedOf(res orchestrator.ImportResult) Imported {
	return Imported{"ss/import/1", res.From, res.Targets, CutOf("", res.Cut)}
}

// Exported is what export says.
type Exported struct {
	Schema    string `json:"schema"` // ss/export/1
	Cut       string `json:"cut"`
	Job       string `json:"job"`
	File      string `json:"file"`
	Files     int    `json:"files"`
	Bytes     int64  `json:"bytes"`
	Encrypted bool   `json:"encrypted"`
}

// Pinned is what pin and unpin say.
type Pinned struct {
	Schema string `json:"schema"` // ss/pin/1
	Cut    string `json:"cut"`
	Pinned bool   `json:"pinned"`
}

// CutRemoved is what rm says.
type CutRemoved struct {
	Schema string `json:"schema"` // ss/rm/1
	Cut    string `json:"cut"`
}
