package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SkewClock sets the real-time clock that the running agent sees ahead by that many seconds, or back, until it ends. Hosts of a lab share one kernel, whose namespaces
// have no real-time clock of their own. So the agent's own copy of the kernel's clock_gettime(2) (vdso(7)) is overwritten, as a debugger would do it.
func (a *Agent) SkewClock(seconds int32) {
	a.host.lab.tb.Helper()
	if err := skew(a.Pid(), seconds); err != nil {
		a.host.lab.tb.Fatalf("set the clock of the agent of %s: %v", a.host.Name, err)
	}
}

// skewCode is clock_gettime(2) by a system call, and a number of seconds, at its end, that is added to CLOCK_REALTIME.
var skewCode = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi (CLOCK_REALTIME)
	0x75, 7, // jnz: to ret
	0x48, 0x81, 0x06, 0, 0, 0, 0, // add qword [rsi], seconds
	0xc3, // ret
}

func skew(pid int, seconds int32) error {
	if runtime.GOARCH != "amd64" {
		return errors.New("it is known for x86-64 only")
	}
	code := bytes.Clone(skewCode)
	binary.LittleEndian.PutUint32(code[len(code)-5:], uint32(seconds))
	from, to, err := vdso(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, int64(from)); err != nil {
		return err
	}
	at, err := symbol(image, "__vdso_clock_gettime", uint64(len(code)))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Kill(pid, unix.SIGCONT) }()
	for end := time.Now().Add(readyPatience); ; {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return err
		}
		switch outside, err := stoppedOutside(pid, from, to); {
		case err != nil:
			return err
		case outside:
			_, err := mem.WriteAt(code, int64(from+at))
			return err
		}
		if time.Now().After(end) {
			return errors.New("some thread always asks for the time")
		}
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			return err
		}
	}
}

// vdso is where a process has the kernel's code.
func vdso(pid int) (from, to uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
			return from, to, err
		}
	}
	return 0, 0, errors.New("it has no vdso(7)")
}

// symbol finds a function of at least that many bytes in an ELF image.
func symbol(image []byte, name string, least uint64) (uint64, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	all, err := f.DynamicSymbols()
	for _, s := range all {
		if s.Name == name && s.Size >= least {
			return s.Value, nil
		}
	}
	return 0, errors.Join(fmt.Errorf("no function %s of %d bytes", name, least), err)
}

// stoppedOutside waits until all threads of a process that was sent SIGSTOP have stopped, and says whether none is in that range.
func stoppedOutside(pid int, from, to uint64) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return false, err
	}
	for _, dir := range threads {
		ip, err := stoppedAt(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil || from <= ip && ip < to {
			return false, err
		}
	}
	return true, nil
}

// stoppedAt waits until a thread has stopped and says where.
func stoppedAt(dir string) (uint64, error) {
	for end := time.Now().Add(readyPatience); ; {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			return 0, err
		}
		if _, after, ok := strings.Cut(string(stat), ") "); ok && after[0] == 'T' {
			break
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%s does not stop", dir)
		}
		runtime.Gosched() // nothing tells of it but the parent's wait(2)
	}
	call, err := os.ReadFile(dir + "/syscall")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(call))
	return strconv.ParseUint(strings.TrimPrefix(f[len(f)-1], "0x"), 16, 64)
}
