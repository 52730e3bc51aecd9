// Testsum runs `go test -json` commands one after the other, shows what happens while it happens, and ends with one line that
// counts the tests of all of them. Its exit status is 0 if at least one test ran and none failed.
//
//	testsum [-strict IMPORTPATH] -run COMMAND [-run COMMAND]…
//
// Below -strict a skipped test counts as a failure: an integration test that did not run has shown nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	var commands []string
	strict := flag.String("strict", "", "`import path` below which no test may be skipped")
	flag.Func("run", "`command` that prints go test's JSON; words are separated by blanks", func(s string) error {
		commands = append(commands, s)
		return nil
	})
	flag.Parse()
	if len(commands) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	s := newSummary(os.Stdout, *strict)
	for _, command := range commands {
		if err := runCommand(s, strings.Fields(command)); err != nil {
			s.fault(err)
		}
	}
	if !s.close() {
		os.Exit(1)
	}
}

// runCommand runs one command and adds its events to the summary. That tests failed is in the events and no error.
func runCommand(s *summary, args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failedBefore := s.failed
	readErr := s.read(out)
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return fmt.Errorf("%s: %w", strings.Join(args, " "), readErr)
	case err != nil && s.failed == failedBefore:
		return fmt.Errorf("%s: %w, though no test failed", strings.Join(args, " "), err)
	default:
		return nil
	}
}
