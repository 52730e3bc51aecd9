package integration

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holdWord, as a first argument, makes the program of this package's tests a member that holds something and does nothing.
const holdWord = "hold-for-a-test"

// holds are the things it can hold.
var holds = map[string]func() error{
	"io_uring":  holdIOUring,
	"mapped":    holdMapped,
	"secret":    holdSecret,
	"strangers": holdStrangers,
	"visitor":   holdVisitor,
	"rogue":     callAgents,
}

func init() {
	if len(os.Args) != 3 || os.Args[1] != holdWord {
		return
	}
	hold, ok := holds[os.Args[2]]
	if !ok {
		fmt.Println("FAIL hold: unknown", os.Args[2])
		os.Exit(2)
	}
	if err := hold(); err != nil {
		fmt.Println("FAIL hold:", err)
		os.Exit(1)
	}
	if os.Args[2] == "rogue" { // it is done
		os.Exit(0)
	}
	fmt.Println("holding", os.Args[2])
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	os.Exit(0)
}

// holdIOUring makes an io_uring (io_uring_setup(2)).
func holdIOUring() error {
	var params [120]byte // struct io_uring_params, all zero
	if _, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params)), 0); errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	return nil
}

// holdMapped maps a BPF map (bpf(2)) and closes its descriptor.
func holdMapped() error {
	const flags = unix.BPF_F_MMAPABLE
	attr := [5]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 8, 512, flags} // kind, sizes of keys and of values, entries
	fd, _, errno := syscall.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return fmt.Errorf("bpf: %w", errno)
	}
	if _, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the BPF map: %w", err)
	}
	return unix.Close(int(fd))
}

// holdSecret maps memory that the kernel shows to nobody else (memfd_secret(2)).
func holdSecret() error {
	fd, err := unix.MemfdSecret(0)
	if err != nil {
		return fmt.Errorf("memfd_secret: %w", err)
	}
	if err := unix.Ftruncate(fd, 1<<16); err != nil {
		return err
	}
	secret, err := unix.Mmap(fd, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		secret[0] = 1
	}
	return err
}

// hold starts a member that holds something, and returns it when it does.
func (j *job) hold(name, host, what string) *member {
	j.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		j.t.Fatal(err)
	}
	j.serve(name, host, exe, holdWord, what)
	m := j.members[len(j.members)-1]
	await(j.t, name, func() string {
		if log := j.log(m); !strings.Contains(log, "holding ") {
			if strings.Contains(log, "FAIL") {
				j.t.Fatal(log)
			}
			return log
		}
		return ""
	})
	return m
}
