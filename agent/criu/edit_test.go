package criu

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent/criu/image"
	"ss/agent/files"
	"ss/agent/target"
)

// socketMember holds sockets of every kind whose addresses may move.
func socketMember(t testing.TB) (r *Runner, dir string) {
	t.Helper()
	r = newRunner(t)
	n := newNamespace(t, "fd00::1/128", "fd00::2/128")
	a, b := n.pair("127.0.0.1", "127.0.0.2")
	files := []*os.File{handOver(t, a), handOver(t, b)}
	n.do(func() error {
		add := func(c any, err error) error {
			if err != nil {
				return err
			}
			f, err := c.(interface{ File() (*os.File, error) }).File()
			files = append(files, f)
			c.(interface{ Close() error }).Close()
			return err
		}
		for _, at := range []string{"127.0.0.2:7001", ":7002", "[fd00::2]:7003"} {
			if err := add(net.Listen("tcp", at)); err != nil {
				return err
			}
		}
		if err := add(net.ListenPacket("udp", "127.0.0.2:7004")); err != nil {
			return err
		}
		if err := add(net.Dial("udp", "127.0.0.2:7004")); err != nil {
			return err
		}
		return mapped(&files, 7005)
	})
	c := startIn(t, n, false, files, "hold", "1")
	dir = dumpCell(t, r, c)
	return r, dir
}

// mapped adds a listener on ::ffff:127.0.0.2.
func mapped(files *[]*os.File, port int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	*files = append(*files, os.NewFile(uintptr(fd), "mapped"))
	if err := syscall.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return err
	}
	to := &unix.SockaddrInet6{Port: port, Addr: netip.MustParseAddr("::ffff:127.0.0.2").As16()}
	if err := unix.Bind(fd, to); err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}

func addresses(t testing.TB, dir string) []string {
	t.Helper()
	sockets, err := image.InetSockets(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, sk := range sockets {
		local, remote, err := image.SockAddrs(sk)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, local.Addr().String()+" "+remote.Addr().String())
	}
	slices.Sort(all)
	return all
}

func TestRewrite(t *testing.T) {
	r, src := socketMember(t)
	before := digests(t, src)
	moved := map[netip.Addr]netip.Addr{
		netip.MustParseAddr("127.0.0.2"): netip.MustParseAddr("10.0.0.9"),
		netip.MustParseAddr("fd00::2"):   netip.MustParseAddr("fd00::9"),
	}
	dst := filepath.Join(t.TempDir(), "dst")
	for range 2 { // the second time over what the first has made
		if err := r.Rewrite(src, dst, moved, nil); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for _, pair := range addresses(t, src) {
		pair = strings.ReplaceAll(pair, "127.0.0.2", "10.0.0.9")
		want = append(want, strings.ReplaceAll(pair, "fd00::2", "fd00::9"))
	}
	slices.Sort(want)
	if got := addresses(t, dst); !slices.Equal(got, want) || len(got) != 8 {
		t.Errorf("addresses\n%q instead of\n%q", got, want)
	}
	after := digests(t, src)
	for name, sum := range before {
		if after[name] != sum {
			t.Errorf("%s of the source changed", name)
		}
		if filepath.Ext(name) != ".img" || name == "files.img" {
			continue
		}
		x, err1 := os.Stat(filepath.Join(src, name))
		y, err2 := os.Stat(filepath.Join(dst, name))
		if err1 != nil || err2 != nil || !os.SameFile(x, y) {
			t.Errorf("%s is not a link: %v, %v", name, err1, err2)
		}
	}
	if len(after) != len(before) {
		t.Error("the source has other files than before")
	}
	// And back: the very bytes that CRIU wrote come out again, fields that go-criu does not know too.
	home := filepath.Join(t.TempDir(), "home")
	back := map[netip.Addr]netip.Addr{}
	for from, to := range moved {
		back[to] = from
	}
	if err := r.Rewrite(dst, home, back, nil); err != nil {
		t.Fatal(err)
	}
	if !sameEntries(t, src, home) {
		t.Error("files.img did not come back as it was")
	}
}

// sameEntries compares two files.img message by message; the order of unknown fields does not count.
func sameEntries(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := image.ReadAll(filepath.Join(a, "files.img"), "files", &fdinfo.FileEntry{})
	if err != nil {
		t.Fatal(err)
	}
	y, err := image.ReadAll(filepath.Join(b, "files.img"), "files", &fdinfo.FileEntry{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.EqualFunc(x, y, func(p, q *fdinfo.FileEntry) bool { return proto.Equal(p, q) })
}

func TestRewriteRefuses(t *testing.T) {
	r, src := socketMember(t)
	four, six := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("fd00::9")
	dst := filepath.Join(t.TempDir(), "dst")
	if err := r.Rewrite(src, dst, map[netip.Addr]netip.Addr{four: six}, nil); err == nil {
		t.Error("an IPv4 address moved to an IPv6 one")
	}
	if err := r.Rewrite(src, src, nil, nil); err == nil {
		t.Error("images were rewritten onto themselves")
	}
	if err := r.Rewrite(filepath.Join(src, "nowhere"), dst, nil, nil); err == nil {
		t.Error("images that are not there were rewritten")
	}
}

func TestNeeds(t *testing.T) {
	r := newRunner(t)
	c := startIn(t, nil, false, nil, "parent")
	counts(t, c.dir, 0)
	dir := dumpCell(t, r, c)
	needs, err := r.Needs(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(path string) target.NeededFile {
		i := slices.IndexFunc(needs.Files, func(f target.NeededFile) bool { return f.Path == path })
		if i < 0 {
			t.Fatalf("%s is not among %+v", path, needs.Files)
		}
		return needs.Files[i]
	}
	self, _ := os.Executable()
	if exe := file(self); !exe.Mapped || exe.Write || exe.Size == 0 || exe.BuildID != files.BuildID(self) {
		t.Errorf("the executable: %+v", exe)
	}
	cat, _ := filepath.EvalSymlinks("/bin/cat")
	if exe := file(cat); !exe.Mapped || exe.BuildID == "" || exe.BuildID != files.BuildID(cat) {
		t.Errorf("the child's executable: %+v", exe)
	}
	if count := file(filepath.Join(c.dir, "count")); count.Mapped || !count.Write || count.Append {
		t.Errorf("a file that is written: %+v", count)
	}
	if errs := file(filepath.Join(c.dir, "stderr")); !errs.Append {
		t.Errorf("a file that is appended to: %+v", errs)
	}
	libc := slices.ContainsFunc(needs.Files, func(f target.NeededFile) bool {
		return strings.Contains(f.Path, "libc") && f.Mapped && f.BuildID != ""
	})
	if !libc {
		t.Errorf("no C library among %+v", needs.Files)
	}
	if !slices.Contains(needs.Dirs, "/") {
		t.Errorf("folders %q", needs.Dirs)
	}
	if !slices.Contains(needs.Pids, c.member.InnerPid) || len(needs.Pids) < 3 {
		t.Errorf("PIDs %v", needs.Pids)
	}
	for _, f := range needs.Files {
		if strings.HasPrefix(f.Path, "/dev/") || strings.HasPrefix(f.Path, "/proc/") {
			t.Errorf("%s is not a file of the host's", f.Path)
		}
	}
}

// Whatever is done to images, reading them ends in an error or a result, within bounds.
func TestDamagedImages(t *testing.T) {
	r, src := socketMember(t)
	names := []string{"files.img", "pstree.img"}
	for _, pattern := range []string{"tcp-stream-*.img", "mm-*.img", "fs-*.img"} {
		found, _ := filepath.Glob(filepath.Join(src, pattern))
		names = append(names, filepath.Base(found[0]))
	}
	random := rand.New(rand.NewPCG(1, 2))
	work, err := os.MkdirTemp("/dev/shm", "criu-test-") // each rewritten image is synced
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	whole := filepath.Join(work, "whole") // beside what is made of it, so that it can be linked
	if err := os.CopyFS(whole, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	all, _ := filepath.Glob(filepath.Join(whole, "*.img"))
	const rounds = 500
	bad := 0
	for round := range rounds {
		name := names[round%len(names)]
		dir := filepath.Join(work, "damaged")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, path := range all {
			target := filepath.Join(dir, filepath.Base(path))
			if filepath.Base(path) != name {
				err = os.Link(path, target)
			} else {
				err = os.WriteFile(target, damage(t, random, path), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err1 := r.Ends(dir)
		_, err2 := r.Needs(dir)
		out := filepath.Join(work, "rewritten")
		err3 := r.Rewrite(dir, out, map[netip.Addr]netip.Addr{
			netip.MustParseAddr("127.0.0.2"): netip.MustParseAddr("127.0.0.3"),
		}, nil)
		if err1 != nil || err2 != nil || err3 != nil {
			bad++
		}
		os.RemoveAll(dir)
		os.RemoveAll(out)
	}
	t.Logf("%d of %d damaged sets of images gave an error", bad, rounds)
	if bad < rounds/3 || bad == rounds {
		t.Error("so many cannot be")
	}
}

// damage cuts a file short, flips a bit of it or writes four random bytes into it.
func damage(t *testing.T, random *rand.Rand, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := random.IntN(len(text))
	switch random.IntN(3) {
	case 0:
		return text[:at]
	case 1:
		text[at] ^= 1 << random.IntN(8)
	case 2:
		for i := at; i < min(at+4, len(text)); i++ {
			text[i] = byte(random.IntN(256))
		}
	}
	return text
}
