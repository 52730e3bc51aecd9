// Package rpc is the agent's gRPC server, and its client to other agents. It translates between
// protobuf types and those of package agent, and does nothing else.
//
// It may import agent, custody, what is below store, marker, restoration, names, fault, the wire (api/...) and grpc.
package rpc
