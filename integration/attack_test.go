package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// attack is what a user does to a file of a member, and what must come of a restore.
type attack struct {
	name string
	do   func(dir, secret, real string) error // the user's folder and root's as the machine sees them, and root's as the host does: secret
	fine bool                                 // the restore goes on all the same

	run, undo []string // commands of root's on the host, instead
}

// link makes name a symbolic link, whatever it was.
func link(to, name string) error {
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.Symlink(to, name)
}

var attacks = []attack{
	{name: "a link where the new content was once made", fine: true, do: func(dir, secret, _ string) error {
		return link(secret+"/f", dir+"/d/f.ss-restore")
	}},
	{name: "a link in the place of the file", do: func(dir, secret, _ string) error { return link(secret+"/f", dir+"/d/f") }},
	{name: "a hard link to root's file", fine: true, do: func(dir, _, real string) error {
		if err := os.Remove(dir + "/d/f"); err != nil {
			return err
		}
		return os.Link(real+"/f", dir+"/d/f")
	}},
	{name: "a FIFO in the place of the file", do: func(dir, _, _ string) error {
		if err := os.Remove(dir + "/d/f"); err != nil {
			return err
		}
		return unix.Mkfifo(dir+"/d/f", 0o600)
	}},
	{name: "a link in the place of the folder", do: func(dir, secret, _ string) error { return link(secret, dir+"/d") }},
	{name: "a link to a link in the place of the folder", do: func(dir, secret, _ string) error {
		if err := link(secret, dir+"/e"); err != nil {
			return err
		}
		return link("e", dir+"/d")
	}},
	{name: "root's file moved in the place of what is only read", do: func(dir, _, real string) error {
		if err := os.Remove(dir + "/d/r"); err != nil {
			return err
		}
		return os.Link(real+"/r", dir+"/d/r")
	}},
	{name: "a link in the place of what is only read", do: func(dir, secret, _ string) error { return link(secret+"/r", dir+"/d/r") }},
	{name: "a FIFO in the place of what is only read", do: func(dir, _, _ string) error {
		if err := os.Remove(dir + "/d/r"); err != nil {
			return err
		}
		return unix.Mkfifo(dir+"/d/r", 0o600)
	}},
	{name: "a link two levels up", do: func(dir, secret, real string) error {
		up := filepath.Join(filepath.Dir(real), "roots")
		if err := os.MkdirAll(up, 0o755); err != nil {
			return err
		}
		return errors.Join(link(secret, up+"/d"), link("/srv/roots", dir))
	}},
	{name: "a link to a descriptor of whoever follows it", do: func(dir, _, _ string) error { return link("/proc/self/fd/1", dir+"/d/f") }},
	{name: "a folder that is a process's root", do: func(dir, secret, _ string) error { return link("/proc/1/root"+secret, dir+"/d") }},
	{name: "a socket in the place of the file", do: func(dir, _, _ string) error {
		return errors.Join(os.Remove(dir+"/d/f"), unix.Mknod(dir+"/d/f", unix.S_IFSOCK|0o600, 0))
	}},
	{name: "a device in the place of what is only read", do: func(dir, _, _ string) error {
		return errors.Join(os.Remove(dir+"/d/r"), unix.Mknod(dir+"/d/r", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))))
	}},
	{name: "a file that has grown to a sparse tebibyte", fine: true, do: func(dir, _, _ string) error { return os.Truncate(dir+"/d/f", 1<<40) }},
	{name: "root's folder mounted on it", run: []string{"mount", "--bind", "/srv/secret", "/srv/user/up/d"}, undo: []string{"umount", "/srv/user/up/d"}},
}

// TestFilesUnderAttack needs root; user 1000 really is another user. What it puts in the place of its member's files makes root neither read nor
// write another file, and what is refused is refused before the live job is ended.
func TestFilesUnderAttack(t *testing.T) {
	r := newRig(t, "hostA", "hostB")
	defer r.relay.close()
	racee := r.compile("racee")
	r.userFolder()
	dir := r.Host("hostA").Path("/srv/user/up")
	secret := r.newSecret("hostA")
	on := func(command []string) {
		t.Helper()
		if len(command) == 0 {
			return
		}
		if out, err := r.Host("hostA").Command(t.Context(), command...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r.use(t)
			r.emptyUserFolder()
			must(t, errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 1000, 1000)))
			j := r.newJob("files")
			j.serve("racee", "hostA", asUser(racee, "/srv/user/up")...)
			j.awaitProgress()
			defer j.end()
			cut := j.snapshot().Cut
			if a.do != nil {
				must(t, a.do(dir, "/srv/secret", secret.dir))
			}
			on(a.run)
			defer on(a.undo)
			before := secret.now(t)
			stdout, stderr, exit := r.Ctl("restore", cut)
			if (exit == 0) != a.fine {
				t.Errorf("exit code %d\n%s%s", exit, stdout, stderr)
			}
			if exit != 0 && strings.Contains(stderr, "fencing") {
				t.Errorf("the live job was ended first:\n%s", stderr)
			}
			j.awaitProgress()
			if now := secret.now(t); now != before {
				t.Errorf("root's folder was\n%s\nand is\n%s", before, now)
			}
			noSecretIn(t, r.cluster)
		})
	}
}

// TestProgramIsAFIFO: a member's program has become a FIFO. A snapshot, a restore, and a restore of an archive that names it do not wait for anybody, nothing is
// ended for them, and the agents stop when told to. It needs root.
func TestProgramIsAFIFO(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	c.userFolder()
	program, archive := "/srv/user/racee", filepath.Join(c.Dir(), "cut.tar")
	compiled, err := os.ReadFile(c.compile("racee"))
	must(t, err)
	paths := []string{c.Host("hostA").Path(program), c.Host("hostB").Path(program)}
	for _, path := range paths {
		must(t, errors.Join(os.WriteFile(path, compiled, 0o755), os.Chown(path, 1000, 1000)))
	}
	j := c.newJob("fifo")
	j.serve("racee", "hostA", asUser(program, "/srv/user")...)
	j.awaitProgress()
	cut := j.snapshot().Cut
	c.MustCtl("export", cut, archive)
	for _, path := range paths {
		must(t, errors.Join(os.Remove(path), unix.Mkfifo(path, 0o777)))
	}
	refused := func(args ...string) {
		t.Helper()
		_, stderr, exit := c.Ctl(args...)
		if exit != 4 || !strings.Contains(stderr, program) || frozen.MatchString(stderr) {
			t.Errorf("ssctl %s: exit code %d\n%s", strings.Join(args, " "), exit, stderr)
		}
	}
	refused("restore", cut)
	refused("restore", cut, "--remap", "hostA=hostB")
	second := j.snapshot().Cut // it holds the program, which has no name any more
	c.MustCtl("rm", cut)
	c.MustCtl("import", archive, "--job", "foreign")
	refused("restore", "latest", "--job", "foreign", "--dry-run")
	refused("restore", "latest", "--job", "foreign", "--remap", "hostA=hostB")
	j.restore(second)
	j.awaitProgress()
	for _, host := range []string{"hostA", "hostB"} {
		c.Agent(host).Stop() // within the lab's patience
		c.Agent(host).Start()
	}
	j.awaitProgress()
	j.end()
}

// now is the state of the folder after what the test itself did to it.
func (s *secret) now(t *testing.T) string {
	t.Helper()
	return s.state(t)
}

// TestLogsUnderAttack needs root. A log that is not a regular file, or that a user's link leads to, is refused at once, and nothing is made.
func TestLogsUnderAttack(t *testing.T) {
	c := newCluster(t, "hostA")
	c.userFolder()
	dir := c.Host("hostA").Path("/srv/user")
	victim := c.Host("hostA").Path("/srv/victim")
	for _, err := range []error{
		unix.Mkfifo(dir+"/fifo", 0o600), os.Symlink("/srv/victim", dir+"/link"), os.Symlink("/srv", dir+"/folder"),
		os.Symlink("fifo", dir+"/link-to-fifo"), os.Mkdir(dir+"/a-folder", 0o755), unix.Mkfifo(c.Host("hostA").Path("/srv/fifo"), 0o600),
		unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0), unix.Mknod(dir+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Symlink("/srv/user/a-folder/..", dir+"/up"),
		os.WriteFile(dir+"/../others", nil, 0o600), os.Chown(dir+"/../others", 1001, 1001), os.Link(dir+"/../others", dir+"/others"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range []string{"/srv/user/fifo", "/srv/user/link", "/srv/user/folder/victim", "/srv/user/link-to-fifo", "/srv/user/a-folder", "/srv/fifo",
		"/srv/user/socket", "/srv/user/device", "/srv/user/up/victim", "/srv/user/others"} {
		_, stderr, exit := c.Ctl("run", "logs", "--host", "hostA", "--log", log, "--", "sleep", "infinity")
		if exit == 0 || !strings.Contains(stderr, filepath.Base(filepath.Dir(log))) {
			t.Errorf("--log %s: exit code %d: %s", log, exit, stderr)
		}
		if _, err := os.Lstat(victim); err == nil {
			t.Fatalf("--log %s: a file was made in root's folder", log)
		}
	}
	c.MustCtl("run", "logs", "--host", "hostA", "--log", "/srv/user/new", "--", "sleep", "infinity")
	c.MustCtl("kill", "logs")
}
