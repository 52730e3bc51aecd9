package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
)

// event is a line of `go test -json` (go doc test2json), or of the build before it (go help buildjson).
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64 // seconds
	Output      string
	ImportPath  string // of a build
	FailedBuild string // of a package that could not be tested
}

// key names a test, or a package when Test is "".
type key struct{ pkg, test string }

// summary counts tests and shows the failed ones. Several streams of events may report to it at the same time.
type summary struct {
	strict string
	apart  string // package whose tests have a process each: that one of them ended well says nothing of the package

	mu                      sync.Mutex // guards what follows
	out                     io.Writer
	passed, failed, skipped int
	broken                  []string // one line for each failure, repeated at the end
}

// stream is what one command reports. It keeps what tests print until it is known whether anybody wants to read it.
type stream struct {
	*summary
	output map[key][]string // of tests and packages that have not ended
	tests  map[string]int   // ended tests, by package
	bad    map[string]int   // failed tests, by package
	faults int              // failures of this stream
}

func newSummary(out io.Writer, strict string) *summary { return &summary{out: out, strict: strict} }

// read takes events in until the stream ends, and says how many failures they brought. Other lines are shown as they are.
func (s *summary) read(from io.Reader) (failed int, err error) {
	st := &stream{summary: s, output: map[key][]string{}, tests: map[string]int{}, bad: map[string]int{}}
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			st.add(line)
		}
		if err == io.EOF {
			return st.faults, nil
		}
		if err != nil {
			return st.faults, err
		}
	}
}

func (s *stream) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprint(s.out, line)
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output":
		s.output[k] = append(s.output[k], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		before := s.failed
		if e.Test != "" {
			s.endTest(k, e)
		} else {
			s.endPackage(e)
		}
		s.faults += s.failed - before
		delete(s.output, k)
	}
}

// isStrict says whether a package's tests must all run.
func (s *summary) isStrict(pkg string) bool {
	return s.strict != "" && (pkg == s.strict || strings.HasPrefix(pkg, s.strict+"/"))
}

func (s *stream) endTest(k key, e event) {
	s.tests[k.pkg]++
	name := strings.TrimPrefix(k.pkg, "ss/") + " " + k.test
	switch {
	case e.Action == "pass":
		s.passed++
		if k.pkg == s.strict && !strings.Contains(k.test, "/") {
			fmt.Fprintf(s.out, "PASS %s (%.1fs)\n", k.test, e.Elapsed)
		}
		return
	case e.Action == "skip" && !s.isStrict(k.pkg):
		s.skipped++
		return
	case e.Action == "skip":
		s.skipped++ // counted as what it is; what follows makes it a failure all the same
		name += " was skipped"
	default:
		s.failed++
	}
	s.bad[k.pkg]++
	s.broken = append(s.broken, fmt.Sprintf("FAIL %s (%.1fs)", name, e.Elapsed))
	fmt.Fprintf(s.out, "FAIL %s (%.1fs)\n", name, e.Elapsed)
	for _, line := range s.output[k] {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(s.out, "    ", line)
		}
	}
}

func (s *stream) endPackage(e event) {
	name := strings.TrimPrefix(e.Package, "ss/")
	switch {
	case e.Action == "skip": // no test files
	case e.Action == "pass" && e.Package == s.apart:
	case e.Action == "pass":
		fmt.Fprintf(s.out, "ok   %s: %d tests (%.1fs)\n", name, s.tests[e.Package], e.Elapsed)
	case s.bad[e.Package] == 0:
		// It did not build, or ended outside of any test: a panic, a time-out, a leak found by TestMain.
		for k, lines := range s.output {
			if k.pkg == e.Package {
				for _, line := range lines {
					fmt.Fprint(s.out, "    ", line)
				}
			}
		}
		what := "ended badly"
		if e.FailedBuild != "" {
			what = "does not build"
		}
		s.countFault(fmt.Errorf("%s %s (%.1fs)", name, what, e.Elapsed))
	case e.Package == s.apart:
	default:
		fmt.Fprintf(s.out, "FAIL %s: %d of %d tests (%.1fs)\n", name, s.bad[e.Package], s.tests[e.Package], e.Elapsed)
	}
}

// fault counts something that is not a test as a failed one.
func (s *summary) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countFault(err)
}

func (s *summary) countFault(err error) {
	s.failed++
	line := fmt.Sprintf("FAIL %v", err)
	s.broken = append(s.broken, line)
	fmt.Fprintln(s.out, line)
}

// close prints the verdict and the counts, and says whether all is well.
func (s *summary) close() bool {
	fmt.Fprintln(s.out)
	for _, line := range s.broken {
		fmt.Fprintln(s.out, line)
	}
	good := len(s.broken) == 0 && s.passed > 0
	switch {
	case good:
		fmt.Fprintln(s.out, "PASS: all tests")
	case len(s.broken) == 0:
		fmt.Fprintln(s.out, "FAIL: no test ran")
	default:
		fmt.Fprintln(s.out, "FAIL: see above")
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return good
}
