package remote

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/orchestrator"
	"ss/store/images"
	"ss/store/keys"
)

// frameData is how much of a file one message of an import carries.
const frameData = 256 << 10

func (a *agent) ExportImages(ctx context.Context, key images.Key, digest string, jobKey keys.Job, from orchestrator.Sources) (orchestrator.FileReader, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := a.client.ExportImages(ctx, &ssv1.ExportImagesRequest{
		Key: toImageKey(key), Digest: digest, JobKey: jobKey[:], Sources: toParticipants(from.Hosts), Vaults: from.Vaults,
	})
	if err != nil {
		cancel()
		return nil, wire.Error(a.host, err)
	}
	return &fileReader{host: a.host, stream: stream, cancel: cancel}, nil
}

// fileReader turns the frames of an export into files. What does not follow the form ends it.
type fileReader struct {
	host   string
	stream grpc.ServerStreamingClient[ssv1.FileFrame]
	cancel context.CancelFunc
	left   int64  // of the file
	data   []byte // received and not read yet
}

func (r *fileReader) Next() (orchestrator.PlainFile, error) {
	if r.left != 0 {
		return orchestrator.PlainFile{}, fmt.Errorf("a file of the export has %d bytes that were not read", r.left)
	}
	f, err := r.stream.Recv()
	if errors.Is(err, io.EOF) {
		return orchestrator.PlainFile{}, io.EOF
	}
	if err != nil {
		return orchestrator.PlainFile{}, wire.Error(r.host, err)
	}
	head := f.GetFile()
	if head == nil || head.GetSize() < 0 {
		return orchestrator.PlainFile{}, r.bad("no head of a file where one must be")
	}
	r.left = head.GetSize()
	return orchestrator.PlainFile{Path: head.GetPath(), Size: head.GetSize(), Mode: head.GetMode()}, nil
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.data) == 0 {
		f, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, r.bad(fmt.Sprintf("it ends %d bytes before the end of a file", r.left))
		}
		if err != nil {
			return 0, wire.Error(r.host, err)
		}
		r.data = f.GetData()
		if n := int64(len(r.data)); n == 0 || n > r.left {
			return 0, r.bad(fmt.Sprintf("%d bytes where 1 to %d must be", n, r.left))
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	r.left -= int64(n)
	return n, nil
}

func (r *fileReader) bad(what string) error {
	return &fault.Error{Kind: fault.Integrity, Host: r.host, Err: fmt.Errorf("the export is broken: %s", what), Next: "try again"}
}

// Close ends the export, finished or not.
func (r *fileReader) Close() error {
	r.cancel()
	return nil
}

func (a *agent) ImportImages(ctx context.Context, open orchestrator.ImportOpen) (orchestrator.FileWriter, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := a.client.ImportImages(ctx)
	if err == nil {
		err = reason(stream.Send(&ssv1.FileFrame{Kind: &ssv1.FileFrame_Open{Open: &ssv1.ImportOpen{
			Key: toImageKey(open.Key), Epoch: open.Epoch, Meta: open.Meta, JobKey: open.JobKey[:], Vaults: open.Vaults,
		}}}), stream.CloseAndRecv)
	}
	if err != nil {
		cancel()
		return nil, wire.Error(a.host, err)
	}
	return &fileWriter{host: a.host, stream: stream, cancel: cancel}, nil
}

type fileWriter struct {
	host   string
	stream grpc.ClientStreamingClient[ssv1.FileFrame, ssv1.ImportImagesResponse]
	cancel context.CancelFunc
	left   int64
}

func (w *fileWriter) send(f *ssv1.FileFrame) error {
	return wire.Error(w.host, reason(w.stream.Send(f), w.stream.CloseAndRecv))
}

func (w *fileWriter) Next(f orchestrator.PlainFile) error {
	if w.left != 0 {
		return fmt.Errorf("the file before %s lacks %d bytes", f.Path, w.left)
	}
	w.left = f.Size
	return w.send(&ssv1.FileFrame{Kind: &ssv1.FileFrame_File{File: &ssv1.PlainFile{Path: f.Path, Size: f.Size, Mode: f.Mode}}})
}

func (w *fileWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("a file of the import has more bytes than its head says")
	}
	done := 0
	for done < len(p) {
		n := min(len(p)-done, frameData)
		if err := w.send(&ssv1.FileFrame{Kind: &ssv1.FileFrame_Data{Data: p[done : done+n]}}); err != nil {
			return done, err
		}
		done += n
		w.left -= int64(n)
	}
	return done, nil
}

func (w *fileWriter) Finish() (orchestrator.Imported, error) {
	defer w.cancel()
	if w.left != 0 {
		return orchestrator.Imported{}, fmt.Errorf("the last file lacks %d bytes", w.left)
	}
	r, err := w.stream.CloseAndRecv()
	if err != nil {
		return orchestrator.Imported{}, wire.Error(w.host, err)
	}
	return orchestrator.Imported{Digest: r.GetDigest(), Copies: r.GetCopies(), Vaults: r.GetVaults()}, nil
}

// Close breaks the stream if it is not finished, and the host drops what it got.
func (w *fileWriter) Close() error {
	w.cancel()
	return nil
}
