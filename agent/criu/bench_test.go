package criu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"

	"ss/agent"
	"ss/agent/criu/image"
)

// BenchmarkFrozen compares how long a member stands still for Run, from the answer to CRIU until CRIU is gone, with the
// time that a bare criu dump of the same process says it held it frozen.
func BenchmarkFrozen(b *testing.B) {
	for _, mib := range []int{8, 64, 512} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			r := newRunner(b)
			c := startIn(b, nil, false, nil, "hold", strconv.Itoa(mib))
			var ours, frozen, bare, wall []time.Duration
			for b.Loop() {
				f, w := bareDump(b, c)
				bare, wall = append(bare, f), append(wall, w)
				o, f := timedDump(b, r, c)
				ours, frozen = append(ours, o), append(frozen, f)
			}
			report := func(name string, d []time.Duration) float64 {
				slices.Sort(d)
				ms := float64(d[len(d)/2].Microseconds()) / 1000
				b.ReportMetric(ms, name+"-ms")
				return ms
			}
			b.ReportMetric(0, "ns/op")
			mine, its := report("run", ours), report("bare", bare)
			report("criu", frozen)
			report("barewall", wall)
			b.ReportMetric(mine/its, "run/bare")
		})
	}
}

func memoryDir(b testing.TB) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "criu-test-")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

func timedDump(b *testing.B, r *Runner, c *cell) (run, frozen time.Duration) {
	b.Helper()
	dir := memoryDir(b)
	defer os.RemoveAll(dir)
	d, err := r.StartDump(testContext(b), agent.DumpSpec{Unit: unit(c.member), Dir: dir, LockFile: lockFile(b)})
	if err != nil {
		b.Fatal(err)
	}
	c.freeze()
	began := time.Now()
	result, err := d.Run(testContext(b), uncounted, func() {})
	run = time.Since(began)
	c.thaw()
	if err != nil {
		b.Fatal(err)
	}
	return run, result.Frozen
}

func bareDump(b *testing.B, c *cell) (frozen, wall time.Duration) {
	b.Helper()
	dir := memoryDir(b)
	defer os.RemoveAll(dir)
	cmd := exec.Command("nsenter", "-t", strconv.Itoa(c.member.InitPid), "-m", "-p", criuPath(), "dump",
		"-t", strconv.Itoa(c.member.InnerPid), "-D", dir, "--leave-running", "--tcp-established", "--network-lock", "skip",
		"-o", "dump.log", "--manage-cgroups=ignore")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	wall = time.Since(began)
	st, err := image.ReadOne(filepath.Join(dir, "stats-dump"), &stats.StatsEntry{})
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(st.GetDump().GetFrozenTime()) * time.Microsecond, wall
}
