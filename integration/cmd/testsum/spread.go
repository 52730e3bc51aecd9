package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// spread is a test binary whose tests run in processes of their own, several at once.
//
// Tests that wait for a lease or for a stopped agent leave the processors idle; another test can have them meanwhile. A process for each
// test keeps what a test holds (its hosts, its working folder, the thread's namespaces) apart from the others.
type spread struct {
	pkg       string   // import path, as events name it
	binary    string   // made by go test -c
	goCommand string   // its tool test2json turns what a test prints into events (go doc test2json)
	dir       string   // the package's folder: tests read their testdata there
	atOnce    int      // processes that run at the same time
	timeout   string   // of each, as -test.timeout takes it
	first     []string // the longest tests: what begins last delays the end
	alone     []string // tests that measure: they run one after the other when the others have ended
}

// run runs every test of the binary and adds their events to the summary.
func (p spread) run(s *summary) error {
	list := exec.Command(p.binary, "-test.list", "^Test")
	list.Dir, list.Stderr = p.dir, os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("%s -test.list: %w", p.binary, err)
	}
	var names []string
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "Test") {
			names = append(names, name)
		}
	}
	together, alone, err := p.order(names)
	if err != nil {
		return err
	}
	p.each(s, together, max(p.atOnce, 1))
	p.each(s, alone, 1)
	return nil
}

// order says which tests run beside others and which alone, each in the order in which they begin. A name in first or alone that no test
// has is an error: the test was renamed, and its place in the order would be lost without a word.
func (p spread) order(names []string) (together, alone []string, err error) {
	for _, name := range slices.Concat(p.first, p.alone) {
		if !slices.Contains(names, name) {
			return nil, nil, fmt.Errorf("%s: no test is called %s", p.pkg, name)
		}
	}
	together = slices.Clone(p.first)
	for _, name := range names {
		switch {
		case slices.Contains(p.alone, name):
			alone = append(alone, name)
		case !slices.Contains(p.first, name):
			together = append(together, name)
		}
	}
	return together, alone, nil
}

// each runs the tests in order, atOnce at the same time.
func (p spread) each(s *summary, names []string, atOnce int) {
	next := make(chan string)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for name := range next {
				if err := p.one(s, name); err != nil {
					s.fault(err)
				}
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	workers.Wait()
}

// one runs one test in a process of its own.
func (p spread) one(s *summary, name string) error {
	binary, err := filepath.Abs(p.binary)
	if err != nil {
		return err
	}
	return runTests(s, p.dir, p.goCommand, "tool", "test2json", "-t", "-p", p.pkg,
		binary, "-test.v=test2json", "-test.count=1", "-test.timeout="+p.timeout, "-test.run=^"+name+"$")
}
