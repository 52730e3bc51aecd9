package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"ss/fault"
	"ss/marker"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
)

// VerifyOptions says what is to be verified.
type VerifyOptions struct {
	Cut      string
	ReadData bool // decode every chunk as well, and compare it with its name
}

// VerifyResult is what Verify found.
type VerifyResult struct {
	Cut      store.Cut
	Copies   []CopyResult
	Channels int
	// Unchecked are hosts whose images no host holds, only vaults: connections are read on hosts, so where there is one, none were.
	Unchecked []string
}

// CopyResult is one copy of one host's images.
type CopyResult struct {
	Host   string // whose images
	Holder string // the host or vault that has this copy
	Vault  bool   // it is a vault
	Files  int
	Bytes  int64
	Err    error
	ends   []marker.End
}

// Verify reads every byte of every copy of a cut, and checks M8 again from the images. All copies are looked at, whatever is found; the
// result says of each what it is.
func Verify(ctx context.Context, c *orchestrator.Cluster, opt VerifyOptions) (VerifyResult, error) {
	cut, err := c.Catalogue.Cut(ctx, "", opt.Cut)
	if err != nil {
		return VerifyResult{}, err
	}
	key, err := c.CutKey(cut)
	if err != nil {
		return VerifyResult{}, &fault.Error{Op: "verify", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return VerifyResult{}, err
	}
	res := VerifyResult{Cut: cut, Copies: copiesOf(cut)}
	var wg sync.WaitGroup
	for i := range res.Copies {
		wg.Go(func() { verifyCopy(ctx, c, cut, &res.Copies[i], verification{key, opt.ReadData, statuses}) })
	}
	wg.Wait()
	verifyManifests(ctx, c, cut, statuses, res.Copies)
	if err := res.copyFaults(); err != nil {
		return res, err
	}
	for _, h := range cut.Hosts {
		if len(h.Copies) == 0 {
			res.Unchecked = append(res.Unchecked, h.Host)
		}
	}
	if len(res.Unchecked) == 0 {
		res.Channels, err = checkChannels(cut, res.Copies)
	}
	return res, err
}

// verifyManifests looks at the cut's signed manifest on every holder: without it the cut cannot be found again if the catalogue is lost. One that
// is damaged is a fault. One that a holder has never had, because the news of the commit did not reach it, is a note: all that was stored is whole.
func verifyManifests(ctx context.Context, c *orchestrator.Cluster, cut store.Cut, statuses []orchestrator.HostStatus, copies []CopyResult) {
	_, vaults := orchestrator.Holders(cut)
	s := c.Inventories(ctx, cut.Job, statuses, vaults)
	bad := s.BadManifests(cut, c.Verifier)
	var missing []string
	for holder, err := range bad {
		if errors.Is(err, orchestrator.ErrNoManifest) {
			missing = append(missing, holder)
			delete(bad, holder)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		c.Noticef("the signed manifest of %s is not on %s; ssctl repair %s puts it there", cut.ID, strings.Join(missing, ", "), cut.ID)
	}
	for i := range copies {
		if err := bad[copies[i].Holder]; err != nil && copies[i].Err == nil {
			copies[i].Err = fmt.Errorf("the images are whole, and the cut's manifest beside them is not: %w", err)
		}
	}
}

func copiesOf(cut store.Cut) []CopyResult {
	var out []CopyResult
	for _, h := range cut.Hosts {
		for _, holder := range h.Copies {
			out = append(out, CopyResult{Host: h.Host, Holder: holder})
		}
		for _, v := range h.Vaults {
			out = append(out, CopyResult{Host: h.Host, Holder: v, Vault: true})
		}
	}
	return out
}

// copyFaults names everything that is wrong with the copies. Damage outweighs a host that does not answer.
func (r VerifyResult) copyFaults() error {
	f := &fault.Error{Op: "verify", Job: r.Cut.Job, Snapshot: r.Cut.ID}
	var lines []string
	var errs []error
	damaged := false
	for _, cp := range r.Copies {
		if cp.Err == nil {
			continue
		}
		lines = append(lines, fmt.Sprintf("images of %s on %s: %v", cp.Host, cp.Holder, cp.Err))
		errs = append(errs, cp.Err)
		damaged = damaged || fault.Is(cp.Err, fault.Integrity) || fault.Is(cp.Err, fault.NotFound)
	}
	if len(lines) == 0 {
		return nil
	}
	f.Kind, f.Err = fault.KindOf(errors.Join(errs...)), fmt.Errorf("%d of %d copies are not whole, or not known to be:\n  %s", len(lines), len(r.Copies), strings.Join(lines, "\n  "))
	if damaged {
		f.Kind, f.Next = fault.Integrity, fmt.Sprintf("ssctl repair %s heals what is damaged from another copy", r.Cut.ID)
	}
	return f
}

// checkChannels checks M8 from the ends that were read in the images.
func checkChannels(cut store.Cut, copies []CopyResult) (int, error) {
	fail := func(err error) (int, error) {
		return 0, &fault.Error{Kind: fault.Integrity, Op: "verify", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	var all []marker.End
	for _, h := range cut.Hosts {
		i := slices.IndexFunc(copies, func(cp CopyResult) bool { return cp.Host == h.Host && cp.Err == nil && !cp.Vault })
		if i < 0 {
			return fail(fmt.Errorf("no host holds the images of %s", h.Host))
		}
		all = append(all, copies[i].ends...) // the copies are equal: their digests are
	}
	all = slices.DeleteFunc(all, func(e marker.End) bool { // in the images they are as they were, and their other ends are in none
		return slices.ContainsFunc(cut.Ends, func(c store.CutEnd) bool {
			return c.Host == string(e.Host) && c.Local == e.Local && c.Remote == e.Remote
		})
	})
	channels, err := marker.Check(all, marker.OutsideClosed) // what was kept has no partner; the count tells of a channel that is missing
	if err != nil {
		return fail(err)
	}
	if len(channels) != len(cut.Channels) {
		return fail(fmt.Errorf("the images hold %d channels, the catalogue %d", len(channels), len(cut.Channels)))
	}
	return len(channels), nil
}

// verification is what verifyCopy needs beside the copy.
type verification struct {
	key      keys.Job
	readData bool
	statuses []orchestrator.HostStatus
}

func verifyCopy(ctx context.Context, c *orchestrator.Cluster, cut store.Cut, cp *CopyResult, how verification) {
	req := orchestrator.VerifyRequest{Key: images.Key{Job: cut.Job, Snapshot: cut.ID, Host: cp.Host}, ReadData: how.readData}
	for _, h := range cut.Hosts {
		if h.Host == cp.Host {
			req.Digest = h.Manifest
		}
	}
	c.Doing(cp.Holder, "reading the images of "+cp.Host)
	var v orchestrator.Verified
	if cp.Vault { // of which only digests are compared, so nobody gets the key for it
		req.Vault = cp.Holder
		hosts, _ := orchestrator.Holders(cut)
		cp.Err = c.OnVault(ctx, how.statuses, hosts, func(a orchestrator.Agent) (err error) {
			v, err = a.VerifyImages(ctx, req)
			return err
		})
	} else {
		req.JobKey = &how.key
		var a orchestrator.Agent
		if a, cp.Err = c.Answering(how.statuses, cp.Holder); cp.Err == nil {
			v, cp.Err = a.VerifyImages(ctx, req)
		}
	}
	cp.Files, cp.Bytes, cp.ends = v.Files, v.Bytes, v.Ends
}
