package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// keepsFolder starts a member of user 1000 with a folder that is part of its cuts.
func (j *job) keepsFolder(program, folder string) {
	j.t.Helper()
	m := &member{name: "racee", host: "hostA", endless: true}
	j.members = append(j.members, m)
	j.MustCtl(append([]string{"run", j.name, "--host", "hostA", "--log", j.logPath(m), "--files", folder, "--"}, asUser(program, folder)...)...)
	j.awaitProgress()
}

// TestDeclaredFoldersUnderAttack needs root; user 1000 really is another user. What it does in a folder that is part of its member's cuts makes root neither read nor
// write another's file. Folders of the system, of the agent and of other jobs are refused at once, and what a restore will remove is said beforehand.
func TestDeclaredFoldersUnderAttack(t *testing.T) {
	c := newCluster(t, "hostA")
	c.userFolder()
	secret := c.newSecret("hostA")
	racee := c.compile("racee")
	for _, folder := range []string{"/", "/var/lib/ss", "/var", "/var/lib/ss/images", "/proc/1/root/var/lib/ss", "relative", "/srv/../srv",
		"/etc", "/usr", "/var/lib", "/run", "/root", "/proc/1/root/etc"} {
		_, stderr, exit := c.Ctl("run", "folders", "--host", "hostA", "--files", folder, "--", "sleep", "infinity")
		if exit != 2 || !strings.Contains(stderr, "folder") && !strings.Contains(stderr, "absolute") {
			t.Errorf("--files %s: exit code %d: %s", folder, exit, stderr)
		}
	}
	dir := c.Host("hostA").Path("/srv/user/up")
	must(t, errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 1000, 1000)))
	j := c.newJob("folders")
	j.keepsFolder(racee, "/srv/user/up")
	_, stderr, exit := c.Ctl("run", "other", "--host", "hostA", "--files", "/srv/user", "--", "sleep", "infinity")
	if exit != 2 || !strings.Contains(stderr, "of job folders") {
		t.Errorf("another job's folder: exit code %d: %s", exit, stderr)
	}
	c.MustCtl("job", "set", j.name, "--copies", "1")
	f := badInput{job: j}
	before := secret.now(t)
	must(t, os.Link(secret.dir+"/f", dir+"/hard"))
	f.refuseUntouched(4, []string{"/srv/user/up/hard", "of user 0"}, "snapshot", j.name)
	must(t, os.Remove(dir+"/hard"))

	must(t, errors.Join(os.Mkdir(dir+"/mounted", 0o755), os.Chown(dir+"/mounted", 1000, 1000)))
	cut := j.snapshot().Cut
	must(t, os.Symlink("/srv/secret/f", dir+"/link"))
	for _, name := range []string{"new", ".ss-new", "odd\n\x1b[31m\xff"} {
		must(t, errors.Join(os.WriteFile(dir+"/"+name, []byte("new"), 0o600), os.Chown(dir+"/"+name, 1000, 1000)))
	}
	if out, err := c.Host("hostA").Command(t.Context(), "mount", "--bind", "/srv/secret", "/srv/user/up/mounted").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, stderr, exit = c.Ctl("restore", cut, "--dry-run")
	if exit != 0 || !strings.Contains(stderr, "3 files in /srv/user/up are not in the cut") || strings.ContainsRune(stderr, 0x1b) || !utf8.ValidString(stderr) {
		t.Errorf("dry run: exit code %d: %q", exit, stderr)
	}
	j.restore(cut)
	j.awaitProgress()
	left, err := filepath.Glob(dir + "/*new")
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left in the folder: %q", left)
	}
	if _, err := os.Readlink(dir + "/link"); err != nil {
		t.Error(err)
	}
	if now := secret.now(t); now != before {
		t.Errorf("root's folder was\n%s\nand is\n%s", before, now)
	}
	noSecretIn(t, c)
	must(t, unix.Chmod(dir+"/d", 0o777))
	f.refuseUntouched(4, []string{"every user can make files in /srv/user/up/d"}, "snapshot", j.name)
	must(t, unix.Chmod(dir+"/d", 0o755))
	j.end()
	if out, err := c.Host("hostA").Command(t.Context(), "umount", "/srv/user/up/mounted").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
