package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
)

// What an admin may do with image sets.

func (s *agentServer) VerifyImages(ctx context.Context, req *ssv1.VerifyImagesRequest) (*ssv1.VerifyImagesResponse, error) {
	v := custody.Verification{
		Key: fromImageKey(req.GetKey()), Digest: req.GetDigest(), ReadData: req.GetReadData(), Vault: req.GetVault(),
	}
	if len(req.GetJobKey()) > 0 {
		key, err := fromJobKey(req.GetJobKey())
		if err != nil {
			return nil, wire.Status(err)
		}
		v.JobKey = &key
	}
	out, err := s.images.Verify(ctx, v)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.VerifyImagesResponse{Ends: wire.ToEnds(out.Ends), Bytes: out.Bytes, Files: int32(out.Files)}, nil
}

func (s *agentServer) RemoveImages(ctx context.Context, req *ssv1.RemoveImagesRequest) (*ssv1.RemoveImagesResponse, error) {
	r := custody.Removal{Vault: req.GetVault(), Job: req.GetJob(), Snapshot: req.GetSnapshot(), Forget: req.GetForget(), Replace: req.GetReplace()}
	if len(req.GetTombstone()) > 0 {
		r.Tombstone = req.GetTombstone()
	}
	n, err := s.images.RemoveCut(ctx, r)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.RemoveImagesResponse{Removed: int32(n)}, nil
}

// isAdmin says whether the caller may do more than read what is not a secret.
func isAdmin(ctx context.Context) bool {
	id, err := identity.FromContext(ctx)
	return err == nil && id.Role == identity.RoleAdmin
}

// Inventory is for observers, too, but not all of it: to look into a vault is to reach, with this host's credentials, for whatever the caller names;
// and manifests of cuts are whole records.
func (s *agentServer) Inventory(ctx context.Context, req *ssv1.InventoryRequest) (*ssv1.InventoryResponse, error) {
	admin := isAdmin(ctx)
	if !admin && req.GetVault() != "" {
		return nil, wire.Status(fault.New(fault.Denied, "only an admin may look into a vault", ""))
	}
	inv, err := s.images.Inventory(ctx, req.GetVault(), req.GetJob())
	if err != nil {
		return nil, wire.Status(err)
	}
	resp := &ssv1.InventoryResponse{Damage: toDamage(inv.Damage)}
	for _, set := range inv.Sets {
		out := &ssv1.ImageSet{Key: toImageKey(set.Key), Digest: set.Manifest.Digest, Committed: set.Committed, Bytes: set.Manifest.Bytes,
			Epoch: set.Manifest.Epoch}
		for _, o := range set.Manifest.Objects() {
			out.ObjectBytes += o.Size
		}
		resp.Sets = append(resp.Sets, out)
	}
	for _, c := range inv.Cuts {
		if !admin {
			c.Manifest = nil
		}
		resp.Cuts = append(resp.Cuts, &ssv1.StoredCut{Job: c.Job, Snapshot: c.Snapshot, Manifest: c.Manifest})
	}
	for _, t := range inv.Tombstones {
		if admin {
			resp.Tombstones = append(resp.Tombstones, &ssv1.StoredCut{Job: t.Job, Snapshot: t.Snapshot, Manifest: t.Data})
		}
	}
	for _, u := range inv.Usage {
		resp.Usage = append(resp.Usage, &ssv1.JobUsage{Job: u.Job, Sets: int32(u.Sets), LogicalBytes: u.Logical, StoredBytes: u.Stored})
	}
	return resp, nil
}

func (s *agentServer) PutCut(ctx context.Context, req *ssv1.PutCutRequest) (*ssv1.PutCutResponse, error) {
	if err := s.images.PutCut(ctx, req.GetVault(), req.GetJob(), req.GetSnapshot(), req.GetManifest()); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.PutCutResponse{}, nil
}

func (s *agentServer) FetchImages(ctx context.Context, req *ssv1.FetchImagesRequest) (*ssv1.FetchImagesResponse, error) {
	moved, err := s.images.Fetch(ctx, fromImageKey(req.GetKey()), req.GetDigest(), fromPeers(req.GetSources()), req.GetVaults())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.FetchImagesResponse{Objects: int32(moved.Objects), MovedBytes: moved.Bytes}, nil
}

func (s *agentServer) PushImages(ctx context.Context, req *ssv1.PushImagesRequest) (*ssv1.PushImagesResponse, error) {
	moved, err := s.images.Push(ctx, fromImageKey(req.GetKey()), req.GetDigest(), req.GetVault())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.PushImagesResponse{Objects: int32(moved.Objects), MovedBytes: moved.Bytes}, nil
}

func (s *agentServer) Collect(ctx context.Context, req *ssv1.CollectRequest) (*ssv1.CollectResponse, error) {
	g, err := s.images.Collect(ctx, req.GetVault(), req.GetJob(), req.GetDryRun())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.CollectResponse{Objects: int32(g.Objects), Bytes: g.Bytes}, nil
}

func (s *agentServer) ExportImages(req *ssv1.ExportImagesRequest, stream grpc.ServerStreamingServer[ssv1.FileFrame]) error {
	x := custody.ExportOptions{Key: fromImageKey(req.GetKey()), Digest: req.GetDigest(), Sources: fromPeers(req.GetSources()), Vaults: req.GetVaults()}
	var err error
	if x.JobKey, err = fromJobKey(req.GetJobKey()); err != nil {
		return wire.Status(err)
	}
	return wire.Status(s.images.Export(stream.Context(), x, func(f custody.PlainFile, r io.Reader) error {
		err := stream.Send(&ssv1.FileFrame{Kind: &ssv1.FileFrame_File{File: &ssv1.PlainFile{Path: f.Path, Size: f.Size, Mode: f.Mode}}})
		if err != nil {
			return err
		}
		return inFrames(r, func(b []byte) error { return stream.Send(&ssv1.FileFrame{Kind: &ssv1.FileFrame_Data{Data: b}}) })
	}))
}

func (s *agentServer) ImportImages(stream grpc.ClientStreamingServer[ssv1.FileFrame, ssv1.ImportImagesResponse]) (err error) {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	open, err := fromImportOpen(first.GetOpen())
	if err != nil {
		return wire.Status(err)
	}
	im, err := s.images.StartImport(open)
	if err != nil {
		return wire.Status(err)
	}
	defer func() {
		if cerr := im.Close(stream.Context()); cerr != nil && err == nil {
			err = wire.Status(cerr)
		}
	}()
	if err := takeFiles(stream, im); err != nil {
		return wire.Status(err)
	}
	out, err := im.Seal(stream.Context())
	if err != nil {
		return wire.Status(err)
	}
	return stream.SendAndClose(&ssv1.ImportImagesResponse{Digest: out.Digest, Copies: out.Copies, Vaults: out.Vaults})
}

func fromImportOpen(o *ssv1.ImportOpen) (custody.ImportOpen, error) {
	if o == nil {
		return custody.ImportOpen{}, fault.New(fault.Usage, "the first message of an import must open it", "")
	}
	key, err := fromJobKey(o.GetJobKey())
	if err != nil {
		return custody.ImportOpen{}, err
	}
	return custody.ImportOpen{
		Key: fromImageKey(o.GetKey()), Epoch: o.GetEpoch(), Meta: o.GetMeta(), JobKey: key,
		Copies: fromPeers(o.GetCopies()), CopiesWanted: int(o.GetCopiesWanted()), Vaults: o.GetVaults(),
	}, nil
}

// takeFiles takes files until the stream ends.
func takeFiles(stream grpc.ClientStreamingServer[ssv1.FileFrame, ssv1.ImportImagesResponse], im *custody.Import) error {
	next, err := stream.Recv()
	for err == nil {
		head := next.GetFile()
		if head == nil {
			return fault.New(fault.Usage, fmt.Sprintf("a frame of %T where a file should begin", next.GetKind()), "use an ssctl of the agent's version")
		}
		body := &fileBody{stream: stream}
		if err := im.Put(custody.PlainFile{Path: head.GetPath(), Size: head.GetSize(), Mode: head.GetMode()}, body); err != nil {
			return err
		}
		next, err = body.after, body.err
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// fileBody reads the data of one file. It ends with the first frame that is none of its data, and keeps that for whoever comes next.
type fileBody struct {
	stream grpc.ClientStreamingServer[ssv1.FileFrame, ssv1.ImportImagesResponse]
	data   []byte
	after  *ssv1.FileFrame
	err    error // of the stream; io.EOF at its end
}

func (b *fileBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(b.data) == 0 {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.after != nil:
			return 0, io.EOF
		}
		var f *ssv1.FileFrame
		if f, b.err = b.stream.Recv(); b.err != nil {
			continue
		}
		if d, ok := f.GetKind().(*ssv1.FileFrame_Data); ok {
			b.data = d.Data
		} else {
			b.after = f
		}
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}
