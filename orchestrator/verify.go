package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ss/fault"
	"ss/marker"
	"ss/store"
	"ss/store/images"
)

// VerifyResult is what Verify found.
type VerifyResult struct {
	Cut      store.Cut
	Copies   []CopyResult
	Channels int
}

// CopyResult is one copy of one host's images.
type CopyResult struct {
	Host   string // whose images
	Holder string // who holds this copy
	Files  int
	Bytes  int64
	Err    error
	ends   []marker.End
}

// Verify reads every byte of every copy of a cut, and checks M8 anew from the images.
func (c *Cluster) Verify(ctx context.Context, ref string) (VerifyResult, error) {
	cut, err := c.Catalogue.Cut("", ref)
	if err != nil {
		return VerifyResult{}, err
	}
	res := VerifyResult{Cut: cut}
	for _, h := range cut.Hosts {
		for _, holder := range h.Copies {
			res.Copies = append(res.Copies, CopyResult{Host: h.Host, Holder: holder})
		}
	}
	var wg sync.WaitGroup
	for i := range res.Copies {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.verifyCopy(ctx, cut, &res.Copies[i])
		}()
	}
	wg.Wait()
	errs := []error{}
	for _, cp := range res.Copies {
		if cp.Err != nil {
			errs = append(errs, cp.Err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return res, err
	}
	ends := map[string][]marker.End{}
	for _, cp := range res.Copies {
		ends[cp.Host] = cp.ends // the copies are equal: their digests are
	}
	var all []marker.End
	for _, e := range ends {
		all = append(all, e...)
	}
	channels, err := marker.Check(all, marker.OutsideRefuse)
	if err != nil {
		return res, &fault.Error{Kind: fault.Integrity, Op: "verify", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	if len(channels) != len(cut.Channels) {
		err := fmt.Errorf("the images hold %d channels, the catalogue %d", len(channels), len(cut.Channels))
		return res, &fault.Error{Kind: fault.Integrity, Op: "verify", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	res.Channels = len(channels)
	return res, nil
}

func (c *Cluster) verifyCopy(ctx context.Context, cut store.Cut, cp *CopyResult) {
	_, a, err := c.host(cp.Holder)
	if err != nil {
		cp.Err = err
		return
	}
	var digest string
	for _, h := range cut.Hosts {
		if h.Host == cp.Host {
			digest = h.Manifest
		}
	}
	c.progress(cp.Holder, "reading the images of "+cp.Host)
	v, err := a.VerifyImages(ctx, images.Key{Job: cut.Job, Snapshot: cut.ID, Host: cp.Host}, digest)
	cp.Files, cp.Bytes, cp.ends, cp.Err = v.Files, v.Bytes, v.Ends, err
}
