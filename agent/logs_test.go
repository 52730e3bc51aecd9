package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"ss/fault"
)

// TestLogInProc: no member gets a log that is another file for each process that opens it.
func TestLogInProc(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/file", nil, 0o600), os.Symlink("/proc/self/fd/1", dir+"/stdout"), os.Symlink("/proc/self", dir+"/self"),
		os.Symlink("loop", dir+"/loop"), os.Symlink("file", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	for path, refused := range map[string]bool{
		"/proc/self/fd/1": true, "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/2": true, "/proc/thread-self/fd/1": true, "/dev/stdout": true, "/dev/fd/1": true, "/proc/kmsg": true,
		"/proc/sys/kernel/core_pattern": true, "/proc/new": true, "/proc/self/root/srv/log": true, "/proc/self/cwd/new": true, "/srv/../proc/self/fd/1": true,
		filepath.Join(dir, "stdout"): true, filepath.Join(dir, "self/fd/1"): true,
		"": false, "/dev/null": false, filepath.Join(dir, "file"): false, filepath.Join(dir, "new"): false, filepath.Join(dir, "link"): false, filepath.Join(dir, "loop"): false,
		filepath.Join(dir, "none/new"): false,
	} {
		err := checkLog(path)
		if (err != nil) != refused || refused && fault.KindOf(err) != fault.Usage {
			t.Errorf("%q: %v", path, err)
		}
	}
}
