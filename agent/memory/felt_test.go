package memory

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// BenchmarkFelt measures what members feel of it that their memory is copied: how much they do in a second while rounds are made, one after the other, and while
// memory is tracked between two cuts, each divided by what they do without, in turn. A Redis gets writes, a program of the stream job sends and receives words and writes
// 16 MiB a second, and a program writes each page of 256 MiB once a second and computes for the rest of the time, with and without huge pages. It
// reports what the first write to a page costs, too. It needs root, gcc and redis, and a quiet machine; make bench-memory runs it.
func BenchmarkFelt(b *testing.B) {
	for _, s := range []struct {
		name  string
		start func(*testing.B, *rig) subject
	}{
		{"pages", func(b *testing.B, r *rig) subject { return startWork(b, r, false) }},
		{"huge pages", func(b *testing.B, r *rig) subject { return startWork(b, r, true) }},
		{"stream", startWords},
		{"redis", startRedis},
	} {
		b.Run(s.name, func(b *testing.B) {
			r := newRig(b)
			felt(b, r, s.start(b, r))
		})
	}
}

// subject is a member that counts what it does.
type subject struct {
	member agent.Member
	count  func() uint64
	first  func() float64 // nanoseconds that a page's first write costs more than its second; nil: not measured
}

// How long each of the states is looked at. A member that is tracked between two cuts pays once for each page, so that window is a long one.
const window, armedWindow = 2 * time.Second, 10 * time.Second

func felt(b *testing.B, r *rig, s subject) {
	b.Helper()
	var without, copying, begins, armed, first float64
	rate := func(during func()) float64 {
		at, n := time.Now(), s.count()
		during()
		return float64(s.count()-n) / time.Since(at).Seconds()
	}
	wait := func() { <-time.After(window) }
	rate(wait)
	for b.Loop() {
		free := rate(wait)
		var k agent.TrackedMemory
		begins += rate(func() { k = r.tracker.Track(r.context(), s.member.Units()[0], r.folder("staging")) })
		copying += rate(wait)
		if rep := k.Report(); rep.Copied == 0 || len(rep.Left) > 0 {
			b.Fatalf("%+v", rep)
		}
		if s.first != nil {
			first = max(first, s.first())
		}
		if err := k.Keep(); err != nil {
			b.Fatal(err)
		}
		armed += rate(func() { <-time.After(armedWindow) })
		r.tracker.Release()
		without += (free + rate(wait)) / 2
	}
	b.ReportMetric(copying/without, "copying/without")
	b.ReportMetric(begins/without, "first-round/without")
	b.ReportMetric(armed/without, "armed/without")
	b.ReportMetric(without/float64(b.N), "a-second")
	if s.first != nil {
		b.ReportMetric(first, "ns/first-write")
	}
}

// startWork starts the program of testdata/work.c.
func startWork(b *testing.B, r *rig, huge bool) subject {
	b.Helper()
	const mib = 256
	counts := filepath.Join(r.dir, "counts")
	m := r.start(compile(b, "work"), strconv.Itoa(mib), map[bool]string{false: "0", true: "1"}[huge], counts)
	eventually(b, "the program's memory", func() bool { _, err := os.Stat(counts + ".log"); return err == nil })
	f, err := os.Open(counts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	passes := 0
	return subject{
		member: m,
		count: func() uint64 {
			var n [8]byte
			if _, err := f.ReadAt(n[:], 0); err != nil {
				b.Fatal(err)
			}
			return binary.LittleEndian.Uint64(n[:])
		},
		first: func() float64 {
			if err := unix.Kill(m.Pid, unix.SIGUSR1); err != nil {
				b.Fatal(err)
			}
			passes++
			var one, two float64
			eventually(b, "both rounds", func() bool {
				text, _ := os.ReadFile(counts + ".log")
				lines := strings.Split(strings.TrimSpace(string(text)), "\n")
				n, _ := fmt.Sscanf(lines[len(lines)-1], "passes %f %f", &one, &two)
				return n == 2 && len(lines) == passes
			})
			return (one - two) / (mib << 20 / pageSize)
		},
	}
}

// startWords starts both members of the stream job.
func startWords(b *testing.B, r *rig) subject {
	b.Helper()
	words := filepath.Join(b.TempDir(), "words")
	build := exec.Command("go", "build", "-o", words, "ss/integration/progs/words")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	addr := freeAddress(b)
	m := r.start(words, "serve", "-listen", addr, "-ballast", "256", "-write", "16")
	r.start(words, "connect", "-to", addr)
	log := filepath.Join(r.dir, "m-1.log")
	eventually(b, "words", func() bool { text, _ := os.ReadFile(log); return strings.Contains(string(text), "progress") })
	asked := 0
	return subject{member: m, count: func() uint64 {
		if err := unix.Kill(m.Pid, unix.SIGUSR1); err != nil {
			b.Fatal(err)
		}
		asked++
		var sent, received uint64
		eventually(b, "statistics", func() bool {
			text, _ := os.ReadFile(log)
			all := strings.Split(string(text), "\nstats ")
			n, _ := fmt.Sscanf(all[len(all)-1], "sent=%d received=%d", &sent, &received)
			return n == 2 && len(all) == asked+1
		})
		return sent + received
	}}
}

// startRedis starts a Redis of 256 MiB that gets writes as fast as it takes them.
func startRedis(b *testing.B, r *rig) subject {
	b.Helper()
	host, port, err := net.SplitHostPort(freeAddress(b))
	if err != nil {
		b.Fatal(err)
	}
	const keys = "300000"
	m := r.start("/usr/bin/redis-server", "--bind", host, "--port", port, "--save", "", "--dir", r.dir, "--enable-debug-command", "yes")
	var c net.Conn
	eventually(b, "redis", func() bool { c, err = net.Dial("tcp", net.JoinHostPort(host, port)); return err == nil })
	b.Cleanup(func() { _ = c.Close() })
	answers := bufio.NewReader(c)
	ask := func(what string) string {
		if _, err := io.WriteString(c, what+"\r\n"); err != nil {
			b.Fatal(err)
		}
		line, err := answers.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		size, ok := strings.CutPrefix(strings.TrimSpace(line), "$")
		if !ok {
			return line
		}
		n, _ := strconv.Atoi(size)
		text := make([]byte, n+2)
		if _, err := io.ReadFull(answers, text); err != nil {
			b.Fatal(err)
		}
		return string(text)
	}
	if said := ask("DEBUG POPULATE " + keys + " key 700"); !strings.HasPrefix(said, "+OK") {
		b.Fatal(said)
	}
	load := exec.Command("/usr/bin/redis-benchmark", "-h", host, "-p", port, "-t", "set", "-r", keys, "-d", "700", "-n", "2000000000", "-q")
	if err := load.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = load.Process.Kill(); _ = load.Wait() })
	return subject{member: m, count: func() uint64 {
		_, rest, _ := strings.Cut(ask("INFO stats"), "total_commands_processed:")
		var n uint64
		if _, err := fmt.Sscan(rest, &n); err != nil {
			b.Fatal(err)
		}
		return n
	}}
}

// freeAddress is one at which nobody listens.
func freeAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
