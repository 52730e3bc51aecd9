package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// raceRounds is how often TestFilesRace takes a snapshot and restores: 20 times in CI, and as often as SS_RACE_ROUNDS says.
func raceRounds(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("SS_RACE_ROUNDS"))
	if os.Getenv("SS_RACE_ROUNDS") == "" {
		return 20
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// secret is a folder of root's that nobody else may look into, with the names that the race is about.
type secret struct {
	dir string // as the machine sees it
	was string
}

func (c *cluster) newSecret(host string) *secret {
	c.t.Helper()
	s := &secret{dir: c.Host(host).Path("/srv/secret")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	for _, name := range []string{"f", "a", "r"} {
		// As long, and of the same mode, as the user's file of that name.
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte("SECRET\n"), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	s.was = s.state(c.t)
	return s
}

// state is all that an attack could change in the folder.
func (s *secret) state(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		var st unix.Stat_t
		path := filepath.Join(s.dir, e.Name())
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s inode %d user %d:%d mode %o mtime %d.%d %q\n", e.Name(), st.Ino, st.Uid, st.Gid, st.Mode, st.Mtim.Sec, st.Mtim.Nsec, text)
	}
	return b.String()
}

// TestFilesRace needs root. A user's program exchanges folder and files of a member for links, FIFOs and hard links as fast as it can while
// snapshots are taken and restored. These may fail, but no byte of a root file leaves, none is written, and nothing hangs.
func TestFilesRace(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	folder := c.userFolder()
	secrets := []*secret{c.newSecret("hostA"), c.newSecret("hostB")}
	racee, racer := c.compile("racee"), c.compile("racer")
	for _, h := range c.Hosts() {
		for _, dir := range []string{"/srv/user/d"} {
			if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(h.Path(dir), 1000, 1000); err != nil {
				t.Fatal(err)
			}
		}
		race := h.Command(t.Context(), asUser(racer, folder, "/srv/secret")...).LogTo("/srv/racer.log")
		if err := race.Start(); err != nil {
			t.Fatal(err)
		}
		defer race.Kill()
		await(t, "the racer", func() string {
			log, _ := h.ReadFile("/srv/racer.log") // it is made in a moment
			if !strings.Contains(string(log), "ready") {
				return string(log)
			}
			return ""
		})
	}
	var j *job
	cuts, restores, refused := 0, 0, map[string]int{}
	note := func(stderr string) { refused[shortly(stderr)]++ }
	for round := range raceRounds(t) {
		if j == nil {
			j = c.newJob(fmt.Sprintf("race%d", round))
			j.serve("racee", "hostA", asUser(racee, folder)...)
			j.awaitProgress()
		}
		var s Snapshot
		stdout, stderr, exit := c.Ctl("-o", "json", "snapshot", j.name)
		if exit == 0 {
			cuts++
			s = decode(t, stdout)
			args := []string{"restore", s.Cut}
			host := "hostA"
			if round%2 == 1 {
				host = "hostB"
				args = append(args, "--remap", j.members[0].host+"=hostB")
			}
			if j.members[0].host == "hostB" {
				host = "hostB"
				args = args[:2]
			}
			_, stderr, exit = c.Ctl(args...)
			if exit == 0 {
				restores++
				j.members[0].host = host
			}
		}
		if exit != 0 {
			note(stderr)
		}
		for _, m := range j.members {
			if log := j.log(m); strings.Contains(log, "FAIL") {
				t.Fatalf("round %d:\n%s", round, log)
			}
		}
		for _, s := range secrets {
			if now := s.state(t); now != s.was {
				t.Fatalf("round %d: root's folder was\n%s\nand is\n%s", round, s.was, now)
			}
		}
		noSecretIn(t, c)
		var ps Members
		c.CtlJSON(&ps, "ps", j.name)
		if len(ps.Members) == 0 || ps.Members[0].State != "running" || exit != 0 || round%4 == 3 {
			c.Ctl("kill", j.name) // it may have been ended by a restore that failed; a new one makes its files again
			j = nil
		}
	}
	t.Logf("%d rounds: %d cuts, %d restores; refused: %v", raceRounds(t), cuts, restores, refused)
	if cuts == 0 || restores == 0 {
		t.Errorf("%d cuts and %d restores: the race proves nothing", cuts, restores)
	}
	if j != nil {
		j.end()
	}
}

// noSecretIn looks for what must not have come into the user's folder.
func noSecretIn(t *testing.T, c *cluster) {
	t.Helper()
	for _, h := range c.Hosts() {
		err := filepath.WalkDir(h.Path("/srv/user"), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // it was exchanged meanwhile
			}
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil //nolint:nilerr // it was exchanged meanwhile
			}
			f := os.NewFile(uintptr(fd), path)
			defer f.Close()
			var st unix.Stat_t
			buf := make([]byte, 4096)
			if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 1000 {
				return nil
			}
			n, _ := f.Read(buf)
			if strings.Contains(string(buf[:n]), "SECRET") {
				return fmt.Errorf("%s of user 1000 holds a secret", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// shortly is the kind of an error: CRIU's first words, or the last of ours.
func shortly(stderr string) string {
	line := regexp.MustCompile(`[0-9]{8}-[0-9]{6}-[a-z0-9]{4}|race[0-9]+|[0-9]+`).ReplaceAllString(lastLine(stderr), "#")
	if i := strings.Index(line, "hostA-#: "); i >= 0 {
		line = line[i:]
	}
	return "\n  " + line[:min(len(line), 220)]
}

func decode(t *testing.T, stdout string) Snapshot {
	t.Helper()
	var s Snapshot
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatal(err)
	}
	return s
}
