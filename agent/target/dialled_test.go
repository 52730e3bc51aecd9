package target

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDialledNames needs root. A cut says where its datagram sockets were connected to, by a name that a member's user may have chosen. Only one at which a program of this host
// receives datagrams, that root alone places and every user may use, is connected again; whatever the kernel lists under such a name.
func TestDialledNames(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(os.Chmod(dir, 0o755))
	}
	home := root + "/home"
	must(errors.Join(os.Mkdir(home, 0o755), os.Chown(home, 1000, 1000)))
	bind := func(path string, mode os.FileMode) *net.UnixConn {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		must(err)
		t.Cleanup(func() { c.Close() })
		must(os.Chmod(path, mode))
		return c
	}
	log := bind(root+"/log", 0o666)
	bind(root+"/private", 0o600)
	bind(home+"/users", 0o666)
	must(log.SetReadDeadline(time.Now().Add(time.Millisecond)))
	must(unix.Mknod(root+"/forged", unix.S_IFSOCK|0o666, 0)) // nobody is bound to it
	must(os.Chmod(root+"/forged", 0o666))
	left := bind(root+"/left", 0o666)
	must(os.Link(root+"/left", root+"/still")) // what a daemon that was killed leaves
	must(left.Close())
	stream, err := net.Listen("unix", root+"/stream")
	must(err)
	t.Cleanup(func() { stream.Close() })
	must(os.Chmod(root+"/stream", 0o666))
	must(os.WriteFile(root+"/file", nil, 0o666))
	must(unix.Mkfifo(root+"/fifo", 0o666))
	must(os.Symlink(root+"/log", home+"/link"))
	must(os.Symlink(root+"/log", root+"/roots"))

	// A user with namespaces of its own can have the kernel list any name and any number, on another device.
	var st unix.Stat_t
	must(unix.Stat(root+"/forged", &st))
	lives := HostObjects{Unix: []HostUnix{{Path: root + "/forged", Dev: st.Dev + 1, Ino: st.Ino}, {Path: root + "/none", Dev: 7, Ino: 7}}}
	for name, want := range map[string]string{
		root + "/log": "", root + "/roots": "",
		root + "/forged": "no program receives", root + "/still": "no program receives", root + "/stream": "no program receives", root + "/file": "no program receives",
		root + "/fifo": "no program receives", root + "/none": "no program receives", root: "no program receives", "": "no program receives",
		"\x00" + root + "/log": "no program receives", "@" + root + "/log": "no program receives", root + "/log\n": "no program receives", root + "/log (deleted)": "no program receives",
		root + "/" + strings.Repeat("x", 4096): "no program receives",
		root + "/private":                      "not every user", "/proc/1/root" + root + "/log": "connected to",
		home + "/users": "another user than root can change", home + "/link": "with the rights of root", root + "/home/../log": "with the rights of root", root + "//log": "with the rights of root",
	} {
		p := plan{Target: Target{Coming: []Arrival{{Source: "hostA", Member: "a", Needs: Needs{Objects: NeededObjects{Dialled: []string{name}}}}}}, lives: lives}
		p.dialled()
		switch text := strings.Join(p.found, "\n"); {
		case want == "" && text != "":
			t.Errorf("%q: %s", name, text)
		case !strings.Contains(text, want):
			t.Errorf("%.60q: no %q in %q", name, want, text)
		}
	}
	if n, err := log.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the program got %d bytes by being looked at: %v", n, err)
	}
}
