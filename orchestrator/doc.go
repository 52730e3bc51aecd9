// Package orchestrator drives a snapshot and a restore over the agents of a cluster: it plans, owns the
// goroutines and deadlines, and keeps the order of persistence. What it decides about a
// snapshot it asks marker.Coordinator, about a restore restoration.Coordinator. The upkeep of what is stored is in orchestrator/upkeep.
//
// It may import marker, restoration, standing, store and what lies below it, fault, internal/disk, golang.org/x/sys and the standard library. It reaches agents through Agent, which
// orchestrator/remote implements over gRPC.
package orchestrator
