package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// FileRound is a bare dump of an 8 MiB member, a snapshot of a job of two of them, and one of such a job whose first member writes to a large file in a folder
// that is part of its cuts.
type FileRound struct {
	Bare    Dump     `json:"bare"`
	Without Snapshot `json:"without"`
	With    Snapshot `json:"with"`
}

// boundFile is that of what the file adds to the member's standstill, to the standstill of a bare dump.
const boundFile = 1

// diskBytes is the size of the Btrfs: the file has holes.
const diskBytes = 4 << 30

// measureFiles takes snapshots of a job without a file, and of one with. That one is restored at the end: its program checks that the file is what the program
// has written up to the cut.
func measureFiles(s *lab.Script, o options) result {
	disk := mountBtrfs(s)
	l := lab.New(s, "hostA", "hostB")
	l.AgentConfig = "keep_dumps: true\n"
	l.Init()
	staging := func(host string) string { return filepath.Join(disk, "staging-"+host) }
	for _, h := range l.Hosts() {
		moveStaging(s, l, h.Name, staging(h.Name))
	}
	l.StartAgents()
	res := result{Schema: "ss/bench/1", Rounds: o.n, Lock: o.lock, Machine: describeMachine(s, l)}
	folder := filepath.Join(disk, "data")
	if err := os.Mkdir(folder, 0o700); err != nil {
		s.Fatalf("make a folder: %v", err)
	}
	res.Files = make([]FileRound, o.n)
	for i, name := range []string{"without", "with"} { // one after the other, as each keeps all processors busy
		declared := ""
		if name == "with" {
			declared = folder
		}
		j := startFile(s, l, o, name, 9100+i, staging, declared)
		j.warmUp()
		for k := range o.n {
			bare, ours := j.bareDump(j.big), j.snapshot()
			s.Logf("%-8s round %d of %d: bare %6.1f ms (loop still %6.1f); snapshot %6.1f ms (%6.1f)", name, k+1, o.n, bare.Wall, bare.Still, ours.Total, ours.StillBig)
			if name == "with" {
				res.Files[k].With = ours
			} else {
				res.Files[k].Bare, res.Files[k].Without = bare, ours
			}
		}
		if name == "with" {
			j.kill()
			j.restore()
			j.locate()
		}
		j.conclude()
	}
	return res
}

// startFile starts two members of 8 MiB that send words to each other. With a folder, the first one writes to a file in it.
func startFile(s *lab.Script, l *lab.Lab, o options, name string, port int, staging func(string) string, folder string) *job {
	j := newJob(s, l, o, "stream", smallMiB)
	j.name, j.port, j.staging, j.folder, j.stop = name, port, staging, folder, filepath.Join(l.Dir(), name+".stop")
	addr := fmt.Sprintf("%s:%d", l.Host("hostB").Addr(), j.port)
	ballast := strconv.Itoa(smallMiB)
	j.small = j.run("hostB", "words", "serve", "-listen", addr, "-ballast", ballast, "-gap", threshold)
	args := []string{"connect", "-to", addr, "-ballast", ballast, "-gap", threshold, "-until", j.stop}
	if folder != "" {
		args = append(args, "-file", filepath.Join(folder, "large"), "-file-size", strconv.Itoa(o.file<<10), "-file-rate", strconv.Itoa(o.rate))
	}
	j.big = j.run("hostA", "words", args...)
	j.awaitBoth()
	return j
}

// filesRows are the comparisons of what was measured.
func filesRows(o options, all []FileRound) []Row {
	if len(all) == 0 {
		return nil
	}
	name := fmt.Sprintf("sparse file of %d GiB on Btrfs, declared with --files, %d blocks a second written", o.file, o.rate)
	bare := func(r FileRound) float64 { return r.Bare.Still }
	return []Row{
		compare("8 MiB member without a file: standstill ÷ its bare dump's", all, noBound, bare, func(r FileRound) float64 { return r.Without.StillBig }),
		compare("8 MiB member with a "+name+": likewise", all, noBound, bare, func(r FileRound) float64 { return r.With.StillBig }),
		compare("what the file adds to the standstill ÷ a bare dump's standstill", all, boundFile, bare,
			func(r FileRound) float64 { return r.With.StillBig - r.Without.StillBig }),
	}
}

// mountBtrfs makes a Btrfs, which the hosts of labs that are made later see, and which goes with the script.
func mountBtrfs(s *lab.Script) string {
	dir, err := os.MkdirTemp("", "ssbench-btrfs-")
	if err != nil {
		s.Fatalf("make a folder: %v", err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Errorf("remove the disk: %v", err)
		}
	})
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(diskBytes)
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Mkdir(at, 0o755)
	}
	if err != nil {
		s.Fatalf("make a disk: %v", err)
	}
	for _, command := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil { //nolint:noctx // it ends by itself
			s.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	s.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			s.Errorf("unmount the disk: %v", err)
		}
	})
	return at
}

// moveStaging has a host's agent, which does not run yet, dump to another folder.
func moveStaging(s *lab.Script, l *lab.Lab, host, dir string) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatalf("make a staging folder: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(l.Dir(), "bundles", host, "agent.yaml"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "staging: %s\n", dir)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		s.Fatalf("configure the agent of %s: %v", host, err)
	}
}
