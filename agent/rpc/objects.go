package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"

	"ss/agent/custody"
	ssv1 "ss/api/proto/ss/v1"
	"ss/store/blob"
)

// frameSize is how much of an object goes into one message, in bytes.
const frameSize = 256 << 10

// Objects are the objects of image sets that another host holds, as this host's agent may use them.
func (p *Peers) Objects(to custody.Peer) custody.Objects { return &objects{p: p, to: to} }

// objects implements blob.Reader and blob.Writer over gRPC.
type objects struct {
	p  *Peers
	to custody.Peer
}

// Get reads a part of an object. The first answer is here when it returns: so it knows whether there is one.
func (o *objects) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	c, err := o.p.client(o.to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.GetObject(ctx, &ssv1.GetObjectRequest{Name: name, Offset: off, Length: n})
	if err != nil {
		cancel()
		return nil, objectError(o.to.Host, err)
	}
	head, err := stream.Recv()
	if err != nil {
		cancel()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s from %s: an answer without a beginning: %w", name, o.to.Host, io.ErrUnexpectedEOF)
		}
		return nil, objectError(o.to.Host, err)
	}
	if head.GetName() != name || head.GetSize() < 0 || len(head.GetData()) > 0 {
		cancel()
		return nil, fmt.Errorf("%s from %s: an answer that begins with another object: %w", name, o.to.Host, blob.ErrDamaged)
	}
	left := n
	if n < 0 {
		left = max(head.GetSize()-off, 0)
	}
	return &incoming{host: o.to.Host, name: name, stream: stream, cancel: cancel, left: left}, nil
}

// incoming reads the frames of an object. It is at its end when every byte that was asked for has come and the other side has said
// that it is done: a stream that breaks is never that.
type incoming struct {
	host, name string
	stream     grpc.ServerStreamingClient[ssv1.ObjectFrame]
	cancel     context.CancelFunc
	left       int64 // bytes that are to come
	data       []byte
	err        error
}

func (in *incoming) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(in.data) == 0 && in.err == nil {
		in.next()
	}
	if len(in.data) > 0 {
		n := copy(p, in.data)
		in.data = in.data[n:]
		return n, nil
	}
	return 0, in.err
}

func (in *incoming) next() {
	f, err := in.stream.Recv()
	switch {
	case err == nil && int64(len(f.GetData())) <= in.left:
		in.data = f.GetData()
		in.left -= int64(len(in.data))
	case err == nil:
		in.err = fmt.Errorf("%s from %s: more than was asked for: %w", in.name, in.host, blob.ErrDamaged)
	case !errors.Is(err, io.EOF):
		in.err = objectError(in.host, err)
	case in.left > 0:
		in.err = io.ErrUnexpectedEOF
	default:
		in.err = io.EOF
	}
}

// Close ends the transfer.
func (in *incoming) Close() error {
	in.cancel()
	in.data, in.err = nil, errors.New("read after Close")
	return nil
}

// Stat says whether the host has an object.
func (o *objects) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	c, err := o.p.client(o.to)
	if err != nil {
		return blob.Info{}, err
	}
	i, err := c.StatObject(ctx, &ssv1.StatObjectRequest{Name: name})
	if err != nil {
		return blob.Info{}, objectError(o.to.Host, err)
	}
	return fromInfo(i), nil
}

// List yields the host's objects.
func (o *objects) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		c, err := o.p.client(o.to)
		if err != nil {
			yield(blob.Info{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.ListObjects(ctx, &ssv1.ListObjectsRequest{Prefix: prefix})
		for err == nil {
			var i *ssv1.ObjectInfo
			if i, err = stream.Recv(); err == nil && !yield(fromInfo(i), nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(blob.Info{}, objectError(o.to.Host, err))
		}
	}
}

// Put stores an object on the host.
func (o *objects) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	c, err := o.p.client(o.to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx) // whatever goes wrong, the other side sees no end, and stores nothing
	defer cancel()
	stream, err := c.PutObject(ctx)
	if err != nil {
		return objectError(o.to.Host, err)
	}
	if err := send(stream, name, r, size); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	// After an early end the reason comes here, or none: the object was there already.
	if _, err := stream.CloseAndRecv(); err != nil {
		return objectError(o.to.Host, err)
	}
	return nil
}

// send returns io.EOF if the other side wants no more.
func send(stream grpc.ClientStreamingClient[ssv1.ObjectFrame, ssv1.PutObjectResponse], name string, r io.Reader, size int64) error {
	if err := stream.Send(&ssv1.ObjectFrame{Name: name, Size: size}); err != nil {
		return err
	}
	return inFrames(r, func(b []byte) error { return stream.Send(&ssv1.ObjectFrame{Data: b}) })
}

// inFrames hands r over in pieces of frameSize. What it hands over must be done with when put returns.
func inFrames(r io.Reader, put func(b []byte) error) error {
	buf := make([]byte, frameSize)
	for {
		n, err := fill(r, buf)
		if n > 0 {
			if perr := put(buf[:n]); perr != nil {
				return perr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until buf is full. Unlike io.ReadFull it keeps an early end apart from r's own io.ErrUnexpectedEOF.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for empty := 0; n < len(buf) && err == nil; {
		var m int
		m, err = r.Read(buf[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; empty == 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

func fromInfo(i *ssv1.ObjectInfo) blob.Info {
	return blob.Info{Name: i.GetName(), Size: i.GetSize(), Time: time.UnixMilli(i.GetTimeUnixMs())}
}

func toInfo(i blob.Info) *ssv1.ObjectInfo {
	return &ssv1.ObjectInfo{Name: i.Name, Size: i.Size, TimeUnixMs: i.Time.UnixMilli()}
}
