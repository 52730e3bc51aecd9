// Package memory copies the memory of members while they run, so that the time for which a snapshot holds them still does not grow with it.
//
// A Tracker registers the private anonymous memory of each process with a userfaultfd in WP_ASYNC mode: the kernel then notes which pages
// are written, and a program pays about a microsecond for its first write to a page. Copies are made in rounds: a round asks
// PAGEMAP_SCAN which pages were written, protects them again in the same step, and copies them. When the members are frozen, what was written
// since the last round is copied, and CRIU, to which these mappings look empty, dumps all else. After the thaw Runner.AddPages of package criu puts
// the copies into CRIU's images. docs/adr/0027-memory-is-copied-while-members-run.md weighs that.
//
// Between cuts a unit stays tracked (keep.go), so that the next one copies what was written since: docs/adr/0043-memory-stays-tracked-between-cuts.md.
//
// What makes a copy right:
//
//   - A copy of a page is used if and only if the page, when its process is frozen, is present or swapped, lies in a mapping that is
//     registered with our userfaultfd, and has not been written since the scan that protected it; the copy was made after that scan, and no
//     scan since has reported the page.
//   - Every other page that is present or swapped is copied while the process is frozen. What is absent is zero, and is in no image.
//   - Every mapping that is not registered at the freeze is CRIU's: what was mapped, moved (mremap drops the registration) or grown since,
//     what another program image (exec) has, what a process has that was born since, and all that is not private, anonymous, readable and
//     not executable.
//   - An error of a scan or a copy gives the whole process back to CRIU.
//
// The userfaultfd has to be made inside of the process. A helper, a process of its own that outlives the agent, does that: see inject_amd64.go.
//
// It may import package agent, for the types of its interfaces, agent/proc, agent/cgroup, agent/cell/waits, internal/yield, the
// standard library and golang.org/x/sys.
package memory
