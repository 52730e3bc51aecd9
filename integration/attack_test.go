package integration

import (
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
}

// TestFilesUnderAttack needs root; user 1000 really is another user. What it puts in the place of its member's files makes root neither read nor
// write another file, and what is refused is refused before the live job is ended.
func TestFilesUnderAttack(t *testing.T) {
	r := newRig(t, "hostA", "hostB")
	defer r.relay.close()
	racee := r.compile("racee")
	r.userFolder()
	dir := r.Host("hostA").Path("/srv/user")
	secret := r.newSecret("hostA")
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r.use(t)
			r.emptyUserFolder()
			j := r.newJob("files")
			j.serve("racee", "hostA", asUser(racee, "/srv/user")...)
			j.awaitProgress()
			defer j.end()
			cut := j.snapshot().Cut
			if err := a.do(dir, "/srv/secret", secret.dir); err != nil {
				t.Fatal(err)
			}
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

// now is the state of the folder after what the test itself did to it.
func (s *secret) now(t *testing.T) string {
	t.Helper()
	return s.state(t)
}

// TestLogsUnderAttack needs root. A log that is no regular file, or that a user's link leads to, is refused at once, and nothing is made.
func TestLogsUnderAttack(t *testing.T) {
	c := newCluster(t, "hostA")
	c.userFolder()
	dir := c.Host("hostA").Path("/srv/user")
	victim := c.Host("hostA").Path("/srv/victim")
	for _, err := range []error{
		unix.Mkfifo(dir+"/fifo", 0o600), os.Symlink("/srv/victim", dir+"/link"), os.Symlink("/srv", dir+"/folder"),
		os.Symlink("fifo", dir+"/link-to-fifo"), os.Mkdir(dir+"/a-folder", 0o755), unix.Mkfifo(c.Host("hostA").Path("/srv/fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range []string{"/srv/user/fifo", "/srv/user/link", "/srv/user/folder/victim", "/srv/user/link-to-fifo", "/srv/user/a-folder", "/srv/fifo"} {
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
