package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ss/integration/lab"
)

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	began := time.Now()
	var res result
	err = lab.RunScript(os.Stderr, func(s *lab.Script) {
		switch {
		case o.cuts > 0:
			res = measureCuts(s, o)
		case o.file > 0:
			res = measureFiles(s, o)
		case o.write > 0:
			res = measureTracked(s, o)
		default:
			res = measure(s, o)
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: bench:", err)
		os.Exit(1)
	}
	res.Seconds, res.Rows = time.Since(began).Seconds(), slices.Concat(res.Rows, rowsOf(o, res.Jobs), filesRows(o, res.Files), memoryRows(res.Memory))
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(res)
	} else {
		err = print(os.Stdout, res)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	sizes []int // MiB, ascending
	n     int
	lock  string // of bare dumps
	large int    // MiB of the member whose agent's memory is measured; 0: none
	write int    // MiB that the large member writes in each second, in which case memory is tracked; 0: neither
	cuts  int    // of one job in so many seconds, in which case nothing else is measured; 0: none
	file  int    // GiB of a file that a member writes to, in which case only its cost is measured; 0: none
	rate  int    // blocks of 4 KiB that are written to it in a second
	// frozen: no memory is tracked, as on a kernel that cannot.
	frozen bool
	json   bool
}

func parse(args []string) (options, error) {
	o := options{}
	var sizes string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&sizes, "sizes", "64,512,2048", "`MiB` of touched memory of the large member, one job each")
	flags.IntVar(&o.n, "n", 5, "`rounds` for each size: a bare dump and a snapshot; a bare restore and a restore")
	flags.StringVar(&o.lock, "lock", lockNftables, "how packets are kept from a bare dump: nftables, by CRIU itself, or skip, by a rule that is in force beforehand")
	flags.IntVar(&o.large, "large", 4096, "`MiB` of the member whose agent's own memory is measured, in one snapshot; 0: none")
	flags.IntVar(&o.write, "write", 0, "`MiB` that the large member writes in each second: memory is tracked then, and only snapshots are measured")
	flags.IntVar(&o.cuts, "cuts", 0, "`number` of cuts of a stream job in as many seconds: nothing else is measured then")
	flags.IntVar(&o.file, "file", 0, "`GiB` of a sparse file on Btrfs, in a declared folder, that an 8 MiB member writes to: only what it adds to the member's standstill is measured")
	flags.IntVar(&o.rate, "file-rate", 1000, "`blocks` of 4 KiB that are written to that file in a second")
	flags.BoolVar(&o.frozen, "frozen", false, "copy memory while members stand still, as where the kernel cannot track it")
	flags.BoolVar(&o.json, "json", false, "print one JSON document with every single measurement")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.n < 1 || o.lock != lockNftables && o.lock != lockSkip || flags.NArg() > 0 {
		return o, errors.New("usage: bench [-sizes MiB,MiB…] [-n ROUNDS] [-lock nftables|skip] [-large MiB] [-write MiB] [-frozen] [-cuts NUMBER] [-file GiB] [-file-rate BLOCKS] [-json]")
	}
	for _, f := range strings.Split(sizes, ",") {
		mib, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil || mib < 1 {
			return o, fmt.Errorf("size %q is not a number of MiB", f)
		}
		o.sizes = append(o.sizes, mib)
	}
	slices.Sort(o.sizes)
	return o, nil
}

// measure runs one job for each size, and one of requests and answers with the largest.
func measure(s *lab.Script, o options) result {
	l := lab.New(s, "hostA", "hostB")
	l.AgentConfig = "keep_dumps: true\n"
	if o.frozen {
		l.AgentConfig += "memory: frozen\n"
	}
	l.StartAgents()
	res := result{Schema: "ss/bench/1", Rounds: o.n, Lock: o.lock, Machine: describeMachine(s, l)}
	for i, mib := range o.sizes {
		j := startStream(s, l, o, mib)
		if i == 0 {
			j.warmUp()
		}
		r := j.snapshots(o.n)
		r.Restores = j.restores(o.n)
		j.conclude()
		res.Jobs = append(res.Jobs, r)
	}
	j := startRequests(s, l, o, o.sizes[len(o.sizes)-1])
	res.Jobs = append(res.Jobs, j.snapshots(o.n))
	j.conclude()
	if o.large > 0 {
		j := startStream(s, l, o, o.large)
		res.Memory = j.memory()
		j.conclude()
	}
	return res
}
