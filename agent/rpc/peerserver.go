package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"ss/agent"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/store/images"
)

// peerServer serves other agents. What they say of themselves is held against their certificate.
type peerServer struct {
	ssv1.UnimplementedPeerServer
	a      *agent.Agent
	images *images.Store
}

// caller is the host whose agent calls.
func caller(ctx context.Context) (string, error) {
	id, err := identity.FromContext(ctx)
	return id.Name, err
}

// mine refuses a caller that speaks for another host.
func mine(ctx context.Context, host string) error {
	name, err := caller(ctx)
	if err != nil {
		return err
	}
	if name != host {
		return fault.New(fault.Denied, fmt.Sprintf("the agent of %s may not speak for %s", name, host), "")
	}
	return nil
}

func (s *peerServer) Deliver(ctx context.Context, req *ssv1.DeliverRequest) (*ssv1.DeliverResponse, error) {
	m := wire.FromMessage(req.GetMessage())
	if err := mine(ctx, string(m.From)); err != nil {
		return nil, wire.Status(err)
	}
	s.a.Deliver(m)
	return &ssv1.DeliverResponse{}, nil
}

func (s *peerServer) PutImages(stream grpc.ClientStreamingServer[ssv1.ImageFrame, ssv1.PutImagesResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	key := fromImageKey(first.GetKey())
	if err := mine(stream.Context(), key.Host); err != nil {
		return wire.Status(err)
	}
	rcv, err := s.images.Receive(key, "")
	if err != nil {
		return wire.Status(err)
	}
	man, err := receive(stream.Context(), rcv, first, stream.Recv)
	if err != nil {
		return wire.Status(errors.Join(err, rcv.Discard()))
	}
	return stream.SendAndClose(&ssv1.PutImagesResponse{Digest: man.Digest})
}

// receive takes frames until the stream ends, and seals.
func receive(ctx context.Context, rcv *images.Receiver, f *ssv1.ImageFrame, next func() (*ssv1.ImageFrame, error)) (images.Manifest, error) {
	var err error
	for f != nil {
		if err := rcv.Put(fromFrame(f)); err != nil {
			return images.Manifest{}, err
		}
		if f, err = next(); err != nil && !errors.Is(err, io.EOF) {
			return images.Manifest{}, err
		} else if err != nil {
			break
		}
	}
	return rcv.Seal(ctx)
}

func fromFrame(f *ssv1.ImageFrame) images.Frame {
	switch k := f.GetKind().(type) {
	case *ssv1.ImageFrame_File:
		return images.Frame{Kind: images.FrameFile, Path: k.File.GetPath(), Size: k.File.GetSize()}
	case *ssv1.ImageFrame_Chunk:
		return images.Frame{Kind: images.FrameChunk, Chunk: k.Chunk}
	case *ssv1.ImageFrame_End:
		return images.Frame{Kind: images.FrameEnd, Digest: k.End}
	}
	return images.Frame{} // the receiver refuses it
}

func toFrame(f images.Frame) *ssv1.ImageFrame {
	switch f.Kind {
	case images.FrameFile:
		return &ssv1.ImageFrame{Kind: &ssv1.ImageFrame_File{File: &ssv1.ImageFile{Path: f.Path, Size: f.Size}}}
	case images.FrameChunk:
		return &ssv1.ImageFrame{Kind: &ssv1.ImageFrame_Chunk{Chunk: f.Chunk}}
	}
	return &ssv1.ImageFrame{Kind: &ssv1.ImageFrame_End{End: f.Digest}}
}

func (s *peerServer) SettleImages(ctx context.Context, req *ssv1.SettleImagesRequest) (*ssv1.SettleImagesResponse, error) {
	key := fromImageKey(req.GetKey())
	if err := mine(ctx, key.Host); err != nil {
		return nil, wire.Status(err)
	}
	if err := s.a.SettleCopy(key, req.GetCommitted()); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.SettleImagesResponse{}, nil
}

func (s *peerServer) GetImages(req *ssv1.GetImagesRequest, stream grpc.ServerStreamingServer[ssv1.ImageFrame]) error {
	err := s.images.Send(stream.Context(), fromImageKey(req.GetKey()), func(f images.Frame) error { return stream.Send(toFrame(f)) })
	return wire.Status(imageFault(err))
}

func (s *peerServer) GetManifest(_ context.Context, req *ssv1.GetManifestRequest) (*ssv1.GetManifestResponse, error) {
	man, err := s.images.Manifest(fromImageKey(req.GetKey()))
	if err != nil {
		return nil, wire.Status(imageFault(err))
	}
	b, err := json.Marshal(man)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.GetManifestResponse{Json: b}, nil
}

// imageFault gives an error of the image store its kind, so that it survives the wire.
func imageFault(err error) error {
	var bad *images.IntegrityError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		return &fault.Error{Kind: fault.Integrity, Err: err}
	case errors.Is(err, images.ErrNotFound):
		return &fault.Error{Kind: fault.NotFound, Err: err}
	}
	return err
}

func (s *peerServer) RestoreFate(ctx context.Context, req *ssv1.RestoreFateRequest) (*ssv1.RestoreFateResponse, error) {
	host, err := caller(ctx)
	if err != nil {
		return nil, wire.Status(err)
	}
	fate, err := s.a.Fate(host, req.GetId(), req.GetResume())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.RestoreFateResponse{Fate: ssv1.RestoreFate(fate)}, nil
}
