package inventory

import (
	"os"
	"runtime"
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

// BenchmarkThreads compares a process of 200 threads more with its own inventory. A restored member stands still for so long.
func BenchmarkThreads(b *testing.B) {
	over := make(chan struct{})
	defer close(over)
	for range 200 {
		ready := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ready)
			<-over
		}()
		<-ready
	}
	pids := []int{os.Getpid()}
	held, err := Take(b.Context(), pids)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := held.Apply(b.Context(), pids); err != nil {
			b.Fatal(err)
		}
	}
}
