package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// result is the whole run.
type result struct {
	Schema  string      `json:"schema"`
	Machine string      `json:"machine"`
	Rounds  int         `json:"rounds"`
	Lock    string      `json:"lock"`
	Write   int         `json:"write_mib_per_second,omitempty"`
	Seconds float64     `json:"seconds"`
	Jobs    []JobResult `json:"jobs"`
	Memory  []Memory    `json:"memory"`
	Files   []FileRound `json:"files,omitempty"`
	Rows    []Row       `json:"rows"`
}

// Row is one comparison.
type Row struct {
	What  string  `json:"what"`
	Base  float64 `json:"base"` // median, ms; of counters what they count in as long without a snapshot
	Ours  float64 `json:"ours"` // median, ms; of counters the sum
	Ratio float64 `json:"ratio_of_medians"`
	Pairs float64 `json:"median_of_ratios"`
	Bound float64 `json:"bound"` // of the ratio; -1: none
	Count bool    `json:"count,omitempty"`
}

// The bounds that the project sets itself.
const (
	boundGap      = 1.15
	boundSnapshot = 1.3
	boundRestore  = 1.5
	boundSmall    = 1.5
	noBound       = -1
	boundRSS      = 300 // MiB
	// gapBoundFrom is the size in MiB from which on the gap has a bound.
	gapBoundFrom = 512
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Clone(values)
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// each picks a number of every element.
func each[T any](all []T, pick func(T) float64) []float64 {
	var out []float64
	for _, x := range all {
		out = append(out, pick(x))
	}
	return out
}

// compare makes a row of two numbers of every round.
func compare[T any](what string, all []T, bound float64, base, ours func(T) float64) Row {
	b, o := each(all, base), each(all, ours)
	var ratios []float64
	for i := range b {
		ratios = append(ratios, o[i]/b[i])
	}
	r := Row{What: what, Base: median(b), Ours: median(o), Pairs: median(ratios), Bound: bound}
	r.Ratio = r.Ours / r.Base
	return r
}

func (r Row) verdict() string {
	switch {
	case r.Bound == noBound:
		return ""
	case r.Count && r.Ours <= r.Bound, !r.Count && max(r.Ratio, r.Pairs) <= r.Bound:
		return "OK"
	case !r.Count && min(r.Ratio, r.Pairs) <= r.Bound:
		return "near"
	default:
		return "MISS"
	}
}

// memoryRows tell of the agents' own memory.
func memoryRows(all []Memory) []Row {
	var out []Row
	for _, m := range all {
		out = append(out, Row{What: fmt.Sprintf("%s: peak resident memory of the agent of %s, MiB; before", size(m.MiB), m.Host),
			Base: m.Before, Ours: m.Peak, Bound: boundRSS, Count: true})
	}
	return out
}

func rows(jobs []JobResult) []Row {
	var out []Row
	for _, j := range jobs {
		if j.Kind == "stream" {
			out = append(out, streamRows(j)...)
		}
	}
	for _, j := range jobs {
		if j.MiB != jobs[len(jobs)-1].MiB {
			continue
		}
		what := fmt.Sprintf("8 MiB member's standstill beside %s (%s) ÷ its own bare dump", size(j.MiB), j.Kind)
		out = append(out, compare(what, j.Rounds, boundSmall,
			func(r Round) float64 { return r.BareSmall.Still }, func(r Round) float64 { return r.Ours.StillSmall }))
		what = fmt.Sprintf("8 MiB member's longest pause while %s (%s) are stored ÷ its own bare dump", size(j.MiB), j.Kind)
		out = append(out, compare(what, j.Rounds, noBound,
			func(r Round) float64 { return r.BareSmall.Still }, func(r Round) float64 { return r.Ours.Storing }))
		if j.Kind == "requests" {
			out = append(out, timeouts(j))
		}
	}
	return out
}

func streamRows(j JobResult) []Row {
	name := size(j.MiB)
	gapBound := boundGap
	if j.MiB < gapBoundFrom {
		gapBound = noBound
	}
	still := func(r Round) float64 { return r.BareBig.Still }
	out := []Row{
		compare(name+": gap seen by the stream's receiver ÷ bare standstill", j.Rounds, gapBound, still, func(r Round) float64 { return r.Ours.GapSmall }),
		compare(name+": member's own standstill ÷ bare standstill", j.Rounds, noBound, still, func(r Round) float64 { return r.Ours.StillBig }),
		compare(name+": CRIU's frozen time ÷ bare CRIU's", j.Rounds, noBound,
			func(r Round) float64 { return r.BareBig.Frozen }, func(r Round) float64 { return r.Ours.CRIUBig.Frozen }),
		compare(name+": snapshot until all run ÷ slowest bare dump", j.Rounds, boundSnapshot,
			func(r Round) float64 { return max(r.BareBig.Wall, r.BareSmall.Wall) }, func(r Round) float64 { return r.Ours.Total }),
		compare(name+": ssctl snapshot, whole command ÷ slowest bare dump", j.Rounds, noBound,
			func(r Round) float64 { return max(r.BareBig.Wall, r.BareSmall.Wall) }, func(r Round) float64 { return r.Ours.Wall }),
		timeouts(j),
	}
	if len(j.Restores) > 0 {
		bare := func(r Restore) float64 { return r.Bare }
		out = append(out,
			compare(name+": restore until all run, from the kept dump ÷ bare restore", j.Restores, boundRestore, bare, func(r Restore) float64 { return r.Kept.until() }),
			compare(name+": restore until all run, from the store ÷ bare restore", j.Restores, noBound, bare, func(r Restore) float64 { return r.Store.until() }))
	}
	return out
}

func timeouts(j JobResult) Row {
	sum, quiet := 0, 0
	for _, r := range j.Rounds {
		quiet += r.Quiet.Timeouts
		sum += r.Ours.Counters.Timeouts
	}
	return Row{What: fmt.Sprintf("%s (%s): TCP retransmission timeouts in %d snapshots; without", size(j.MiB), j.Kind, len(j.Rounds)),
		Base: float64(quiet), Ours: float64(sum), Count: true}
}

func size(mib int) string {
	if mib >= 1024 && mib%1024 == 0 {
		return fmt.Sprintf("%d GiB", mib/1024)
	}
	return fmt.Sprintf("%d MiB", mib)
}

func print(out io.Writer, res result) error {
	fmt.Fprintf(out, "\nWhat a snapshot and a restore cost beyond CRIU's own work: medians of %d rounds, bare and ours in turn\n%s\n\n", res.Rounds, res.Machine)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tBARE ms\tOURS ms\tRATIO\tPAIRWISE\tBOUND\t\t")
	for _, r := range res.Rows {
		if r.Count {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t\t\t%.0f\t%s\t\n", pad(r.What), r.Base, r.Ours, r.Bound, r.verdict())
			continue
		}
		bound := ""
		if r.Bound != noBound {
			bound = fmt.Sprintf("≤ %.2f", r.Bound)
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%s\t%s\t\n", pad(r.What), r.Base, r.Ours, r.Ratio, r.Pairs, bound, r.verdict())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printWhere(out, res)
	lock := "CRIU locks the network by itself, by nftables, the faster of its two ways: without a lock it fails while the partner sends."
	if res.Lock == lockSkip {
		lock = "All packets of its connection are dropped from before it until after it, so that it spends no time on locking the network (--network-lock skip)."
	}
	fmt.Fprintf(out, "\n"+notes+"\nwhole run: %.0f s\n", lock, res.Seconds)
	return nil
}

// pad makes the first column stand left where all others stand right.
func pad(s string) string {
	const width = 86
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}

const notes = `bare:       criu dump --leave-running, at CRIU's default verbosity, in the member's own namespaces, to the same disk, which is synced before
            each. %s
standstill: the longest time between two turns of a loop of the program itself that only looks at the clock
stored:     after a snapshot, when all run, its images are packed and copied, at low priority; here on the processors that the members of all hosts share
gap:        the longest time between two arrivals at the 8 MiB member, which receives what the large one sends
RATIO:      of the two medians; PAIRWISE: the median of the rounds' own ratios. OK if both are within the bound, near if only one is.
restore:    from the start of the command, in place and after a kill, until the programs' own loops turn; bare: the large member alone`

// printWhere tells where the time of a snapshot and of a restore goes.
func printWhere(out io.Writer, res result) {
	fmt.Fprintf(out, "\nWhere the time goes (medians, ms)\n")
	for _, j := range res.Jobs {
		fmt.Fprintf(out, "  %s, %s\n", size(j.MiB), j.Kind)
		for _, host := range []string{"hostA", "hostB"} {
			fmt.Fprintf(out, "    snapshot on %s: %s\n", host, phases(j, host))
		}
		m := func(pick func(Round) float64) float64 { return median(each(j.Rounds, pick)) }
		fmt.Fprintf(out, "    CRIU of the large member: freezing %.1f, frozen %.1f, memory %.1f, of it writing %.1f; bare: freezing %.1f, frozen %.1f, memory %.1f, of it writing %.1f\n",
			m(func(r Round) float64 { return r.Ours.CRIUBig.Freezing }), m(func(r Round) float64 { return r.Ours.CRIUBig.Frozen }),
			m(func(r Round) float64 { return r.Ours.CRIUBig.MemDump }), m(func(r Round) float64 { return r.Ours.CRIUBig.MemWrite }),
			m(func(r Round) float64 { return r.BareBig.CRIU.Freezing }), m(func(r Round) float64 { return r.BareBig.Frozen }),
			m(func(r Round) float64 { return r.BareBig.CRIU.MemDump }), m(func(r Round) float64 { return r.BareBig.CRIU.MemWrite }))
		fmt.Fprintf(out, "    CRIU of the 8 MiB member: frozen %.1f; bare %.1f. Gap seen by the large member %.1f\n",
			m(func(r Round) float64 { return r.Ours.CRIUSmall.Frozen }), m(func(r Round) float64 { return r.BareSmall.Frozen }),
			m(func(r Round) float64 { return r.Ours.GapBig }))
		fmt.Fprintf(out, "    TCP, in all snapshots together: %s\n", counted(j, func(r Round) Counters { return r.Ours.Counters }))
		fmt.Fprintf(out, "    TCP, as long without any:       %s\n", counted(j, func(r Round) Counters { return r.Quiet }))
		if len(j.Restores) > 0 {
			for what, pick := range map[string]func(Restore) Restored{
				"from the kept dump": func(r Restore) Restored { return r.Kept }, "from the store": func(r Restore) Restored { return r.Store },
			} {
				fmt.Fprintf(out, "    restore %s: %s; command %.1f\n", what, steps(j, pick), median(each(j.Restores, func(r Restore) float64 { return pick(r).Wall })))
			}
		}
	}
}

func counted(j JobResult, pick func(Round) Counters) string {
	var c Counters
	for _, r := range j.Rounds {
		o := pick(r)
		c = Counters{c.Timeouts + o.Timeouts, c.SpuriousRTOs + o.SpuriousRTOs, c.LossProbes + o.LossProbes, c.Retransmits + o.Retransmits}
	}
	return fmt.Sprintf("%d timeouts, %d of them spurious, %d loss probes, %d segments sent again", c.Timeouts, c.SpuriousRTOs, c.LossProbes, c.Retransmits)
}

// phases joins the phases of a host, in their order, with the medians of when each began and how long it took.
func phases(j JobResult, host string) string {
	starts, lengths := map[string][]float64{}, map[string][]float64{}
	for _, r := range j.Rounds {
		for _, p := range r.Ours.Phases[host] {
			starts[p.Name] = append(starts[p.Name], p.Start)
			lengths[p.Name] = append(lengths[p.Name], p.Duration)
		}
	}
	return joined(starts, lengths)
}

// joined lists names in the order of the medians of at, with the medians of long.
func joined(at, long map[string][]float64) string {
	var names []string
	for name := range at {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(median(at[a]), median(at[b])) })
	var out []string
	for _, name := range names {
		out = append(out, fmt.Sprintf("%s at %.1f for %.1f", name, median(at[name]), median(long[name])))
	}
	return strings.Join(out, ", ")
}

func steps(j JobResult, pick func(Restore) Restored) string {
	long := map[string][]float64{}
	for _, r := range j.Restores {
		for name, took := range pick(r).Steps {
			long[name] = append(long[name], took)
		}
	}
	var out []string
	for _, name := range []string{"checking", "fetching", "fencing", "restoring", "resuming"} {
		if took := long[name]; took != nil {
			out = append(out, fmt.Sprintf("%s %.1f", name, median(took)))
		}
	}
	return strings.Join(out, ", ")
}

// describeMachine is a line about what was measured on.
func describeMachine(s *lab.Script, l *lab.Lab) string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		s.Fatalf("uname: %v", err)
	}
	var list struct {
		Hosts []struct{ Host, Criu, Gate, Error string }
	}
	l.CtlJSON(&list, "host", "list")
	for _, h := range list.Hosts {
		if h.Error != "" {
			s.Fatalf("%s: %s", h.Host, h.Error)
		}
	}
	load, _ := os.ReadFile("/proc/loadavg") // for a person to read
	return fmt.Sprintf("Linux %s, CRIU %s, packets held by %s, load before: %s",
		unix.ByteSliceToString(u.Release[:]), list.Hosts[0].Criu, list.Hosts[0].Gate, strings.Join(strings.Fields(string(load))[:3], " "))
}
