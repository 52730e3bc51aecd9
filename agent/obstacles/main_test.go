package obstacles

import (
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // what this was started with is not the tests' to see
	os.Exit(m.Run())
}
