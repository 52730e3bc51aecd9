// Package cgroup lists, freezes and kills the processes of one cgroup, in the v2 hierarchy or in the v1 freezer. It is the one way in which the agent
// ends a tree of processes.
//
// It may import proc, golang.org/x/sys and the standard library. Which cgroups there are, and what lives in them, is its callers' business.
package cgroup
