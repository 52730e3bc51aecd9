package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/integration/lab"
)

// imageRoot is where an agent keeps its images (docs/format.md), as its host sees it.
const imageRoot = "/var/lib/ss/images"

// setManifest is what of an image set's manifest tests need.
type setManifest struct {
	Bytes int64
	Index struct{ SHA256 string }
	Packs []struct{ SHA256 string }
}

// set reads the manifest of an image set from its holder's disk.
func (j *job) set(holder, cut, source string) setManifest {
	j.t.Helper()
	data, err := j.Host(holder).ReadFile(j.setPath(cut, source))
	var m setManifest
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		j.t.Fatalf("images of %s on %s: %v", source, holder, err)
	}
	return m
}

func (j *job) setPath(cut, source string) string {
	return fmt.Sprintf("%s/%s/sets/%s/%s", imageRoot, j.name, cut, source)
}

// objects are the paths, on its holder, of the objects of an image set: packs first, the index last.
func (j *job) objects(holder, cut, source string) []string {
	j.t.Helper()
	m := j.set(holder, cut, source)
	var paths []string
	for _, p := range m.Packs {
		paths = append(paths, j.objectPath(holder, p.SHA256))
	}
	return append(paths, j.objectPath(holder, m.Index.SHA256))
}

func (j *job) objectPath(holder, digest string) string {
	return j.Host(holder).Path(fmt.Sprintf("%s/%s/objects/%s", imageRoot, j.name, digest))
}

// shownCut is what `ssctl show -o json` prints, as far as these tests care.
type shownCut struct {
	Cut   string
	Hosts []struct {
		Host, Manifest string
		Copies, Vaults []string
		NewBytes       int64 `json:"new_bytes"`
		WroteBytes     int64 `json:"wrote_bytes"`
		MovedBytes     int64 `json:"moved_bytes"`
	}
}

func (j *job) show(cut string) shownCut {
	j.t.Helper()
	var s shownCut
	j.CtlJSON(&s, "show", cut)
	return s
}

// holders are the hosts that hold one host's part of a cut.
func (j *job) holders(cut, source string) []string {
	j.t.Helper()
	for _, h := range j.show(cut).Hosts {
		if h.Host == source {
			return h.Copies
		}
	}
	j.t.Fatalf("cut %s has no part of %s", cut, source)
	return nil
}

// burn is the end of a host and of its disk.
func (c *cluster) burn(host string) {
	c.t.Helper()
	h := c.Host(host)
	h.PowerOff()
	for _, folder := range []string{"/var/lib/ss", "/srv"} {
		must(c.t, os.RemoveAll(h.Path(folder)))
	}
}

// TestHostsBurn loses a host with its disk, has the cuts brought back to their copies, loses the other one as well, and the job
// goes on from what is left. Then the catalogue burns.
func TestHostsBurn(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	first := j.snapshot("--label", "first")
	second := j.snapshot("--label", "second")
	j.awaitProgress()

	c.burn("hostA")
	c.MustCtl("host", "rm", "hostA", "--lost")
	t.Log(c.MustCtl("repair"))
	for _, cut := range []string{first.Cut, second.Cut} {
		for _, h := range j.show(cut).Hosts {
			if len(h.Copies) != 2 || slices.Contains(h.Copies, "hostA") {
				t.Errorf("after the repair %s's part of %s is on %v", h.Host, cut, h.Copies)
			}
		}
	}
	c.burn("hostB")
	j.restore(second.Cut, "hostA=hostC", "hostB=hostD")
	j.awaitProgress()

	before := c.MustCtl("list")
	must(t, os.Remove(c.Host(lab.AdminName).Path("/var/lib/ssctl/catalogue.db")))
	if _, stderr, exit := c.Ctl("list"); exit != 10 || !strings.Contains(stderr, "catalog rebuild") {
		t.Errorf("without a catalogue: exit code %d\n%s", exit, stderr)
	}
	t.Log(c.MustCtl("catalog", "rebuild", "--host", fmt.Sprintf("hostC=%s:7070", c.Host("hostC").Addr())))
	if after := c.MustCtl("list"); after != before {
		t.Errorf("the catalogue made again lists\n%s\nand not\n%s", after, before)
	}
	j.restore(first.Cut, "hostA=hostC", "hostB=hostD")
	j.awaitProgress()
	third := j.snapshot() // of a job that the catalogue knows from its cuts alone
	c.MustCtl("verify", third.Cut, "--read-data")
	j.finish()
	j.end()
	j.checkLeaks()
}

// TestVault keeps the copies in an object store, and restores from it what no host has any more.
func TestVault(t *testing.T) {
	withoutRace(t)
	s3 := newObjectStore(t)
	l := lab.New(t, "hostA", "hostB", "hostC")
	c := &cluster{Lab: l, t: t}
	l.Init()
	s3.serve(c)
	for _, h := range l.Hosts() {
		l.Agent(h.Name).Env = s3.environment()
	}
	l.StartAgents()
	j := c.newJob("words")
	startWords(j)
	c.MustCtl("job", "set", j.name, "--copies", "2", "--vault", s3.url(objectBucket+"/words"))
	j.awaitProgress()
	j.snapshot()
	cut := j.snapshot()
	for _, h := range j.show(cut.Cut).Hosts {
		if !slices.Equal(h.Copies, []string{h.Host}) || !slices.Equal(h.Vaults, []string{s3.url(objectBucket + "/words")}) {
			t.Errorf("%s's part is on %v and in %v", h.Host, h.Copies, h.Vaults)
		}
	}
	c.MustCtl("verify", cut.Cut, "--read-data")

	// A snapshot that the vault does not take is none.
	s3.stop()
	_, stderr, exit := c.Ctl("snapshot", j.name)
	if exit != 9 || !strings.Contains(stderr, "s3://"+objectBucket) {
		t.Errorf("snapshot without its vault: exit code %d\n%s", exit, stderr)
	}
	j.mustFlow("after a snapshot without its vault", theLease+noise)
	s3.serve(c)

	c.burn("hostA")
	c.burn("hostB")
	c.Host("hostB").PowerOn()
	c.Agent("hostB").Start()
	j.restore(cut.Cut, "hostA=hostC")
	j.awaitProgress()
	c.MustCtl("rm", cut.Cut)
	t.Log(c.MustCtl("gc"))
	s3.stop()
	j.conclude()
}

// TestHeal damages images on one host after the other. A copy that is whole mends them; where none is, nothing is touched.
func TestHeal(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	cut := j.snapshot().Cut
	own, other := "hostB", ""
	for _, h := range j.holders(cut, own) {
		if h != own {
			other = h
		}
	}
	damage := map[string]func(path string){
		"a flipped bit": func(path string) { flip(t, path, sizeOf(t, path)/2) },
		"a lost end":    func(path string) { must(t, os.Truncate(path, sizeOf(t, path)/3)) },
		"a lost file":   func(path string) { must(t, os.Remove(path)) },
	}
	for what, strike := range damage {
		for _, path := range j.objects(own, cut, own) {
			strike(path)
		}
		strike(j.Host(own).Path(j.setPath(cut, own)))
		_, stderr, exit := c.Ctl("verify", cut)
		if exit != 7 || !strings.Contains(stderr, own) || !strings.Contains(stderr, "ssctl repair") {
			t.Errorf("%s: verify: exit code %d\n%s", what, exit, stderr)
		}
		j.restore(cut)
		j.mustFlow("restored over "+what, soon)
		c.MustCtl("verify", cut, "--read-data")

		// And the other way round: repair does it, too.
		strike(j.objects(other, cut, own)[0])
		if _, _, exit := c.Ctl("verify", cut); exit != 7 {
			t.Errorf("%s on %s: verify: exit code %d", what, other, exit)
		}
		t.Log(c.MustCtl("repair"))
		c.MustCtl("verify", cut, "--read-data")
	}
	// No copy is whole.
	for _, h := range []string{own, other} {
		flip(t, j.objects(h, cut, own)[0], 1000)
	}
	before := c.instances(own, "words")
	_, stderr, exit := c.Ctl("restore", cut)
	if exit != 7 || !strings.Contains(stderr, own) {
		t.Errorf("no copy is whole: exit code %d\n%s", exit, stderr)
	}
	if after := c.instances(own, "words"); !slices.Equal(before, after) {
		t.Errorf("no copy is whole: processes were %v and are %v", before, after)
	}
	j.mustFlow("after a restore that was refused", soon)
	j.conclude()
}

// TestRoom keeps two cuts of a job, one of them pinned, and has what nobody needs any more collected.
func TestRoom(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	vault := filepath.Join(c.Dir(), "vault")
	must(t, os.Mkdir(vault, 0o700))
	c.MustCtl("job", "set", j.name, "--keep-last", "2", "--copies", "3", "--vault", "file://"+vault)
	j.awaitProgress()
	var cuts []string
	images := map[string]int64{} // of the last one, by host
	for i := range 4 {
		cut := j.snapshot()
		cuts = append(cuts, cut.Cut)
		for _, m := range cut.Members {
			images[m.Host] = m.ImageBytes
		}
		if i == 0 {
			c.MustCtl("pin", cuts[0])
		}
	}
	if got, want := j.cuts(), []string{cuts[0], cuts[2], cuts[3]}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	shown := j.show(cuts[3])
	for _, h := range shown.Hosts {
		if len(h.Copies) != 2 || len(h.Vaults) != 1 {
			t.Errorf("%s's part is on %v and in %v", h.Host, h.Copies, h.Vaults)
		}
		// What the programs' buffers hold is another at each instant; their ballast of 16 MiB is not.
		if most := images[h.Host] - 15<<20; h.NewBytes > most {
			t.Errorf("%d of the %d bytes of %s are called new: at most %d can be", h.NewBytes, images[h.Host], h.Host, most)
		}
	}
	t.Log(c.MustCtl("df"))
	if _, stderr, exit := c.Ctl("rm", cuts[0]); exit != 4 || !strings.Contains(stderr, "pin") {
		t.Errorf("rm of a pinned cut: exit code %d\n%s", exit, stderr)
	}
	c.MustCtl("unpin", cuts[0])
	t.Log(c.MustCtl("gc"))
	if got, want := j.cuts(), cuts[2:]; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	j.imagesMatch()
	for _, cut := range cuts[2:] {
		c.MustCtl("verify", cut, "--read-data")
	}
	j.restore(cuts[2])
	j.awaitProgress()
	for _, cut := range j.cuts() {
		c.MustCtl("rm", cut)
	}
	c.MustCtl("gc")
	for _, h := range c.Hosts() {
		if left, err := filepath.Glob(h.Path(imageRoot) + "/*/objects/*"); err != nil || len(left) > 0 {
			t.Errorf("objects of no cut on %s: %v %v", h.Name, left, err)
		}
	}
	if left, err := filepath.Glob(vault + "/*/objects/*"); err != nil || len(left) > 0 {
		t.Errorf("objects of no cut in the vault: %v %v", left, err)
	}
	j.conclude()
}

// TestExport takes a cut out of one cluster, in a file, and into another that has never heard of it.
func TestExport(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	snapshot := j.snapshot()
	cut := snapshot.Cut
	file := filepath.Join(c.Dir(), "cut.tar")
	c.MustCtl("export", cut, file)
	c.MustCtl("kill", j.name)

	folder := t.TempDir()
	onMachine(t, folder, "tar", "-xf", file)
	onMachine(t, folder, "sha256sum", "--check", "--quiet", "SHA256SUMS")
	for _, m := range snapshot.Members {
		readByOthers(t, filepath.Join(folder, m.Host, m.Name), cut, m.Name)
	}
	c.StartOver()
	damaged := filepath.Join(c.Dir(), "damaged.tar")
	onMachine(t, "/", "cp", file, damaged)
	flip(t, damaged, sizeOf(t, damaged)/2)
	if _, stderr, exit := c.Ctl("import", damaged); exit != 7 {
		t.Errorf("import of a damaged file: exit code %d\n%s", exit, stderr)
	}
	if got := c.MustCtl("list"); strings.Contains(got, cut) {
		t.Errorf("a damaged file has become a cut:\n%s", got)
	}
	if _, stderr, exit := c.Ctl("import", file, "--host", "hostA=hostC"); exit != 2 || !strings.Contains(stderr, "--job") {
		t.Errorf("import of another cluster's cut without the job's name: exit code %d\n%s", exit, stderr)
	}
	c.MustCtl("import", file, "--host", "hostA=hostC", "--job", j.name)
	c.MustCtl("verify", cut, "--read-data")
	j.restore(cut, "hostA=hostC")
	j.awaitProgress()
	j.conclude()
}

// readByOthers has checkpointctl and crit read a member of an export that was unpacked: programs of others, which know CRIU's images.
func readByOthers(t *testing.T, dir, cut, member string) {
	t.Helper()
	program := func(name string) string {
		path, err := lab.Binary(name)
		must(t, err)
		return path
	}
	says := func(text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in\n%s", member, w, text)
			}
		}
	}
	checkpoint := filepath.Join(t.TempDir(), "member.tar")
	onMachine(t, dir, "tar", "-cf", checkpoint, ".")
	checkpointctl, crit := program("checkpointctl"), program("crit")
	says(onMachine(t, dir, checkpointctl, "show", checkpoint), member, "ss")
	says(onMachine(t, dir, checkpointctl, "inspect", checkpoint, "--all"), member, cut, "words", "CRIU dump statistics", "TCP (ESTABLISHED)")
	says(onMachine(t, dir, checkpointctl, "memparse", checkpoint), "words")

	images, err := filepath.Glob(filepath.Join(dir, "checkpoint", "*"))
	must(t, err)
	read := 0
	for _, path := range images {
		name := filepath.Base(path)
		if !strings.HasSuffix(name, ".img") || strings.HasPrefix(name, "pages-") {
			continue
		}
		read++
		if strings.HasPrefix(name, "tcp-stream-") { // this crit makes no JSON of what is in the queues: it quotes its own quotation marks
			says(onMachine(t, dir, crit, "info", path), "TCP_STREAM")
			continue
		}
		says(onMachine(t, dir, crit, "show", path), `"magic"`)
	}
	if read < 5 {
		t.Errorf("%s: %d images that crit reads", member, read)
	}
	says(onMachine(t, dir, crit, "x", filepath.Join(dir, "checkpoint"), "ps"), "words")
}

// onMachine runs a program on the machine and returns what it printed.
func onMachine(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull has a host's disk become full at 64 different places of a snapshot: the job goes on, nothing partial is left, and the next
// snapshot succeeds when there is room again.
func TestDiskFull(t *testing.T) {
	withoutRace(t)
	const (
		offsets = 64
		images  = 48 << 20 // of hostB's member, about: what is dumped, and then stored
		roomy   = 1 << 30
	)
	l := lab.New(t, "hostA", "hostB", "hostC")
	c := &cluster{Lab: l, t: t}
	disk := l.Host("hostB").LimitDisk("/var/lib/ss", roomy)
	l.StartAgents()
	j := c.newJob("words")
	addr := c.Host("hostB").Addr().String() + ":9001"
	j.program("serve", "hostB", "words", "serve", "-listen", addr, "-ballast", "40")
	j.program("connect", "hostA", "words", "connect", "-to", addr, "-ballast", "8", "-until", j.stop)
	j.awaitProgress()
	failed := 0
	for i := range offsets {
		phase := []string{"hostB: dumping", "hostB: storing"}[i%2]
		room := int64(i) * images / offsets
		run := c.ctlTrapped(phase, func(*lab.Cmd) { disk.Leave(room) }, "snapshot", j.name)
		exit := run.ExitCode()
		if exit == 9 {
			failed++
		}
		if said := lastSaid(run.stderr.String()); exit != 0 && (exit != 9 || !strings.Contains(said, "hostB") || !strings.Contains(said, "is full")) {
			t.Errorf("%d bytes free at %s: exit code %d\n%s", room, phase, exit, said)
		}
		if err := j.flows(time.Now().Add(theLease + noise)); err != nil {
			t.Fatalf("%d bytes free at %s: %v\n%s", room, phase, err, run.stderr)
		}
		j.nothingLeft()
		disk.Leave(roomy)
		if exit == 0 || i%16 == 15 {
			cut := j.snapshot().Cut
			c.MustCtl("verify", cut, "--read-data")
			for _, id := range j.cuts() { // with one to build on, the next would store hardly anything
				c.MustCtl("rm", id)
			}
		}
	}
	t.Logf("%d of %d snapshots failed", failed, offsets)
	if failed < offsets/2 {
		t.Errorf("%d of %d snapshots met a full disk: that shows too little", failed, offsets)
	}
	// Where it can be seen beforehand, nobody is frozen for it.
	disk.Leave(4 << 20)
	_, stderr, exit := c.Ctl("snapshot", j.name)
	if exit != 4 || !strings.Contains(stderr, "hostB") || !strings.Contains(stderr, "MiB are free") {
		t.Errorf("hardly any room: exit code %d\n%s", exit, stderr)
	}
	disk.Leave(roomy)
	j.conclude()
}
