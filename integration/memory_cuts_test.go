package integration

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// movers are programs that write their memory without a pause, or have it moved.
var movers = []struct {
	name  string
	start func(*site)
}{
	{"redis", func(s *site) {
		s.server("redis", "hostA", 6379, "redis-server", "--port", "6379", "--protected-mode", "no", "--dir", s.folder("hostA"), "--save", "")
		for i := range 2 {
			s.client(fmt.Sprint("writer", i), "hostB", "writes", s.at("hostA", 6379), fmt.Sprint("writer", i))
		}
	}},
	{"jvm", func(s *site) {
		s.on("hostA", "javac", "-d", s.dir, s.here("testdata/Moving.java"))
		for i, collector := range []string{"-XX:+UseG1GC", "-XX:+UseSerialGC"} {
			s.serve(fmt.Sprint("moving", i), []string{"hostA", "hostB"}[i], "java", "-Xms96m", "-Xmx96m", collector, "-cp", s.dir, "Moving", "60000")
		}
	}},
	{"words", func(s *site) {
		addr := s.at("hostA", 9001)
		s.program("serve", "hostA", "words", "serve", "-listen", addr, "-ballast", "64", "-write", "64")
		s.program("connect", "hostB", "words", "connect", "-to", addr, "-ballast", "64", "-write", "64", "-until", s.stop)
	}},
	{"ring", func(s *site) { startRing(s.job) }},
}

// TestCutsOfTrackedMemory takes cuts of programs that write their memory without a pause, two in a row, of which the second reads what was written since the first. Each is
// restored, and the programs check all that they hold. Members' memory is tracked, however small they are. SS_MEMORY_CUTS says how many cuts of each program (2, of the first program alone); make
// test-memory takes 20 of each. It needs root, redis and python3, and
// for all programs java.
func TestCutsOfTrackedMemory(t *testing.T) {
	withoutRace(t)
	cuts, programs := 2, movers[:1]
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_CUTS")); err == nil {
		cuts, programs = n, movers
	}
	r := newRigWith(t, "tracked_from: 0\n", "hostA", "hostB", "hostC")
	defer r.relay.close()
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			r.use(t)
			s := &site{job: r.newJob(p.name), dir: r.Dir() + "/" + p.name, notes: map[string]string{}}
			must(t, os.Mkdir(s.dir, 0o755))
			p.start(s)
			s.awaitProgress()
			for taken := 0; taken < cuts; taken += 2 {
				s.twoCuts()
			}
			if p.name == "words" || p.name == "ring" {
				s.finish()
			}
			s.end()
		})
	}
	r.use(t)
	r.checkLeaks()
	r.keptMatches()
}

// twoCuts takes two cuts and restores both.
func (s *site) twoCuts() {
	s.t.Helper()
	var both [2]string
	for i := range both {
		both[i] = s.snapshot().Cut
		var shown shownMemory
		s.CtlJSON(&shown, "show", both[i])
		var copied, frozen int64
		for _, m := range shown.Members {
			if !m.Memory.Tracked {
				s.t.Errorf("cut %s: the memory of %s was not tracked: %q", both[i], m.Name, m.Memory.Left)
			}
			copied, frozen = copied+m.Memory.CopiedBytes, frozen+m.Memory.FrozenBytes
		}
		s.t.Logf("cut %s: %d KiB were copied while members ran, %d KiB while they stood still", both[i], copied>>10, frozen>>10)
		s.awaitProgress()
	}
	for _, cut := range both {
		s.restore(cut)
		s.awaitProgress()
		s.MustCtl("rm", cut)
	}
}
