// Testsum runs `go test -json` commands one after the other, shows what happens while it happens, and ends with one line that
// counts the tests of all of them. Its exit status is 0 if at least one test ran and none failed.
//
//	testsum [-strict IMPORTPATH] [-run COMMAND]… [-spread BINARY -dir FOLDER …]
//
// Below -strict a skipped test counts as a failure: an integration test that did not run has shown nothing.
//
// With -spread, the tests of a binary that go test -c has made run after the commands, each in a process of its own, -at-once at the same time.
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
	var tests spread
	strict := flag.String("strict", "", "`import path` below which no test may be skipped")
	flag.Func("run", "`command` that prints go test's JSON; words are separated by blanks", func(s string) error {
		commands = append(commands, s)
		return nil
	})
	flag.StringVar(&tests.binary, "spread", "", "test `binary` whose tests run in processes of their own")
	flag.StringVar(&tests.pkg, "package", "", "import `path` of that binary's package")
	flag.StringVar(&tests.goCommand, "go", "go", "go `command`")
	flag.StringVar(&tests.dir, "dir", ".", "`folder` of that binary's package")
	flag.IntVar(&tests.atOnce, "at-once", 1, "`number` of its tests that run at the same time")
	flag.StringVar(&tests.timeout, "timeout", "30m", "`time` after which one of its tests has failed")
	flag.Func("first", "`test` of that binary that begins before the others", func(s string) error {
		tests.first = append(tests.first, s)
		return nil
	})
	flag.Func("alone", "`test` of that binary that runs when the others have ended", func(s string) error {
		tests.alone = append(tests.alone, s)
		return nil
	})
	flag.Parse()
	if len(commands) == 0 && tests.binary == "" {
		flag.Usage()
		os.Exit(2)
	}
	s := newSummary(os.Stdout, *strict)
	for _, command := range commands {
		if err := runTests(s, "", strings.Fields(command)...); err != nil {
			s.fault(err)
		}
	}
	if tests.binary != "" {
		s.apart = tests.pkg
		if err := tests.run(s); err != nil {
			s.fault(err)
		}
	}
	if !s.close() {
		os.Exit(1)
	}
}

// runTests runs one command in a folder and adds its events to the summary. That tests failed is in the events and not an error.
func runTests(s *summary, dir string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed, readErr := s.read(out)
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return fmt.Errorf("%s: %w", strings.Join(args, " "), readErr)
	case err != nil && failed == 0:
		return fmt.Errorf("%s: %w, though no test failed", strings.Join(args, " "), err)
	default:
		return nil
	}
}
