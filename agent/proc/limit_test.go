package proc

import (
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenFiles(t *testing.T) {
	var want unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &want); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenFiles(os.Getpid()); err != nil || got != (Limit{want.Cur, want.Max}) {
		t.Errorf("%+v, want %+v: %v", got, want, err)
	}
	if _, err := OpenFiles(math.MaxInt32); !Gone(err) {
		t.Errorf("of no process: %v", err)
	}
	const text = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max processes             unlimited            7                    processes \n" +
		"Max open files            x                    7                    files     \n"
	if got, err := parseLimit(text, "Max processes"); err != nil || got != (Limit{math.MaxUint64, 7}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"Max open files", "Max locked memory"} {
		if got, err := parseLimit(text, name); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
