// Demo shows the main job from its beginning to its end: three hosts, a job whose result can be checked, a snapshot while bytes
// are on their way, the death of a host, and the job going on from the cut with that host's part elsewhere. It is what
// `make demo` runs.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ss/integration/lab"
)

const (
	jobName = "demo"
	// patience bounds every wait.
	patience  = 60 * time.Second
	lookAgain = 50 * time.Millisecond
	// memory is how many MiB each program holds, so that there is something to record.
	memory = "64"
)

func main() {
	say := newTeller(os.Stdout)
	began := time.Now()
	err := lab.RunScript(nil, func(s *lab.Script) { play(s, say) })
	if err != nil {
		say.verdict(false, "the demo did not come to its end: %v", err)
		os.Exit(1)
	}
	say.verdict(true, "every word once and in order, across the death of a host (%.0f s in all)", time.Since(began).Seconds())
}

// show is the demo on its way.
type show struct {
	*lab.Script
	lab  *lab.Lab
	say  *teller
	stop string // the file whose appearance ends the programs
}

// play is the demo, act by act.
func play(s *lab.Script, say *teller) {
	say.title("A job that survives the death of its host")
	d := &show{Script: s, say: say}
	d.stage()
	d.startJob()
	d.snapshot()
	cut := d.second()
	d.lab.Host("hostA").PowerOff()
	say.bad("hostA dies", "every process killed, its network gone; hostB gets no answers")
	d.restore(cut)
	d.check()
}

// stage makes the hosts and starts the agents.
func (d *show) stage() {
	d.lab = lab.New(d, "hostA", "hostB", "hostC")
	d.stop = filepath.Join(d.lab.Dir(), "stop")
	var names []string
	for _, h := range d.lab.Hosts() {
		names = append(names, fmt.Sprintf("%s %s", h.Name, h.Addr()))
	}
	d.say.act("three hosts", "%s", strings.Join(names, "   "))
	d.lab.StartAgents()
	var list struct {
		Hosts []struct{ Host, Criu, Gate, Error string }
	}
	d.askJSON(&list, "host", "list")
	if len(list.Hosts) != len(d.lab.Hosts()) {
		d.Fatalf("ssctl host list knows %d hosts, want %d", len(list.Hosts), len(d.lab.Hosts()))
	}
	for _, h := range list.Hosts {
		if h.Error != "" {
			d.Fatalf("%s: %s", h.Host, h.Error)
		}
	}
	d.say.act("an agent on each", "CRIU %s, packets are held by %s", list.Hosts[0].Criu, list.Hosts[0].Gate)
}

// startJob starts two ordinary programs that stream numbered words to each other.
func (d *show) startJob() {
	words, err := lab.Binary("words")
	if err != nil {
		d.Fatalf("%v", err)
	}
	addr := fmt.Sprintf("%s:9000", d.lab.Host("hostB").Addr())
	d.say.act("a job", "two ordinary programs stream numbered words to each other, both ways, as fast as they can")
	d.run("run", jobName, "--host", "hostB", "--log", "/srv/serve.log", "--", words, "serve", "-listen", addr, "-ballast", memory)
	d.run("run", jobName, "--host", "hostA", "--log", "/srv/connect.log", "--", words, "connect", "-to", addr, "-ballast", memory, "-until", d.stop)
	d.say.detail("hostA", "words connect   %s MiB", memory)
	d.say.detail("hostB", "words serve     %s MiB", memory)
	d.say.act("it runs", "%s words received on hostA, %s on hostB",
		count(d.received("hostA", "connect", 2)), count(d.received("hostB", "serve", 2)))
}

// snapshot takes a cut and tells what it holds.
func (d *show) snapshot() {
	var cut struct {
		Cut     string
		Members []struct {
			Host       string
			ImageBytes int64   `json:"image_bytes"`
			FrozenMS   float64 `json:"frozen_ms"`
		}
		Channels []struct {
			From, To  string
			InTransit int64 `json:"in_transit_bytes"`
		}
		TotalMS float64 `json:"total_ms"`
	}
	d.askJSON(&cut, "snapshot", jobName)
	d.say.act("a snapshot", "cut %s, taken in %.2f s, images on a second host too", cut.Cut, cut.TotalMS/1000)
	for _, m := range cut.Members {
		d.say.detail(m.Host, "%s recorded, stood still for %.0f ms", bytes(m.ImageBytes), m.FrozenMS)
	}
	for _, c := range cut.Channels {
		d.say.detail(c.From+" → "+c.To, "%s in transit at the cut, and in it", bytes(c.InTransit))
	}
	d.say.act("it goes on", "the programs noticed nothing: %s words on hostA", count(d.received("hostA", "connect", 2)))
}

// second takes another cut, and tells what the store made of it: most of the memory is as it was.
func (d *show) second() string {
	var cut struct {
		Cut   string
		Bytes int64
		Hosts []struct {
			New   int64 `json:"new_bytes"`
			Wrote int64 `json:"wrote_bytes"`
		}
	}
	d.askJSON(&cut, "snapshot", jobName)
	var fresh, wrote int64
	for _, h := range cut.Hosts {
		fresh, wrote = fresh+h.New, wrote+h.Wrote
	}
	d.say.act("another one", "%s recorded, %s of it new to the store, %s written, compressed and encrypted", bytes(cut.Bytes), bytes(fresh), bytes(wrote))
	var df struct {
		Total struct {
			Logical int64 `json:"logical_bytes"`
			Stored  int64 `json:"stored_bytes"`
			Ratio   float64
		}
	}
	d.askJSON(&df, "df", jobName)
	d.say.detail("ssctl df", "%s of images take %s on the three hosts, ratio %.1f", bytes(df.Total.Logical), bytes(df.Total.Stored), df.Total.Ratio)
	return cut.Cut
}

// restore puts the cut back, with hostA's part on hostC.
func (d *show) restore(cut string) {
	began := time.Now()
	d.run("restore", cut, "--job", jobName, "--remap", "hostA=hostC")
	d.say.act("a restore", "from the cut, in %.2f s: hostA's part now lives on hostC, under another address", time.Since(began).Seconds())
	d.say.act("it runs", "%s words on hostC, %s on hostB", count(d.received("hostC", "connect", 2)), count(d.received("hostB", "serve", 2)))
}

// check ends the programs and reads their verdicts.
func (d *show) check() {
	if err := d.lab.Host("hostB").WriteFile(d.stop, nil); err != nil {
		d.Fatalf("%v", err)
	}
	d.say.act("the check", "each program has compared every single word with the one that had to come")
	for _, m := range []struct{ host, name string }{{"hostB", "serve"}, {"hostC", "connect"}} {
		var last string
		d.await("verdict of words on "+m.host, func() bool {
			last = lastLine(d.log(m.host, m.name))
			return strings.HasPrefix(last, "PASS") || strings.HasPrefix(last, "FAIL")
		})
		if !strings.HasPrefix(last, "PASS") {
			d.Fatalf("%s: %s", m.host, last)
		}
		d.say.detail(m.host, "%s words, %s", count(number(last, "received")), "none missing, none twice, all in order")
	}
	d.run("kill", jobName)
	if leaks := d.lab.Leaks(); len(leaks) > 0 {
		d.Fatalf("left behind: %s", strings.Join(leaks, "; "))
	}
}

// run shows a command of ssctl and runs it.
func (d *show) run(args ...string) {
	d.say.command(args)
	d.lab.MustCtl(args...)
}

// askJSON shows a command of ssctl, runs it and reads its document. A person would leave -o json out.
func (d *show) askJSON(into any, args ...string) {
	d.say.command(args)
	d.lab.CtlJSON(into, args...)
}

// received waits until a program has told of its progress a few more times, and returns the last number.
func (d *show) received(host, name string, times int) uint64 {
	told := func() int { return strings.Count(d.log(host, name), "\nprogress ") }
	enough := told() + times
	d.await("progress of words on "+host, func() bool { return told() >= enough })
	log := d.log(host, name)
	return number(log[strings.LastIndex(log, "\nprogress "):], "received")
}

func (d *show) log(host, name string) string {
	data, err := d.lab.Host(host).ReadFile("/srv/" + name + ".log")
	if err != nil {
		return ""
	}
	return string(data)
}

// await returns when the condition holds, and ends the demo if that takes too long.
func (d *show) await(what string, holds func() bool) {
	deadline := time.After(patience)
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline:
			d.Fatalf("%s: none within %v", what, patience)
		}
	}
}

// number finds key=N.
func number(line, key string) uint64 {
	match := regexp.MustCompile(`\b` + key + `=(\d+)`).FindStringSubmatch(line)
	if match == nil {
		return 0
	}
	n, _ := strconv.ParseUint(match[1], 10, 64) // digits, as matched
	return n
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
