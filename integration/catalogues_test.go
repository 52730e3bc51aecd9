package integration

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ss/integration/lab"
)

// catalogueFile is ssctl's catalogue on the host "admin", as the machine sees it.
func (c *cluster) catalogueFile() string {
	return c.Host(lab.AdminName).Path("/var/lib/ssctl/catalogue.db")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o600))
}

// fails runs ssctl, which must end with that exit code and say all of that.
func (c *cluster) fails(exit int, words []string, args ...string) string {
	c.t.Helper()
	stdout, stderr, got := c.Ctl(args...)
	text := stdout + stderr
	if got != exit {
		c.t.Errorf("ssctl %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, exit, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			c.t.Errorf("ssctl %s: no %q in\n%s", strings.Join(args, " "), w, text)
		}
	}
	return text
}

// TestOldAndDamagedCatalogues has ssctl's catalogue put back from an older copy, used twice at once, and damaged, with real agents: nothing that is committed is
// removed, what is wrong is said, and the command that the message names works. It needs root.
func TestOldAndDamagedCatalogues(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	old, newest := filepath.Join(c.Dir(), "old.db"), filepath.Join(c.Dir(), "newest.db")
	var cuts []string
	take := func() { cuts = append(cuts, j.snapshot().Cut) }
	take()
	copyFile(t, c.catalogueFile(), old)
	for range 3 {
		take()
	}
	copyFile(t, c.catalogueFile(), newest)
	allThere := func(when string) {
		t.Helper()
		list := c.MustCtl("list")
		for _, cut := range cuts {
			if !strings.Contains(list, cut) {
				t.Fatalf("%s: %s is not in\n%s", when, cut, list)
			}
			c.MustCtl("verify", cut)
		}
	}

	copyFile(t, old, c.catalogueFile())
	for _, args := range [][]string{{"snapshot", j.name}, {"snapshot", j.name}, {"gc"}, {"rm", cuts[0]}, {"rm", cuts[3], "--force"}, {"repair"}} {
		c.fails(8, []string{"not the newest", "catalog rebuild --replace"}, args...)
	}
	c.fails(0, []string{cuts[0]}, "list")
	c.fails(0, []string{"not the newest"}, "host", "list")
	copyFile(t, newest, c.catalogueFile())
	allThere("after the older copy was used")

	copyFile(t, old, c.catalogueFile())
	c.MustCtl("catalog", "rebuild", "--replace")
	allThere("made again from the older copy")
	c.MustCtl("gc")
	allThere("and collected")
	take()
	rebuilt := filepath.Join(c.Dir(), "rebuilt.db")
	copyFile(t, c.catalogueFile(), rebuilt)
	copyFile(t, newest, c.catalogueFile())
	c.fails(8, []string{"not the newest"}, "gc") // the other admin, who had the newest until then
	copyFile(t, rebuilt, c.catalogueFile())
	allThere("after the other admin's gc")

	for name, damage := range map[string]func([]byte){
		"its first pages": func(b []byte) { clear(b[:8192]) },
		"all from byte 1000 to 2000 of each page": func(b []byte) {
			for at := 2*4096 + 1000; at+1000 < len(b); at += 4096 {
				clear(b[at : at+1000])
			}
		},
	} {
		data, err := os.ReadFile(c.catalogueFile())
		must(t, err)
		damage(data)
		must(t, os.WriteFile(c.catalogueFile(), data, 0o600))
		text := c.fails(7, []string{"damaged", "catalog rebuild --replace"}, "list")
		command := regexp.MustCompile(`ssctl (--dir \S+ catalog rebuild --replace.*)`).FindStringSubmatch(text)
		if command == nil {
			t.Fatalf("%s: no command in\n%s", name, text)
		}
		args := strings.Fields(command[1])
		if i := slices.Index(args, "NAME=IP:PORT"); i >= 0 { // no host could be read in what is left of it
			args[i] = "hostA=" + c.Host("hostA").Addr().String() + ":7070"
		}
		c.MustCtl(args...)
		allThere(name + " damaged, and made again as the message says")
	}

	c.putBackMeanwhile(j, newest)
	take()
	allThere("after an older copy was put back while a snapshot ran")

	// A bit of a cut's signed manifest, on every copy.
	for _, host := range []string{"hostA", "hostB"} {
		path := c.Host(host).Path("/var/lib/ss/images/" + j.name + "/cuts/" + cuts[1])
		flip(t, path, sizeOf(t, path)/3)
	}
	c.fails(7, []string{"manifest", "ssctl repair " + cuts[1]}, "verify", cuts[1])
	c.MustCtl("repair", cuts[1])
	allThere("after a bit of a manifest was healed")
	c.MustCtl("rm", cuts[2])
	if list := c.MustCtl("list"); strings.Contains(list, cuts[2]) {
		t.Errorf("%s was removed, and is in\n%s", cuts[2], list)
	}
	c.MustCtl("kill", j.name)
	j.restore(cuts[1])
	j.awaitProgress()
	j.conclude()
}

// putBackMeanwhile puts an older catalogue back, as cp would, while an ssctl is at a snapshot. That ssctl finds that its attempt is gone, so there is no cut: it says
// so, and the job runs on.
func (c *cluster) putBackMeanwhile(j *job, older string) {
	c.t.Helper()
	run := c.ctlTrapped("hostB: storing", func(*lab.Cmd) { copyFile(c.t, older, c.catalogueFile()) }, "-o", "json", "snapshot", j.name)
	exit := run.ExitCode()
	if said := run.stderr.String() + run.stdout.String(); strings.Contains(said, "goroutine ") || exit <= 2 {
		c.t.Errorf("an older catalogue under a snapshot: exit code %d\n%s", exit, said)
	}
	c.fails(8, []string{"not the newest"}, "gc")
	c.MustCtl("catalog", "rebuild", "--replace") // from the same cuts as before: epochs that hosts have seen do not come again
	j.mustFlow("after an older catalogue was put back", soon)
}

// flipped is a file that was damaged: a bit of it is another one, or it was cut short.
type flipped struct {
	path, name string
	whole      []byte
	mode       fs.FileMode
}

// flipBit changes one bit.
func flipBit(rng *rand.Rand, whole []byte) []byte {
	bad := slices.Clone(whole)
	bit := rng.IntN(len(bad) * 8)
	bad[bit/8] ^= 1 << (bit % 8)
	return bad
}

// cutShort leaves the beginning, or nothing: what a loss of power does to a file that was not synced.
func cutShort(rng *rand.Rand, whole []byte) []byte {
	if rng.IntN(3) == 0 {
		return nil
	}
	return whole[:rng.IntN(len(whole))]
}

// damageFiles damages n files below a folder, drawn at random; fewer if there are no more.
func damageFiles(t *testing.T, rng *rand.Rand, root string, n int, damage func(*rand.Rand, []byte) []byte) []flipped {
	t.Helper()
	files := regularFiles(t, root)
	rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	var out []flipped
	for _, path := range files[:min(n, len(files))] {
		name, err := filepath.Rel(root, path)
		must(t, err)
		whole, err := os.ReadFile(path)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		out = append(out, flipped{path, name, whole, info.Mode().Perm()})
		if len(whole) > 0 {
			must(t, os.WriteFile(path, damage(rng, whole), info.Mode().Perm()))
		}
	}
	return out
}

func namesOf(flips []flipped) string {
	var names []string
	for _, f := range flips {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// TestBitFlips flips single bits in files of an agent's state folder and of ssctl's folder, drawn at random: nothing panics, the agent starts, another job goes
// on, and no cut is lost of which another copy is whole. In a quarter of the rounds files are cut short instead. SS_FLIPS says how many (1,000 is what issue D asks), SS_FLIPS_AT_ONCE in how many files
// at one time, SS_FLIPS_SEED which. It needs root.
func TestBitFlips(t *testing.T) {
	withoutRace(t)
	flips, atOnce, seed := rounds(t, "SS_FLIPS", 8), rounds(t, "SS_FLIPS_AT_ONCE", 1), rounds(t, "SS_FLIPS_SEED", 1)
	c := newCluster(t, "hostA", "hostB", "hostC")
	j := c.newJob("words")
	startWords(j)
	c.MustCtl("run", "other", "--host", "hostC", "--", "/bin/sleep", "100000")
	j.awaitProgress()
	cut := j.snapshot().Cut
	c.MustCtl("snapshot", "other")
	rng := rand.New(rand.NewPCG(uint64(seed), 9))
	count := map[string]int{}
	for done, round := 0, 0; done < flips; round++ {
		n := min(atOnce, flips-done)
		var flipped []flipped
		damage := flipBit
		if round%8 >= 6 {
			damage = cutShort
		}
		if round%4 == 3 {
			flipped = c.damageSsctl(rng, n, cut, damage)
		} else {
			flipped = c.damageAgent(rng, n, cut, damage)
		}
		for _, f := range flipped {
			count[strings.SplitN(f.name, "/", 2)[0]]++
		}
		done += max(len(flipped), 1)
		if round%20 == 19 {
			t.Logf("%d flips", done)
		}
		c.MustCtl("verify", cut)
	}
	t.Logf("seed %d, %d flips, %d at once, by folder or file: %v", seed, flips, atOnce, count)
	c.MustCtl("kill", "other")
	c.MustCtl("kill", "words")
	j.restore(cut)
	j.awaitProgress()
	j.conclude()
}

// damageAgent damages files of hostA's state folder while its agent is away.
func (c *cluster) damageAgent(rng *rand.Rand, n int, cut string, damage func(*rand.Rand, []byte) []byte) []flipped {
	c.t.Helper()
	agent := c.Agent("hostA")
	agent.Stop()
	flipped := damageFiles(c.t, rng, c.Host("hostA").Path("/var/lib/ss"), n, damage)
	agent.Start() // or the test ends here
	c.MustCtl("snapshot", "other")
	c.MustCtl("repair")
	c.MustCtl("verify", cut)
	if log := agent.Log(); strings.Contains(log, "panic:") {
		c.t.Fatalf("%s, damaged: the agent\n%s", namesOf(flipped), log)
	}
	agent.Stop()
	for _, f := range flipped {
		if _, err := os.Lstat(f.path); err == nil { // what was healed by removing it stays away
			must(c.t, os.WriteFile(f.path, f.whole, f.mode))
		} else if !errors.Is(err, fs.ErrNotExist) {
			c.t.Fatal(err)
		}
	}
	agent.Start()
	return flipped
}

// damageSsctl damages files of ssctl's folder. It runs nothing that changes the catalogue: the bytes from before that are an older copy, and are
// refused as one.
func (c *cluster) damageSsctl(rng *rand.Rand, n int, cut string, damage func(*rand.Rand, []byte) []byte) []flipped {
	c.t.Helper()
	flipped := damageFiles(c.t, rng, c.Host(lab.AdminName).Path("/var/lib/ssctl"), n, damage)
	for _, args := range [][]string{{"list"}, {"show", cut}, {"verify", cut}, {"gc", "--dry-run"}} {
		if stdout, stderr, exit := c.Ctl(args...); strings.Contains(stdout+stderr, "panic") || strings.Contains(stderr, "goroutine ") || exit == 2 {
			c.t.Errorf("%s, damaged: ssctl %s: exit code %d\n%s%s", namesOf(flipped), args, exit, stdout, stderr)
		}
	}
	for _, f := range flipped {
		must(c.t, os.WriteFile(f.path, f.whole, f.mode))
	}
	return flipped
}

// regularFiles lists the files below a folder that are not objects of images: those the store's own tests damage, and heal.
func regularFiles(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".lock") && !strings.Contains(path, "/criu/") {
			out = append(out, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
	return out
}
