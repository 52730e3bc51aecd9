package remote

import (
	"context"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ssv1 "ss/api/proto/ss/v1"
	"ss/orchestrator"
)

// refuser is an agent that has refused each call before anything is sent on it.
type refuser struct{ ssv1.AgentClient }

// over is such a call: gRPC's Send says io.EOF then, and Recv says why.
type over[Req, Res any] struct{ grpc.ClientStream }

func (over[Req, Res]) Send(*Req) error { return io.EOF }
func (over[Req, Res]) Recv() (*Res, error) {
	return nil, status.Error(codes.Unavailable, "the job is busy")
}
func (o over[Req, Res]) CloseAndRecv() (*Res, error) { return o.Recv() }

func (refuser) Snapshot(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[ssv1.SnapshotRequest, ssv1.SnapshotResponse], error) {
	return over[ssv1.SnapshotRequest, ssv1.SnapshotResponse]{}, nil
}

func (refuser) Restore(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[ssv1.RestoreRequest, ssv1.RestoreResponse], error) {
	return over[ssv1.RestoreRequest, ssv1.RestoreResponse]{}, nil
}

func (refuser) ImportImages(context.Context, ...grpc.CallOption) (grpc.ClientStreamingClient[ssv1.FileFrame, ssv1.ImportImagesResponse], error) {
	return over[ssv1.FileFrame, ssv1.ImportImagesResponse]{}, nil
}

// TestRefusedBeforeTheFirstMessage: a person reads why a host has refused a call, and not that it is over.
func TestRefusedBeforeTheFirstMessage(t *testing.T) {
	a := &agent{host: "hostB", client: refuser{}, lists: &lists{}}
	for name, call := range map[string]func() error{
		"snapshot": func() error { _, err := a.Snapshot(t.Context(), orchestrator.Open{}); return err },
		"restore":  func() error { _, err := a.Restore(t.Context(), orchestrator.HostPlan{}); return err },
		"import":   func() error { _, err := a.ImportImages(t.Context(), orchestrator.ImportOpen{}); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "the job is busy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
