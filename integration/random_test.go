package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How many random jobs are run, and the number of the first one. A job is a function of its number: SS_JOBS=1 SS_JOBS_SEED=n runs job n alone.
// SS_JOBS_OFF names kinds that are not drawn, with commas between them, to look for what fails beside a known failure. It changes every job.
const (
	jobsVariable     = "SS_JOBS"
	jobsSeedVariable = "SS_JOBS_SEED"
	jobsOffVariable  = "SS_JOBS_OFF"
	jobsDefault      = 180
	jobsFirst        = 20000 // CI runs the same jobs each time; make jobs draws others
	failuresMax      = 12    // after so many the rest is not run
)

// number reads an environment variable.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestRandomJobs runs jobs that are drawn at random: members that hold files, names, sockets, timers and processes of every kind that
// testdata/objects knows. Of each a cut is taken and put back in place; then the job is moved at random. What must hold: a cut
// that is taken can be put back in place; what --dry-run lets pass does not fail; every object of every member is
// as it should be after each step; and each refusal is one that the judge (random_judge_test.go) expects.
//
// SS_JOBS is their number (180), SS_JOBS_SEED the first one's (20000; make jobs takes it from the clock). Their memory is copied while they stand still, as
// they are small; SS_MEMORY=tracked has it tracked. It needs root and gcc.
func TestRandomJobs(t *testing.T) {
	withoutRace(t)
	randomJobs(t, "", number(t, jobsSeedVariable, jobsFirst), number(t, jobsVariable, jobsDefault))
}

// TestRandomJobsRace runs a ninth as many jobs more, the next ones, with the programs that all other tests have: in CI those with the race detector. Their memory
// is tracked, however small they are.
func TestRandomJobsRace(t *testing.T) {
	count := number(t, jobsVariable, jobsDefault)
	randomJobs(t, "tracked_from: 0\n", number(t, jobsSeedVariable, jobsFirst)+count, (count+8)/9)
}

// randomJobs runs jobs on hosts whose agent.yaml has some more lines.
func randomJobs(t *testing.T, config string, first, count uint64) {
	t.Helper()
	for k := range strings.FieldsFuncSeq(os.Getenv(jobsOffVariable), func(r rune) bool { return r == ',' }) {
		off[k] = jobsOffVariable + " says so"
	}
	t.Logf("%s=%d %s=%d %s=%s", jobsSeedVariable, first, jobsVariable, count, jobsOffVariable, os.Getenv(jobsOffVariable))
	r := newRandomRig(t, config)
	failures := 0
	for seed := first; seed < first+count; seed++ {
		j := draw(seed, r.names, r.addr)
		if err := r.play(j); err != nil {
			failures++
			t.Errorf("%s=%d: %v\n%s", jobsSeedVariable, seed, err, j)
			if failures == int(number(t, "SS_JOBS_FAILURES", failuresMax)) {
				t.Fatalf("that were %d failures; the rest is not run", failures)
			}
		}
		if err := r.clear(j); err != nil {
			t.Fatalf("%s=%d: the job cannot be removed: %v\n%s", jobsSeedVariable, seed, err, j)
		}
	}
	t.Log(r.tally)
	r.judgeTally(count)
	r.checkLeaks()
}

// randomRig is the cluster that random jobs run on, one after the other.
type randomRig struct {
	*cluster
	names   []string
	addr    map[string]string
	program string
	tally   tally
}

func newRandomRig(t *testing.T, config string) *randomRig {
	t.Helper()
	names := []string{"hostA", "hostB", "hostC", "hostD"}
	r := &randomRig{cluster: newClusterWith(t, config, names...), names: names, addr: map[string]string{}, tally: tally{kinds: map[string]int{}}}
	for _, h := range names {
		r.addr[h] = r.Host(h).Addr().String()
		must(t, os.Chmod(r.Host(h).Path("/srv"), 0o755)) // members of other users have folders below it
	}
	r.program = filepath.Join(r.Dir(), "objects")
	sources, err := filepath.Glob("testdata/objects/*.c")
	must(t, err)
	// Static, so that it runs in a root folder of its own.
	out, err := exec.CommandContext(t.Context(), "gcc", append([]string{"-O1", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-o", r.program}, sources...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return r
}

// judgeTally checks that enough was accepted and everything drawn, where enough jobs were run to say so.
func (r *randomRig) judgeTally(jobs uint64) {
	r.t.Helper()
	if jobs < jobsDefault {
		return
	}
	if r.tally.cutsTaken*10 < (r.tally.cuts-r.tally.cutsRefused)*8 {
		r.t.Error("less than 80 % of the cuts were taken")
	}
	// Of a drawn move the judge often can't tell whether it is feasible: those do not count, and a tenth of the jobs must have one that does.
	if r.tally.movesMade*10 < r.tally.moves*8 || r.tally.moves*10 < int(jobs) {
		r.t.Error("less than 80 % of the feasible moves were made, or too few were drawn")
	}
	want := []string{"root", "uid"}
	for _, k := range drawn {
		want = append(want, k.name)
	}
	for _, k := range append(want, pairs...) {
		if _, not := off[k]; !not && r.tally.kinds[k] == 0 {
			r.t.Errorf("no %s was drawn", k)
		}
	}
	for k, why := range off {
		r.t.Errorf("%s is not drawn: %s", k, why)
	}
}

// ctl runs ssctl. An exit code that is not wanted is an error.
func (r *randomRig) ctl(wanted []int, args ...string) (exit int, said string, err error) {
	r.t.Helper()
	stdout, stderr, exit := r.Ctl(args...)
	if !slices.Contains(wanted, exit) {
		err = fmt.Errorf("ssctl %s: exit code %d, want one of %d:\n%s%s", strings.Join(args, " "), exit, wanted, stdout, stderr)
	}
	return exit, stdout + stderr, err
}

// play takes a job through everything.
func (r *randomRig) play(j *randomJob) error {
	for k := range j.kinds {
		r.tally.kinds[k]++
	}
	if err := r.begin(j); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := r.ask(j); err != nil {
		return fmt.Errorf("before any cut: %w", err)
	}
	cut, err := r.cut(j)
	if err != nil || cut == "" {
		return err
	}
	if err := r.ask(j); err != nil {
		return fmt.Errorf("after the cut: %w", err)
	}
	if err := r.inPlace(j, cut); err != nil {
		return err
	}
	moved, err := r.move(j, cut)
	if err != nil || !moved {
		return err
	}
	if j.seed%3 != 0 {
		return nil
	}
	if cut, err = r.cut(j); err != nil {
		return fmt.Errorf("where it is now: %w", err)
	}
	if cut == "" {
		return errors.New("where it is now no cut can be taken")
	}
	if err := r.inPlace(j, cut); err != nil {
		return fmt.Errorf("where it is now: %w", err)
	}
	return nil
}

// begin makes the job's folders on every host and starts its members.
func (r *randomRig) begin(j *randomJob) error {
	for _, m := range j.members {
		for _, h := range r.names {
			own := r.Host(h).Path(fmt.Sprintf("/srv/%s/%s", j.name, m.name))
			for _, dir := range []string{own, own + "/root/data"} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.Chown(dir, m.uid, m.uid); err != nil {
					return err
				}
			}
			if err := os.Chmod(filepath.Dir(own), 0o777); err != nil {
				return err
			}
		}
	}
	for _, m := range j.members {
		spec := filepath.Join(r.Dir(), j.name+"-"+m.name)
		if err := os.WriteFile(spec, []byte(m.spec()), 0o600); err != nil {
			return err
		}
		if _, _, err := r.ctl([]int{0}, "run", j.name, "--host", m.host, "--log", m.log, "--", r.program, spec, m.name); err != nil {
			return err
		}
	}
	return nil
}

// cut takes a cut and returns it, or "" if it was refused and had to be.
func (r *randomRig) cut(j *randomJob) (string, error) {
	words := j.cutWords()
	r.tally.cuts++
	wanted := []int{0}
	if len(words) > 0 {
		wanted = []int{4} // before anything is frozen
	}
	exit, said, err := r.ctl(wanted, "snapshot", j.name, "-q")
	switch {
	case err != nil:
		return "", fmt.Errorf("cut: %w", err)
	case exit == 0:
		r.tally.cutsTaken++
		id, _, _ := strings.Cut(said, ":")
		return id, nil
	case !hasOne(said, words):
		return "", fmt.Errorf("the cut was refused without one of %q:\n%s", words, said)
	}
	r.tally.cutsRefused++
	if err := r.ask(j); err != nil {
		return "", fmt.Errorf("after a refused cut: %w", err)
	}
	return "", nil
}

// inPlace restores a cut where it was taken: a cut that cannot be put back is none.
func (r *randomRig) inPlace(j *randomJob, cut string) error {
	if _, _, err := r.ctl([]int{0}, "restore", cut, "--dry-run"); err != nil {
		return fmt.Errorf("the cut cannot be put back in place: %w", err)
	}
	if _, _, err := r.ctl([]int{0}, "restore", cut, "-q"); err != nil {
		return fmt.Errorf("the cut was not put back in place: %w", err)
	}
	r.tally.inPlace++
	if err := r.ask(j); err != nil {
		return fmt.Errorf("after a restore in place: %w", err)
	}
	return nil
}

// move restores a cut as the job's remap says, if it can be.
func (r *randomRig) move(j *randomJob, cut string) (moved bool, err error) {
	var args []string
	for _, from := range slices.Sorted(maps.Keys(j.remap)) {
		if to := j.remap[from]; to != from {
			args = append(args, "--remap", from+"="+to)
		}
	}
	if len(args) == 0 {
		return false, nil
	}
	if j.taken != "" {
		end, err := r.take(j)
		if err != nil {
			return false, err
		}
		defer end()
	}
	v := j.judge(j.remap, j.taken)
	exit, said, err := r.ctl([]int{0, 4}, append([]string{"restore", cut, "--dry-run"}, args...)...)
	if err != nil {
		return false, err
	}
	if err := r.count(v, exit, said, args); err != nil || exit != 0 {
		return false, err
	}
	if _, _, err := r.ctl([]int{0}, append([]string{"restore", cut, "-q"}, args...)...); err != nil {
		return false, fmt.Errorf("--dry-run let it pass: %w", err)
	}
	if err := r.ask(j); err != nil {
		return false, fmt.Errorf("after %v: %w", args, err)
	}
	return true, nil
}

// count holds what --dry-run says of a move against what the judge says.
func (r *randomRig) count(v verdict, exit int, said string, args []string) error {
	switch {
	case len(v.infeasible) > 0 && exit == 0:
		return fmt.Errorf("--dry-run %v lets pass what is in the way: %q", args, v.infeasible)
	case len(v.infeasible) > 0:
		r.tally.infeasible++
		if !hasOne(said, v.infeasible) {
			return fmt.Errorf("--dry-run %v names none of %q:\n%s", args, v.infeasible, said)
		}
	case v.unsure:
		r.tally.unsure++
		if exit == 0 {
			r.tally.unsureMade++
		}
	case exit != 0:
		r.tally.moves++
		r.tally.movesRefused++
		return fmt.Errorf("--dry-run %v refuses what the judge finds feasible:\n%s", args, said)
	default:
		r.tally.moves++
		r.tally.movesMade++
	}
	return nil
}

// take starts the program beside the job that has a port it needs.
func (r *randomRig) take(j *randomJob) (end func(), err error) {
	host, port, _ := strings.Cut(j.taken, " ")
	spec := filepath.Join(r.Dir(), j.name+"-beside")
	if err := os.WriteFile(spec, fmt.Appendf(nil, "o listen 0.0.0.0 %s plain client\n", port), 0o600); err != nil {
		return nil, err
	}
	cmd := r.Host(host).Command(context.Background(), r.program, spec, "beside")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	(&badInput{job: &job{cluster: r.cluster}}).awaitListener(host, n)
	return cmd.Kill, nil
}

// find is the process of a member, on whatever host it is now. Its children have the same arguments.
func (r *randomRig) find(j *randomJob, m *randomMember) (pid int, err error) {
	want := strings.Join([]string{r.program, filepath.Join(r.Dir(), j.name+"-"+m.name), m.name}, "\x00") + "\x00"
	mine := map[int]bool{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && string(cmdline) == want {
				mine[pid] = true
			}
		}
	}
	var roots []int
	for pid := range mine {
		if !mine[parent(pid)] {
			roots = append(roots, pid)
		}
	}
	if len(roots) != 1 {
		return 0, fmt.Errorf("%d processes are %s: %v", len(roots), m.name, roots)
	}
	return roots[0], nil
}

// parent is the parent of a process, 0 if there is no such process.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var state string
	var ppid int
	_, _ = fmt.Sscan(rest, &state, &ppid) // 0 if it says nothing
	return ppid
}

// ask has every member say whether all it holds is right.
func (r *randomRig) ask(j *randomJob) error {
	var errs []error
	for _, m := range j.members {
		if err := r.askOne(j, m); err != nil {
			errs = append(errs, fmt.Errorf("member %s of %s: %w", m.name, m.host, err))
		}
	}
	return errors.Join(errs...)
}

func (r *randomRig) askOne(j *randomJob, m *randomMember) error {
	pid, err := r.find(j, m)
	if err != nil {
		return err
	}
	log := fmt.Sprintf("/proc/%d/fd/1", pid) // wherever it is now, and in whatever root
	grows, err := watchLog(log, time.Now().Add(soon))
	if err != nil {
		return err
	}
	defer grows.Close()
	answers := func() ([]string, error) {
		data, err := os.ReadFile(log)
		if err != nil {
			return nil, err
		}
		var out []string
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, m.name+" "); ok && strings.Contains(line, "FAIL") {
				return nil, errors.New(strings.TrimSpace(rest))
			} else if ok {
				out = append(out, rest)
			}
		}
		return out, nil
	}
	before, err := answers()
	for err == nil && len(before) == 0 { // it is not ready yet
		if _, err := grows.Read(make([]byte, 4096)); err != nil {
			return fmt.Errorf("it does not become ready: %w", err)
		}
		before, err = answers()
	}
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return err
	}
	for {
		now, err := answers()
		if err != nil || len(now) > len(before) {
			return err
		}
		if _, err := grows.Read(make([]byte, 4096)); err != nil {
			return fmt.Errorf("it does not answer: %w", err)
		}
	}
}

// clear ends a job and removes what it has left on the hosts' disks, its cuts as well.
func (r *randomRig) clear(j *randomJob) error {
	_, _, err := r.ctl([]int{0, 10}, "kill", j.name)
	if err != nil {
		return err
	}
	var list struct{ Cuts []struct{ Cut string } }
	r.CtlJSON(&list, "list", j.name)
	for _, c := range list.Cuts {
		if _, _, err := r.ctl([]int{0}, "rm", c.Cut); err != nil {
			return err
		}
	}
	for _, h := range r.names {
		if err := os.RemoveAll(r.Host(h).Path("/srv/" + j.name)); err != nil {
			return err
		}
		names, err := filepath.Glob(r.Host(h).Path("/dev/shm/*" + j.name + "-*"))
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := os.Remove(n); err != nil {
				return err
			}
		}
	}
	return nil
}
