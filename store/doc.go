// Package store is the catalogue: what ssctl knows of a cluster and must not forget. Its hosts, its
// jobs and where their members live, the attempts that are under way, and the cuts.
//
// It is one bbolt database in a folder of its own, opened for each transaction and closed after it, so
// two ssctl can work at once. A cut exists from the moment CommitCut's transaction is durable (M9 of
// docs/protocol.md), and not before. What is on disk, and in which order it gets there, is in
// docs/format.md. The images that a cut speaks of are on the hosts: package store/images.
//
// It may import the standard library and bbolt, and nothing of ours but what lies below it.
package store
