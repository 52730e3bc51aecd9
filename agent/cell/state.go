package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ss/agent"
	"ss/agent/proc"
	"ss/internal/disk"
	"ss/store/sealed"
)

// Files of a member's folder, StateDir/members/JOB/MEMBER. Each is written once, whole or not at
// all; who writes it is said here.
const (
	memberFile  = "member.json" // the agent, before anything else: a record
	initFile    = "init.json"   // the agent, before PID 1 may act: its identity
	rootFile    = "root.json"   // PID 1: the tree has a root (rootRecord)
	exitFile    = "exit.json"   // PID 1: the root has ended (exitRecord)
	controlFile = "control"     // PID 1 of a cell made for a restore: its socket
)

// kind says how a member came to be.
type kind string

const (
	started  kind = "started"  // by Start
	restored kind = "restored" // by NewCell, and CRIU
	attached kind = "attached" // by Attach
)

// record is what member.json holds.
type record struct {
	Job     string        `json:"job"`
	Name    string        `json:"name"`
	Kind    kind          `json:"kind"`
	Command []string      `json:"command"`
	Env     []string      `json:"env,omitempty"`
	Dir     string        `json:"dir"`
	Log     string        `json:"log,omitempty"`
	Folders []string      `json:"folders,omitempty"`
	Aliases []agent.Alias `json:"aliases,omitempty"`
	Names   []agent.Alias `json:"names,omitempty"`
	Root    proc.Identity `json:"root,omitzero"` // attached trees
	Epoch   uint64        `json:"epoch,omitempty"`

	MemoryFrozen bool `json:"memory_frozen,omitempty"`

	damage error // why nothing else is known
}

func newRecord(m agent.Member, k kind) record {
	return record{Job: m.Job, Name: m.Name, Kind: k, Command: m.Command, Env: m.Env, Dir: m.Dir, Log: m.Log, Folders: m.Folders, Aliases: m.Aliases, Names: m.Names, Epoch: m.Epoch, MemoryFrozen: m.MemoryFrozen}
}

type rootRecord struct {
	InnerPid int `json:"inner_pid"`
}

type exitRecord struct {
	Status string `json:"status"` // as os.ProcessState prints it
}

func (g *Manager) membersDir() string { return filepath.Join(g.cfg.StateDir, "members") }

func (g *Manager) dir(job, name string) string { return filepath.Join(g.membersDir(), job, name) }

// stateSchema is the version of what the files say. A file of a program before checksums is read as well.
const stateSchema = 1

// writeState writes v to dir/name so that after a crash either all of it is there or nothing.
func writeState(dir, name string, v any) error {
	return sealed.Write(filepath.Join(dir, name), stateSchema, v)
}

// readState reads what writeState wrote. fs.ErrNotExist if there is no such file, sealed.ErrDamaged if it is not what was written.
func readState(dir, name string, v any) error {
	_, err := sealed.Read(filepath.Join(dir, name), stateSchema, v)
	return err
}

// makeDir makes the member's folder. ErrExists if it is there already.
func (g *Manager) makeDir(job, name string) (string, error) {
	dir := g.dir(job, name)
	// A Forget of the job's last member may remove the job's folder between the two steps.
	for {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return "", fmt.Errorf("make the job's folder: %w", err)
		}
		err := os.Mkdir(dir, 0o700)
		switch {
		case err == nil:
			return dir, disk.SyncDir(filepath.Dir(dir))
		case errors.Is(err, fs.ErrExist):
			return "", fmt.Errorf("member %s of job %s: %w", name, job, ErrExists)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("make the member's folder: %w", err)
		}
	}
}

// removeDir removes the member's folder, member.json last: as long as it is there, so is the member.
func (g *Manager) removeDir(job, name string) error {
	dir := g.dir(job, name)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == memberFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // fails while the job has other members, as it should
	return nil
}

// records reads every member.json. A folder without one is not a member yet, or no more. A damaged one gives a record that says no more than
// where it lies, and what is wrong (damage).
func (g *Manager) records() ([]record, error) {
	jobs, err := os.ReadDir(g.membersDir())
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	var out []record
	for _, j := range jobs {
		names, err := os.ReadDir(filepath.Join(g.membersDir(), j.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list members of %s: %w", j.Name(), err)
		}
		for _, n := range names {
			var r record
			err := readState(g.dir(j.Name(), n.Name()), memberFile, &r)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil && (r.Job != j.Name() || r.Name != n.Name()) {
				err = fmt.Errorf("%s: it is that of %s/%s: %w", memberFile, r.Job, r.Name, sealed.ErrDamaged)
			}
			if err != nil {
				r = record{Job: j.Name(), Name: n.Name(), damage: err}
			}
			out = append(out, r)
		}
	}
	return out, nil
}
