// Package store is the catalogue: what ssctl knows of a cluster and must not forget. Its hosts, its
// jobs and where their members live, the attempts that are under way, and the cuts.
//
// The rules are here, over a database that package kv declares: kv/bolt, one file in a folder, is the default; kv/memory is for tests. Every rule is
// one transaction or several small ones that can be repeated, so that a database like etcd could keep the catalogue as well. A cut exists from the moment CommitCut's transaction is durable (M9 of
// docs/protocol.md), and not before. What is on disk, and in which order it gets there, is in
// docs/format.md. The images that a cut speaks of are on the hosts: package store/images.
//
// It may import the standard library, and nothing of ours but what lies below it.
package store
