package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
)

// mayPut refuses what an agent may not put here: the manifest of another host's set, which would speak for that host, and the
// manifest of a cut, which is ssctl's to bring. An object is what its name says, so anybody may put it.
func mayPut(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	parts := strings.Split(name, "/")
	switch {
	case len(parts) == 3 && name == images.ObjectName(parts[0], parts[2]):
		return nil
	case len(parts) == 4 && name == images.SetName(images.Key{Job: parts[0], Snapshot: parts[2], Host: parts[3]}):
		return mine(ctx, parts[3])
	case len(parts) == 3 && name == images.CutName(parts[0], parts[2]):
		return fault.New(fault.Denied, "an agent may not put the manifest of a cut on another host", "")
	}
	return fmt.Errorf("%s is not a name of what belongs to an image set: %w", name, blob.ErrInvalid)
}

func (s *peerServer) PutObject(stream grpc.ClientStreamingServer[ssv1.ObjectFrame, ssv1.PutObjectResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return objectStatus(fmt.Errorf("a stream without a beginning: %w", blob.ErrInvalid))
	}
	if err != nil {
		return err
	}
	if err := mayPut(ctx, first.GetName()); err != nil {
		return objectStatus(err)
	}
	if first.GetSize() < 0 || len(first.GetData()) > 0 {
		return objectStatus(fmt.Errorf("the first frame of %s has a size of %d and %d bytes of data: %w", first.GetName(), first.GetSize(), len(first.GetData()), blob.ErrInvalid))
	}
	images.YieldToJob() // this goroutine ends with the stream
	in := &arriving{s: s, stream: stream}
	if err := s.objects.Put(ctx, first.GetName(), in, first.GetSize()); err != nil {
		return objectStatus(err)
	}
	return stream.SendAndClose(&ssv1.PutObjectResponse{})
}

// arriving reads the frames of an object that another agent puts here. It ends where the other side says so: a stream that breaks is an
// error.
type arriving struct {
	s      *peerServer
	stream grpc.ClientStreamingServer[ssv1.ObjectFrame, ssv1.PutObjectResponse]
	data   []byte
	err    error
}

func (in *arriving) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(in.data) == 0 {
		if in.err == nil {
			in.err = in.s.a.AwaitQuiet(in.stream.Context())
		}
		if in.err != nil {
			return 0, in.err
		}
		var f *ssv1.ObjectFrame
		if f, in.err = in.stream.Recv(); in.err == nil {
			in.data = f.GetData()
		}
	}
	n := copy(p, in.data)
	in.data = in.data[n:]
	return n, nil
}

func (s *peerServer) GetObject(req *ssv1.GetObjectRequest, stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
	return objectStatus(s.getObject(req, stream))
}

func (s *peerServer) getObject(req *ssv1.GetObjectRequest, stream grpc.ServerStreamingServer[ssv1.ObjectFrame]) error {
	ctx := stream.Context()
	info, err := s.objects.Stat(ctx, req.GetName())
	if err != nil {
		return err
	}
	r, err := s.objects.Get(ctx, req.GetName(), req.GetOffset(), req.GetLength())
	if err != nil {
		return err
	}
	defer r.Close()
	if err := stream.Send(&ssv1.ObjectFrame{Name: info.Name, Size: info.Size}); err != nil {
		return err
	}
	return inFrames(r, func(b []byte) error {
		if err := s.a.AwaitQuiet(ctx); err != nil {
			return err
		}
		return stream.Send(&ssv1.ObjectFrame{Data: b})
	})
}

func (s *peerServer) StatObject(ctx context.Context, req *ssv1.StatObjectRequest) (*ssv1.ObjectInfo, error) {
	info, err := s.objects.Stat(ctx, req.GetName())
	if err != nil {
		return nil, objectStatus(err)
	}
	return toInfo(info), nil
}

func (s *peerServer) ListObjects(req *ssv1.ListObjectsRequest, stream grpc.ServerStreamingServer[ssv1.ObjectInfo]) error {
	for info, err := range s.objects.List(stream.Context(), req.GetPrefix()) {
		if err != nil {
			return objectStatus(err)
		}
		if err := stream.Send(toInfo(info)); err != nil {
			return err
		}
	}
	return nil
}
