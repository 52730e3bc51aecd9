package agent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/target"
)

// twoMembers is a host with a process for each of two members.
type twoMembers struct {
	noCells
	pids    map[string]int
	objects target.HostObjects
}

func (c twoMembers) Processes(_ context.Context, m Member) ([]Process, error) {
	return []Process{{Pid: c.pids[m.Name]}}, nil
}

func (c twoMembers) Objects(context.Context, string) (target.HostObjects, error) {
	return c.objects, nil
}

// TestSocketsAreTheirHolders: what a check says of a socket, it says of the member that holds it.
func TestSocketsAreTheirHolders(t *testing.T) {
	listen := func() (file *os.File, inode uint64, at netip.AddrPort) {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if file, err = l.File(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return file, st.Ino, netip.MustParseAddrPort(l.Addr().String())
	}
	_, firsts, firstAt := listen()
	passed, seconds, secondAt := listen()
	holder := exec.Command("sleep", "1000") // ends with the test
	holder.ExtraFiles = []*os.File{passed}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	passed.Close()

	bound := filepath.Join(t.TempDir(), "two")
	if err := unix.Mknod(bound, unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(bound, &st); err != nil {
		t.Fatal(err)
	}
	inode := st.Ino

	ours := func(inode uint64, local netip.AddrPort, listening bool) target.HostSocket {
		return target.HostSocket{NeededSocket: target.NeededSocket{Protocol: "tcp", Local: local, Listening: listening}, Inode: inode, Ours: true}
	}
	stranger := ours(firsts, netip.MustParseAddrPort("127.0.0.1:1"), true)
	stranger.Ours = false
	cells := twoMembers{pids: map[string]int{"one": os.Getpid(), "two": holder.Process.Pid}, objects: target.HostObjects{
		Sockets: []target.HostSocket{ours(firsts, firstAt, true), ours(seconds, secondAt, true), ours(0, secondAt, false), stranger},
		Unix: []target.HostUnix{
			{Inode: seconds, Path: bound, Ino: inode & 0xffffffff, Ours: true}, {Inode: firsts, Abstract: "one", Ours: true}, {Inode: 1, Path: "/gone", Ours: true},
			{Inode: firsts, Abstract: "one", Ours: true}, // a connection that the listener of that name has accepted
			{Inode: firsts, Path: bound + ".removed", Ino: 1, Ours: true}, {Inode: firsts, Path: bound, Ino: inode&0xffffffff + 1, Ours: true},
		},
	}}
	a := &Agent{cfg: Config{Host: "hostA", Cells: cells}}
	got, err := a.liveObjects(t.Context(), "job", []Member{{Name: "one"}, {Name: "two"}})
	if err != nil {
		t.Fatal(err)
	}
	one, two := got["one"], got["two"]
	if len(one.Sockets) != 1 || one.Sockets[0].Local != firstAt || len(one.Unix) != 1 || one.Unix[0].Abstract != "one" {
		t.Errorf("the first member has %+v", one)
	}
	// The second one has its listener, and the connection that waits in it.
	if len(two.Sockets) != 2 || two.Sockets[0].Local != secondAt || two.Sockets[1].Local != secondAt || len(two.Unix) != 1 || two.Unix[0].Path != bound {
		t.Errorf("the second member has %+v", two)
	}
	if len(got) != 2 {
		t.Errorf("members: %v", got)
	}
}
