package main

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"ss/fault"
	"ss/orchestrator"
	"ss/store"
)

type cutMemberJSON struct {
	Host       string   `json:"host"`
	Name       string   `json:"name"`
	Pid        int      `json:"pid"`
	Command    []string `json:"command"`
	ImageBytes int64    `json:"image_bytes"`
	FrozenMs   float64  `json:"frozen_ms"`
	StallMs    float64  `json:"stall_ms"`

	Memory store.CutMemory `json:"memory"`
}

type channelJSON struct {
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

type cutHostJSON struct {
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

type cutJSON struct {
	Schema    string          `json:"schema,omitempty"`
	Cut       string          `json:"cut"`
	Job       string          `json:"job"`
	Epoch     uint64          `json:"epoch"`
	Time      time.Time       `json:"time"`
	Label     string          `json:"label,omitempty"`
	Stopped   bool            `json:"stopped"`
	Bytes     int64           `json:"bytes"`
	InTransit int64           `json:"in_transit_bytes"`
	StallMs   float64         `json:"stall_ms"`
	TotalMs   float64         `json:"total_ms"`
	CRIU      string          `json:"criu"`
	Hosts     []cutHostJSON   `json:"hosts"`
	Members   []cutMemberJSON `json:"members"`
	Channels  []channelJSON   `json:"channels"`
	Pinned    bool            `json:"pinned"`
	KeyID     string          `json:"key_id"`
	EndedWell []string        `json:"ended_well"`
	Without   []string        `json:"without"`
}

func toCutJSON(c store.Cut) cutJSON {
	out := cutJSON{Cut: c.ID, Job: c.Job, Epoch: c.Epoch, Time: c.Time, Label: c.Label, Stopped: c.Stopped, Bytes: c.Bytes(),
		InTransit: c.InTransit(), StallMs: stall(c), TotalMs: c.TotalMs, CRIU: c.CRIUVersion, Pinned: c.Pinned, KeyID: c.KeyID, EndedWell: some(c.EndedWell), Without: some(c.Without),
		Hosts: []cutHostJSON{}, Members: []cutMemberJSON{}, Channels: []channelJSON{}}
	for _, h := range c.Hosts {
		out.Hosts = append(out.Hosts, cutHostJSON{Host: h.Host, Addrs: h.Addrs, Manifest: h.Manifest, Copies: some(h.Copies), Phases: h.Phases,
			Vaults: some(h.Vaults), NewBytes: h.NewBytes, WroteBytes: h.WroteBytes, MovedBytes: h.MovedBytes})
		for _, m := range h.Members {
			out.Members = append(out.Members, cutMemberJSON{Host: h.Host, Name: m.Name, Pid: m.Pid, Command: m.Command,
				ImageBytes: m.ImageBytes, FrozenMs: m.FrozenMs, StallMs: m.StallMs, Memory: m.Memory})
		}
	}
	for _, ch := range c.Channels {
		out.Channels = append(out.Channels, channelJSON{From: ch.FromHost, To: ch.ToHost, FromMember: ch.FromMember, ToMember: ch.ToMember,
			FromAddr: ch.FromAddr, ToAddr: ch.ToAddr, InTransit: ch.InTransit, SndUna: ch.SndUna, RcvNxt: ch.RcvNxt, WriteSeq: ch.WriteSeq})
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

func hostNames(c store.Cut) string {
	var names []string
	for _, h := range c.Hosts {
		names = append(names, h.Host)
	}
	return strings.Join(names, ",")
}

// labelMax bounds a label, in bytes: it stands in one column of a table.
const labelMax = 200

func (a *app) snapshotCommand() *cobra.Command {
	var opt orchestrator.SnapshotOptions
	cmd := &cobra.Command{
		Use: "snapshot JOB", Short: "Record a consistent cut of a running job", Args: args(1, 1),
		Long: "snapshot records a consistent cut of a running job. Without --timeout it is given up when members have stood still for 10 minutes, with --stop when\n" +
			"there is no cut after 10 minutes. Storing the images while the members run again takes as long as hosts and vaults need; Ctrl-C ends it.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			opt.Job, opt.Timeout = argv[0], a.timeout
			if len(opt.Label) > labelMax || !utf8.ValidString(opt.Label) {
				return usage("--label takes up to %d bytes of UTF-8", labelMax)
			}
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				cut, err := c.Snapshot(ctx, opt)
				if err != nil {
					return err
				}
				a.screen.finish()
				if a.json() {
					j := toCutJSON(cut)
					j.Schema = "ss/snapshot/1"
					return a.print(j)
				}
				_, err = fmt.Fprintf(a.stdout, "%s: %d members on %s, %s of images, %s in transit, longest stall %s, all running again after %s\n",
					cut.ID, members(cut), hostNames(cut), size(cut.Bytes()), size(cut.InTransit()), ms(stall(cut)), ms(cut.TotalMs))
				if len(cut.Without) > 0 {
					a.screen.notice("the cut lacks " + strings.Join(cut.Without, ", ") + ", which had ended")
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&opt.Stop, "stop", false, "end the members once the cut exists; if it fails they run on")
	cmd.Flags().DurationVar(&opt.Settle, "settle", orchestrator.DefaultSettle, "how long members get to accept new connections before they are frozen; they run meanwhile, and further connections wait")
	cmd.Flags().StringVar(&opt.Initiator, "initiator", "", "host that records first")
	cmd.Flags().StringVar(&opt.Label, "label", "", "text to find it by")
	cmd.Flags().StringArrayVar(&opt.Without, "without", nil, "member that has ended with an error or a signal, and that the cut may lack; may be repeated")
	return cmd
}

func members(c store.Cut) int {
	n := 0
	for _, h := range c.Hosts {
		n += len(h.Members)
	}
	return n
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list [JOB]", Short: "List cuts, oldest first", Args: args(0, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				job := ""
				if len(argv) == 1 {
					job = argv[0]
					if _, err := c.Catalogue.Job(ctx, job); err != nil {
						return err
					}
				}
				cuts, err := c.Catalogue.Cuts(ctx, job)
				if err != nil {
					return err
				}
				return a.showCuts(cuts)
			})
		},
	}
}

func (a *app) showCuts(cuts []store.Cut) error {
	out := []cutJSON{}
	rows := [][]string{{"CUT", "JOB", "TIME", "HOSTS", "SIZE", "IN TRANSIT", "STALL", "PINNED", "LABEL"}}
	for _, c := range cuts {
		out = append(out, toCutJSON(c))
		rows = append(rows, []string{c.ID, c.Job, c.Time.Local().Format("2006-01-02 15:04:05"), hostNames(c), size(c.Bytes()), size(c.InTransit()), ms(stall(c)), pinMark(c), dash(c.Label)})
	}
	if a.json() {
		return a.print(map[string]any{"schema": "ss/list/1", "cuts": out})
	}
	return a.table(rows)
}

func pinMark(c store.Cut) string {
	if c.Pinned {
		return "PINNED"
	}
	return "-"
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show CUT", Short: "Show a cut: members, channels with their bytes in transit, timings", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				cut, err := c.Catalogue.Cut(ctx, "", argv[0])
				if err != nil {
					return err
				}
				if a.json() {
					j := toCutJSON(cut)
					j.Schema = "ss/cut/1"
					return a.print(j)
				}
				return a.showCut(cut)
			})
		},
	}
}

func (a *app) showCut(c store.Cut) error {
	fmt.Fprintf(a.stdout, "cut %s of job %s, epoch %d, %s%s\n", c.ID, c.Job, c.Epoch, c.Time.Local().Format(time.RFC1123), fault.Field(labelled(c)))
	fmt.Fprintf(a.stdout, "%s of images, %s in transit, all running again after %s, CRIU %s\n\n", size(c.Bytes()), size(c.InTransit()), ms(c.TotalMs), c.CRIUVersion)
	rows := [][]string{{"MEMBER", "HOST", "PID", "IMAGES", "MEMORY", "FROZEN", "STALL", "COMMAND"}}
	for _, h := range c.Hosts {
		for _, m := range h.Members {
			rows = append(rows, []string{m.Name, h.Host, fmt.Sprint(m.Pid), size(m.ImageBytes), memoryOf(m.Memory), ms(m.FrozenMs), ms(m.StallMs), short(strings.Join(m.Command, " "), 50)})
		}
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, h := range c.Hosts {
		for _, m := range h.Members {
			for _, why := range m.Memory.Left {
				fmt.Fprintf(a.stdout, "%s: copied while it stood still: %s\n", m.Name, fault.Printable(why))
			}
		}
	}
	fmt.Fprintln(a.stdout)
	rows = [][]string{{"CHANNEL", "FROM", "TO", "IN TRANSIT", "SND_UNA", "RCV_NXT", "WRITE_SEQ"}}
	for _, ch := range c.Channels {
		rows = append(rows, []string{ch.FromHost + " → " + ch.ToHost, ch.FromAddr, ch.ToAddr, size(int64(ch.InTransit)),
			fmt.Sprint(ch.SndUna), fmt.Sprint(ch.RcvNxt), fmt.Sprint(ch.WriteSeq)})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	rows = [][]string{{"HOST", "COPIES ON", "VAULTS", "NEW", "WROTE", "MOVED", "PHASES"}}
	for _, h := range c.Hosts {
		var phases []string
		for _, p := range h.Phases {
			if p.DurationMs > 0 {
				phases = append(phases, p.Name+" "+ms(p.DurationMs))
			}
		}
		rows = append(rows, []string{h.Host, dash(strings.Join(h.Copies, ",")), dash(strings.Join(h.Vaults, ",")),
			size(h.NewBytes), size(h.WroteBytes), size(h.MovedBytes), strings.Join(phases, ", ")})
	}
	return a.table(rows)
}

func labelled(c store.Cut) string {
	s := ""
	if c.Stopped {
		s = ", stopped with it"
	}
	if c.Pinned {
		s += ", pinned"
	}
	if c.Label != "" {
		s += ", " + c.Label
	}
	return s
}

// memoryOf says how a member's memory was copied.
func memoryOf(m store.CutMemory) string {
	if m.Tracked {
		return "tracked"
	}
	return "frozen"
}
