package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
	"ss/orchestrator"
)

// mishap is one row: which process is killed while ssctl looks after what is stored, at which of its lines. In all of these OTHER stands for the other
// host that is to hold hostB's images, CUT for a cut, VAULT and FILE for what their names say.
type mishap struct {
	op     string // what ssctl does
	ready  func(u *upkeepRig)
	at     string // its line
	victim string // "ssctl", or a host, whose agent it is
	exits  []int  // of ssctl, where it is not the victim, or may be done before the blow comes
	again  []int  // of the same command afterwards
}

var (
	succeeds = []int{0}
	// One host less: done without it, fewer copies than there should be, or it is what was missing.
	shortOfOne = []int{0, 4, 5}
)

var mishaps = []mishap{
	{"repair", (*upkeepRig).damageVault, "hostB: copying CUT, images of hostB, to the vault", "ssctl", nil, succeeds},
	{"repair", (*upkeepRig).damageVault, "hostB: copying CUT, images of hostB, to the vault", "hostB", shortOfOne, succeeds},
	{"repair", (*upkeepRig).loseCopy, "OTHER: fetching CUT, images of hostB", "ssctl", nil, succeeds},
	{"repair", (*upkeepRig).loseCopy, "OTHER: fetching CUT, images of hostB", "hostB", shortOfOne, succeeds},
	{"repair", (*upkeepRig).loseCopy, "OTHER: fetching CUT, images of hostB", "OTHER", shortOfOne, succeeds},
	{"gc", (*upkeepRig).expire, "hostB: collecting", "ssctl", nil, succeeds},
	{"gc", (*upkeepRig).expire, "hostB: collecting", "hostB", []int{0, 5}, succeeds},
	{"gc", (*upkeepRig).leaveHalf, "VAULT: collecting", "ssctl", succeeds, succeeds},
	{"rm CUT", (*upkeepRig).another, "hostB: removing CUT", "ssctl", nil, []int{10}}, // it is gone, and its images are gc's
	{"rm CUT", (*upkeepRig).another, "hostB: removing CUT", "hostB", succeeds, []int{10}},
	{"rm CUT", (*upkeepRig).another, "VAULT: collecting", "ssctl", succeeds, []int{10}},
	{"export CUT FILE", nil, "hostB: exporting", "ssctl", nil, succeeds},
	{"export CUT FILE", nil, "hostB: exporting", "hostB", []int{0, 5}, []int{0, 8}},
	{"import FILE", (*upkeepRig).takeOut, "hostB: taking the images of hostB", "ssctl", nil, succeeds},
	{"import FILE", (*upkeepRig).takeOut, "hostB: taking the images of hostB", "hostB", []int{5}, succeeds},
	{"import FILE", (*upkeepRig).takeOut, "hostB: storing the images of hostB", "ssctl", nil, succeeds},
	{"import FILE", (*upkeepRig).takeOut, "OTHER: fetching the images of hostB", "ssctl", nil, succeeds},
	{"import FILE", (*upkeepRig).takeOut, "OTHER: fetching the images of hostB", "OTHER", []int{0, 1, 5}, []int{0, 8}},
	{"catalog rebuild --host hostA=ADDR", (*upkeepRig).loseCatalogue, "hostB: asking", "ssctl", nil, succeeds},
	{"catalog rebuild --host hostA=ADDR", (*upkeepRig).loseCatalogue, "VAULT: asking", "ssctl", succeeds, []int{0, 8}},
	{"catalog rebuild --host hostA=ADDR", (*upkeepRig).loseCatalogue, "hostB: asking", "hostB", []int{0, 10}, []int{0, 8}},
}

// TestUpkeepFaults kills ssctl and agents while cuts are repaired, collected, removed, exported, imported and found again. The job notices nothing,
// the same command succeeds afterwards, and what is stored is whole, and no more than it should be.
func TestUpkeepFaults(t *testing.T) {
	withoutRace(t)
	var u *upkeepRig
	for _, m := range mishaps {
		name := strings.NewReplacer(" ", "-", ":", "", ",", "", "=", "-").Replace(m.op + "/" + m.victim + "/" + m.at)
		ok := t.Run(name, func(t *testing.T) {
			if u == nil {
				u = newUpkeepRig(t)
			}
			u.rig.use(t)
			u.meet(m)
		})
		if u != nil && !ok {
			u.rig.use(t)
			u.rig.relay.close() // what a failed row has left must not spoil the next
			u = nil
		}
	}
	if u != nil {
		u.rig.use(t)
		u.conclude()
		u.rig.relay.close()
	}
}

// upkeepRig is a cluster with a job whose cuts are on two hosts and in a vault.
type upkeepRig struct {
	*job
	rig   *rig
	vault string // its folder
	file  string // of the export of this row
	cut   string // of this row
	other string
	row   int
}

func newUpkeepRig(t *testing.T) *upkeepRig {
	t.Helper()
	r := newRig(t, "hostA", "hostB", "hostC")
	j := r.newJob("words")
	u := &upkeepRig{job: j, rig: r, vault: filepath.Join(r.Dir(), "vault")}
	must(t, os.Mkdir(u.vault, 0o700))
	startWords(j)
	r.MustCtl("job", "set", j.name, "--copies", "3", "--vault", "file://"+u.vault)
	j.awaitProgress()
	u.cut = j.snapshot().Cut
	u.other = u.otherHolder()
	return u
}

// otherHolder is the host that gets a copy of hostB's images when all hosts answer. A snapshot does not wait for a host without members, so a cut's
// copy may be on the other one.
func (u *upkeepRig) otherHolder() string {
	return orchestrator.OrderHolders(u.name, "hostB", []orchestrator.Candidate{{Name: "hostA"}, {Name: "hostB"}, {Name: "hostC"}}, 0)[0]
}

// words puts what this row has in place of what stands for it.
func (u *upkeepRig) words(s string) string {
	return strings.NewReplacer("OTHER", u.other, "CUT", u.cut, "VAULT", "file://"+u.vault, "FILE", u.file,
		"ADDR", u.Host("hostA").Addr().String()+":7070").Replace(s)
}

// meet carries out one row.
func (u *upkeepRig) meet(m mishap) {
	t := u.t
	t.Helper()
	u.row++
	u.file = filepath.Join(u.Dir(), fmt.Sprintf("cut-%d.tar", u.row))
	if m.ready != nil {
		m.ready(u)
	}
	victim := u.words(m.victim)
	args := strings.Fields(u.words(m.op))
	run := u.ctlTrapped(u.words(m.at), func(ctl *lab.Cmd) {
		if victim == "ssctl" {
			_ = ctl.Process.Kill()
		} else {
			_ = unix.Kill(u.Agent(victim).Pid(), unix.SIGKILL)
		}
	}, args...)
	if victim != "ssctl" {
		<-u.Agent(victim).Done()
	}
	exit := run.ExitCode()
	t.Logf("exit %d\n%s%s", exit, run.stderr, &run.stdout)
	if killed := victim == "ssctl" && exit == -1; !killed && !slices.Contains(m.exits, exit) {
		t.Errorf("exit code %d, want %v", exit, m.exits)
	}
	u.mustFlow("after the fault", soon)
	if victim != "ssctl" {
		u.Agent(victim).Start()
	}
	u.aftermath(m, args)
}

// aftermath does it again, and looks at everything.
func (u *upkeepRig) aftermath(m mishap, args []string) {
	t := u.t
	t.Helper()
	if stdout, stderr, exit := u.Ctl(args...); !slices.Contains(m.again, exit) {
		t.Errorf("the same again: exit code %d, want %v\n%s%s", exit, m.again, stdout, stderr)
	}
	u.MustCtl("gc")
	u.MustCtl("repair")
	cuts := u.cuts()
	if len(cuts) == 0 {
		t.Fatal("no cut is left")
	}
	for _, cut := range cuts {
		u.MustCtl("verify", cut, "--read-data")
	}
	u.imagesMatch()
	u.vaultMatches(cuts)
	u.nothingLeft()
	u.mustFlow("in the end", soon)
	for _, name := range []string{u.file, u.file + ".partial"} {
		if err := os.Remove(name); err == nil && strings.HasSuffix(name, ".partial") {
			t.Errorf("%s is left", name)
		}
	}
	if locks, err := filepath.Glob(u.Host(lab.AdminName).Path("/var/lib/ssctl/attempts") + "/*"); err != nil || len(locks) > 1 {
		t.Errorf("attempts of nobody: %v, %v", locks, err) // the next that begins removes one
	}
}

// vaultMatches checks that the vault holds the images and the manifests of the cuts, and of no others.
func (u *upkeepRig) vaultMatches(cuts []string) {
	t := u.t
	t.Helper()
	for _, kind := range []string{"sets", "cuts"} {
		entries, err := os.ReadDir(filepath.Join(u.vault, u.name, kind))
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if want := slices.Sorted(slices.Values(cuts)); !slices.Equal(got, want) {
			t.Errorf("%s in the vault: %v, want %v", kind, got, want)
		}
	}
}

// loseCopy takes the copy of hostB's images from the other host that holds it, and its objects.
func (u *upkeepRig) loseCopy() {
	for _, h := range u.holders(u.cut, "hostB") {
		if h == "hostB" {
			continue
		}
		must(u.t, os.RemoveAll(u.Host(h).Path(u.setPath(u.cut, "hostB"))))
		for _, path := range u.objects("hostB", u.cut, "hostB") {
			must(u.t, os.Remove(u.Host(h).Path(fmt.Sprintf("%s/%s/objects/%s", imageRoot, u.name, filepath.Base(path)))))
		}
	}
}

// damageVault flips a bit in the vault.
func (u *upkeepRig) damageVault() {
	path := filepath.Join(u.vault, u.name, "objects", filepath.Base(u.objects("hostB", u.cut, "hostB")[0]))
	flip(u.t, path, sizeOf(u.t, path)/2)
}

// another takes another cut, which is the row's.
func (u *upkeepRig) another() {
	u.cut = u.snapshot().Cut
	u.t.Cleanup(func() {
		cuts := u.cuts()
		u.cut = cuts[0]
		for _, cut := range cuts[1:] {
			u.MustCtl("rm", cut)
		}
	})
}

// expire makes a cut one too many.
func (u *upkeepRig) expire() {
	u.snapshot()
	u.cut = u.cuts()[1]
	u.MustCtl("job", "set", u.name, "--keep-last", "1")
	u.t.Cleanup(func() { u.MustCtl("job", "set", u.name, "--keep-last", "0") })
}

// leaveHalf leaves a snapshot of which nobody knows the end.
func (u *upkeepRig) leaveHalf() {
	run := u.ctlTrapped("hostB: storing", func(ctl *lab.Cmd) { _ = ctl.Process.Kill() }, "snapshot", u.name)
	run.ExitCode()
	u.mustFlow("after a snapshot without an end", soon)
}

// takeOut exports the row's cut and removes it.
func (u *upkeepRig) takeOut() {
	u.another() // so that the job is never without one
	u.MustCtl("export", u.cut, u.file)
	u.MustCtl("rm", u.cut)
}

// loseCatalogue burns the catalogue, with what is known of attempts.
func (u *upkeepRig) loseCatalogue() {
	must(u.t, os.Remove(u.Host(lab.AdminName).Path("/var/lib/ssctl/catalogue.db")))
}
