// Package remote is orchestrator.Agent over gRPC: translation only.
//
// It may import orchestrator, store, marker, restoration, fault, the wire (api/...) and grpc.
package remote
