package inventory

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkTake takes the inventory of a process with 100 TCP sockets more than it has anyway. Members stand still for so long.
func BenchmarkTake(b *testing.B) {
	for range 100 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
	}
	for b.Loop() {
		if _, err := Take(b.Context(), []int{os.Getpid()}); err != nil {
			b.Fatal(err)
		}
	}
}
