// Package orchestrator drives a snapshot and a restore over the agents of a cluster: it plans, owns the
// goroutines and deadlines, keeps the order of persistence, and verifies. What it decides about a
// snapshot it asks marker.Coordinator.
//
// It may import marker, store, fault and the standard library. It reaches agents through Agent, which
// orchestrator/remote implements over gRPC.
package orchestrator
