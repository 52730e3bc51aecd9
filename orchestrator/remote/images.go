package remote

import (
	"context"
	"time"

	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/orchestrator"
	"ss/store/images"
)

func (a *agent) Inventory(ctx context.Context, vault, job string) (orchestrator.Inventory, error) {
	r, err := a.client.Inventory(ctx, &ssv1.InventoryRequest{Vault: vault, Job: job})
	if err != nil {
		return orchestrator.Inventory{}, wire.Error(a.host, err)
	}
	out := orchestrator.Inventory{Damage: fromDamage(r.GetDamage())}
	for _, s := range r.GetSets() {
		out.Sets = append(out.Sets, orchestrator.HeldSet{
			Key: fromImageKey(s.GetKey()), Digest: s.GetDigest(), Committed: s.GetCommitted(), Bytes: s.GetBytes(), ObjectBytes: s.GetObjectBytes(), Epoch: s.GetEpoch(),
		})
	}
	for _, c := range r.GetCuts() {
		out.Cuts = append(out.Cuts, orchestrator.HeldCut{Job: c.GetJob(), Snapshot: c.GetSnapshot(), Manifest: c.GetManifest()})
	}
	for _, t := range r.GetTombstones() {
		out.Tombstones = append(out.Tombstones, orchestrator.HeldCut{Job: t.GetJob(), Snapshot: t.GetSnapshot(), Manifest: t.GetManifest()})
	}
	for _, u := range r.GetUsage() {
		out.Usage = append(out.Usage, orchestrator.JobUsage{Job: u.GetJob(), Sets: int(u.GetSets()), Logical: u.GetLogicalBytes(), Stored: u.GetStoredBytes()})
	}
	return out, nil
}

func (a *agent) VerifyImages(ctx context.Context, req orchestrator.VerifyRequest) (orchestrator.Verified, error) {
	msg := &ssv1.VerifyImagesRequest{Key: toImageKey(req.Key), Digest: req.Digest, ReadData: req.ReadData, Vault: req.Vault}
	if req.JobKey != nil {
		msg.JobKey = req.JobKey[:]
	}
	r, err := a.client.VerifyImages(ctx, msg)
	if err != nil {
		return orchestrator.Verified{}, wire.Error(a.host, err)
	}
	return orchestrator.Verified{Ends: wire.FromEnds(r.GetEnds()), Bytes: r.GetBytes(), Files: int(r.GetFiles())}, nil
}

func (a *agent) RemoveImages(ctx context.Context, r orchestrator.Removal) error {
	_, err := a.client.RemoveImages(ctx, &ssv1.RemoveImagesRequest{
		Job: r.Job, Snapshot: r.Snapshot, Vault: r.Vault, Tombstone: r.Tombstone, Forget: r.Forget, Replace: r.Replace,
	})
	return wire.Error(a.host, err)
}

func (a *agent) ResolveImages(ctx context.Context, committed, aborted []images.Key) error {
	req := &ssv1.ResolveImagesRequest{}
	for _, k := range committed {
		req.Committed = append(req.Committed, toImageKey(k))
	}
	for _, k := range aborted {
		req.Aborted = append(req.Aborted, toImageKey(k))
	}
	_, err := a.client.ResolveImages(ctx, req)
	return wire.Error(a.host, err)
}

func (a *agent) PutCut(ctx context.Context, vault, job, snapshot string, manifest []byte) error {
	_, err := a.client.PutCut(ctx, &ssv1.PutCutRequest{Job: job, Snapshot: snapshot, Manifest: manifest, Vault: vault})
	return wire.Error(a.host, err)
}

func (a *agent) FetchImages(ctx context.Context, key images.Key, digest string, from orchestrator.Sources) (orchestrator.Moved, error) {
	r, err := a.client.FetchImages(ctx, &ssv1.FetchImagesRequest{Key: toImageKey(key), Digest: digest, Sources: toParticipants(from.Hosts), Vaults: from.Vaults})
	if err != nil {
		return orchestrator.Moved{}, wire.Error(a.host, err)
	}
	return orchestrator.Moved{Objects: int(r.GetObjects()), Bytes: r.GetMovedBytes()}, nil
}

func (a *agent) PushImages(ctx context.Context, key images.Key, digest, vault string) (orchestrator.Moved, error) {
	r, err := a.client.PushImages(ctx, &ssv1.PushImagesRequest{Key: toImageKey(key), Digest: digest, Vault: vault})
	if err != nil {
		return orchestrator.Moved{}, wire.Error(a.host, err)
	}
	return orchestrator.Moved{Objects: int(r.GetObjects()), Bytes: r.GetMovedBytes()}, nil
}

func (a *agent) Collect(ctx context.Context, vault, job string, dry bool) (orchestrator.Garbage, error) {
	r, err := a.client.Collect(ctx, &ssv1.CollectRequest{Job: job, DryRun: dry, Vault: vault})
	if err != nil {
		return orchestrator.Garbage{}, wire.Error(a.host, err)
	}
	return orchestrator.Garbage{Objects: int(r.GetObjects()), Bytes: r.GetBytes()}, nil
}

func fromImageKey(k *ssv1.ImageKey) images.Key {
	return images.Key{Job: k.GetJob(), Snapshot: k.GetSnapshot(), Host: k.GetHost()}
}

func fromDamage(in []*ssv1.Damage) []orchestrator.Damage {
	var out []orchestrator.Damage
	for _, d := range in {
		out = append(out, orchestrator.Damage{
			Job: d.GetJob(), Digest: d.GetDigest(), Detail: d.GetDetail(), Found: time.UnixMilli(d.GetFoundUnixMs()).UTC(), Healed: d.GetHealed(),
		})
	}
	return out
}
