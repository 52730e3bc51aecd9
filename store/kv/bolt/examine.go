package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"ss/store/kv"
)

// A file without a sum, or one that another program has put there, can be looked at by bbolt alone, and bbolt trusts its pages: of a damaged file it
// follows pointers out of its mapping, in goroutines of its own too, or in a circle. So a process of its own looks, which may die of it. It is this very
// program, told by its environment: every program that links this package, tests too, can be its own examiner.
const examineVariable = "SS_EXAMINE_CATALOGUE"

// examineLimit bounds the look at a file. A large catalogue takes a second.
const examineLimit = time.Minute

func init() { //nolint:gochecknoinits // before main, or a test's, has read its arguments
	if path := os.Getenv(examineVariable); path != "" {
		os.Exit(examineMain(path))
	}
}

// examineMain has bbolt look at every page of the file. Its status is 0 if all are well; else it says why on standard error, or dies.
func examineMain(path string) int {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: examineLimit})
	if err == nil {
		err = db.View(func(btx *bbolt.Tx) error {
			var first error
			for err := range btx.Check() {
				if first == nil {
					first = err
				}
			}
			return first
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// examine returns kv.ErrCorrupt if another process finds the file damaged. The caller holds the file's lock for reading, which the process takes as well.
func examine(ctx context.Context, path string) error {
	bounded, cancel := context.WithTimeout(ctx, examineLimit)
	defer cancel()
	cmd := exec.CommandContext(bounded, "/proc/self/exe")
	cmd.Env = append(os.Environ(), examineVariable+"="+path, "GOTRACEBACK=none")
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	exit := new(exec.ExitError)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		text, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		text = strings.TrimPrefix(text, "panic: ") // of the other process, which bbolt ends at some damage: to a person it is what bbolt says
		return fmt.Errorf("%s: bbolt: %s: %w; put a copy of the folder back, or ssctl catalog rebuild --replace", path, text, kv.ErrCorrupt)
	default:
		return fmt.Errorf("look at %s: %w", path, err)
	}
}
