package orchestrator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/store"
	"ss/store/archive"
	"ss/store/images"
	"ss/store/keys"
)

// ageIntro is how an encrypted export begins (https://age-encryption.org/v1).
const ageIntro = "age-encryption.org/"

// ImportOptions says what comes in, and where to.
type ImportOptions struct {
	File  string
	Job   string            // "": as it was called
	Hosts map[string]string // host of the cut → host that gets its images; others by name, or by room
}

// ImportResult says what became of it.
type ImportResult struct {
	Cut     store.Cut
	From    string // id of the cluster that it comes from
	Targets map[string]string
}

// Import makes a cut of what Export wrote. Until every byte of the file has been seen to be as it was written, there is no cut; if it is
// not, or anything else fails, nothing stays.
func (c *Cluster) Import(ctx context.Context, opt ImportOptions) (ImportResult, error) {
	im := &importing{c: c, opt: opt, targets: map[string]string{}, made: map[string]Imported{}}
	err := im.run(ctx)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			err = &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "nothing was imported"}
		case errors.Is(err, archive.ErrDamaged):
			err = &fault.Error{Kind: fault.Integrity, Err: err, Next: "nothing was imported; get the file again from where it came"}
		}
		return ImportResult{}, &fault.Error{Op: "import", Err: fmt.Errorf("%s: %w", opt.File, err)}
	}
	return ImportResult{Cut: im.cut, From: im.file.Cluster.ID, Targets: im.targets}, nil
}

// damaged says that a file is an export of another form than the cut's manifest says.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", archive.ErrDamaged, fmt.Errorf(format, args...))
}

func short(n, size int64) error {
	if n != size {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// importing is one import under way.
type importing struct {
	c        *Cluster
	opt      ImportOptions
	archive  *archive.Reader
	file     store.CutFile
	job      store.Job
	newJob   bool
	jobKey   keys.Job
	vaults   []string
	copies   int // beside the target
	statuses []HostStatus
	targets  map[string]string // host of the cut → host here
	at       store.Attempt
	made     map[string]Imported // by host of the cut
	cut      store.Cut

	manifest []byte // of cut, made before the commit; nil if it could not be made
}

func (im *importing) run(ctx context.Context) error {
	f, err := os.Open(im.opt.File)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := im.plain(f)
	if err != nil {
		return err
	}
	im.archive = archive.NewReader(plain)
	if err := im.readManifest(ctx); err != nil {
		return err
	}
	if err := im.prepare(ctx); err != nil {
		return errors.Join(err, im.forgetJob(noted(ctx)))
	}
	if err := im.take(ctx); err != nil {
		return errors.Join(err, im.undo(ctx))
	}
	im.c.publish(ctx, im.cut, im.manifest, im.statuses)
	return nil
}

// plain decrypts the file if it is encrypted.
func (im *importing) plain(f io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(f, 1<<20)
	begin, err := r.Peek(len(ageIntro))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(begin, []byte(ageIntro)) {
		return r, nil
	}
	const next = "give --identity FILE with an identity of one of the recipients that it was exported to"
	if im.c.Identities == nil {
		return nil, fault.New(fault.Denied, "it is encrypted", next)
	}
	identities, err := im.c.Identities()
	if err != nil {
		return nil, &fault.Error{Kind: fault.Denied, Err: err, Next: next}
	}
	out, err := keys.DecryptFrom(r, identities...)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Denied, Err: fmt.Errorf("decrypt it: %w", err), Next: next}
	}
	return out, nil
}

// witness lets every signature pass and remembers what is wrong with it: that of another cluster cannot be checked here.
type witness struct {
	inner store.Verifier
	err   error
}

func (w *witness) VerifySigned(data, signature, certificate []byte) error {
	if w.inner == nil {
		w.err = errors.New("there is nobody to check it")
		return nil
	}
	w.err = w.inner.VerifySigned(data, signature, certificate)
	return nil
}

func (im *importing) readManifest(ctx context.Context) error {
	data, err := im.archive.Manifest()
	if err != nil {
		return err
	}
	w := &witness{inner: im.c.Verifier}
	if im.file, err = store.DecodeCutFile(data, w); err != nil {
		return &fault.Error{Kind: fault.Integrity, Err: err, Next: "nothing was imported"}
	}
	cluster, err := im.c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	switch {
	case w.err == nil:
	case im.file.Cluster.ID == cluster.ID:
		return &fault.Error{Kind: fault.Integrity, Err: fmt.Errorf("the manifest says that it is of this cluster, but no admin of it signed it: %w", w.err), Next: "nothing was imported"}
	case im.opt.Job == "":
		if err := im.skim(); err != nil {
			return err
		}
		return fault.New(fault.Usage, fmt.Sprintf("the cut comes from another cluster (%s), where its job is called %s", im.file.Cluster.ID, im.file.Cut.Job),
			"say with --job which job it becomes a cut of here")
	default:
		im.c.Noticef("the cut comes from another cluster (%s): who signed it cannot be checked here, only that the file is whole", im.file.Cluster.ID)
	}
	im.cut = im.file.Cut
	if im.opt.Job != "" {
		im.cut.Job = im.opt.Job
	}
	return nil
}

// skim reads the rest of the archive, and says what is damaged in it: that is worse news than a job's name that is missing.
func (im *importing) skim() error {
	for {
		if _, err := im.archive.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// prepare chooses who gets what, and writes the intent down.
func (im *importing) prepare(ctx context.Context) error {
	cluster, err := im.c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	if old, err := im.c.Catalogue.Cut(ctx, "", im.cut.ID); err == nil && old.ID == im.cut.ID {
		return fmt.Errorf("there is a cut %s of job %s already: %w", old.ID, old.Job, store.ErrConflict)
	}
	_, err = im.c.Catalogue.Job(ctx, im.cut.Job)
	if errors.Is(err, store.ErrNotFound) {
		im.newJob = true
		err = im.c.Catalogue.SetPlacement(ctx, im.cut.Job, nil)
	}
	if err != nil {
		return err
	}
	if im.job, im.jobKey, err = im.c.ensureKey(ctx, im.cut.Job); err != nil {
		return err
	}
	if err := im.c.Catalogue.Advance(ctx); err != nil {
		return err
	}
	im.vaults = im.job.EffectiveVaults(cluster)
	im.copies = HostCopies(im.job.Policy.EffectiveCopies(), len(im.vaults)) - 1
	if im.statuses, err = im.c.Hosts(ctx); err != nil {
		return err
	}
	if err := Current(im.statuses); err != nil {
		return err
	}
	// An import of this very cut that died has left images, in doubt.
	if err := im.c.Resolve(ctx, im.statuses); err != nil {
		return err
	}
	if err := im.inTheWay(ctx); err != nil {
		return err
	}
	if err := im.choose(); err != nil {
		return err
	}
	var names []string
	for _, t := range im.targets {
		names = append(names, t)
	}
	im.at, err = im.c.begin(ctx, store.Attempt{ID: im.cut.ID, Kind: store.KindSnapshot, Job: im.cut.Job, Hosts: names, Phase: "import"})
	im.cut.Epoch = im.at.Epoch
	return err
}

// choose finds a host for each part: the one that is named, the one of the same name, or the one with the most room.
func (im *importing) choose() error {
	up := (Census{Statuses: slices.DeleteFunc(slices.Clone(im.statuses), func(h HostStatus) bool { return h.Err != nil })}).Candidates()
	if len(up) <= im.copies {
		return fault.New(fault.Unreachable, fmt.Sprintf("%s %s needed for the images; %s", english.Plural(im.copies+1, "host", ""), english.PluralWord(im.copies+1, "is", "are"), answering(len(up))), "ssctl host list says why; or add one")
	}
	for from := range im.opt.Hosts {
		if !slices.ContainsFunc(im.cut.Hosts, func(h store.CutHost) bool { return h.Host == from }) {
			return fault.New(fault.NotFound, fmt.Sprintf("the cut has no part of host %q", from), "")
		}
	}
	for _, h := range im.cut.Hosts {
		to := im.opt.Hosts[h.Host]
		if to == "" {
			to = h.Host
			if _, err := im.c.Answering(im.statuses, to); err != nil {
				roomy := slices.MaxFunc(up, func(a, b Candidate) int { return int((a.Free - b.Free) >> 20) })
				to = roomy.Name
			}
		}
		if _, err := im.c.Answering(im.statuses, to); err != nil {
			return err
		}
		im.targets[h.Host] = to
		for i := range up {
			if up[i].Name == to {
				up[i].Free -= bytesOf(h) // the next part may do better elsewhere
			}
		}
	}
	return nil
}

func bytesOf(h store.CutHost) int64 {
	var n int64
	for _, m := range h.Members {
		n += m.ImageBytes
	}
	return n
}

// take hands the sets to their hosts, looks at the end whether all of it was whole, and commits.
func (im *importing) take(ctx context.Context) error {
	for _, v := range im.vaults { // where nothing is in doubt: it stays, and what comes now is not the same
		if err := im.removeFrom(ctx, v); err != nil {
			return fmt.Errorf("%s: %w", v, err)
		}
	}
	if err := im.sets(ctx); err != nil {
		return err
	}
	if err := im.copyOut(ctx); err != nil {
		return err
	}
	im.cut.Hosts = slices.Clone(im.cut.Hosts)
	for i := range im.cut.Hosts {
		h := &im.cut.Hosts[i]
		got := im.made[h.Host]
		h.Manifest, h.Copies, h.Vaults = got.Digest, got.Copies, got.Vaults
		h.NewBytes, h.WroteBytes, h.MovedBytes = 0, 0, 0
	}
	im.cut.Key, im.cut.KeyID, im.cut.Pinned = im.job.Key, im.job.KeyID, false
	im.cut.Imported = &store.Imported{From: im.file.Cluster.ID, Time: time.Now().Round(0).UTC()}
	if err := ctx.Err(); err != nil {
		return err
	}
	im.manifest, _ = im.c.cutFile(noted(ctx), im.cut) // publish says why there is none
	return im.c.Catalogue.CommitCut(noted(ctx), im.cut)
}

// sets goes through the archive to its end.
func (im *importing) sets(ctx context.Context) (err error) {
	var w FileWriter
	host := ""
	defer func() {
		if w != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	finish := func() error {
		if w == nil {
			return nil
		}
		im.c.Doing(im.targets[host], "storing the images of "+host)
		got, err := w.Finish()
		w = nil
		if err != nil {
			return fmt.Errorf("images of %s, on %s: %w", host, im.targets[host], err)
		}
		im.made[host] = got
		return nil
	}
	for {
		e, err := im.archive.Next()
		if errors.Is(err, io.EOF) {
			return finish()
		}
		if err != nil {
			return err
		}
		if e.Path == "" {
			if err := finish(); err != nil {
				return err
			}
			host = e.Host
			if w, err = im.open(ctx, e); err != nil {
				return err
			}
			continue
		}
		if err := w.Next(PlainFile{Path: e.Path, Size: e.Size, Mode: e.Mode}); err != nil {
			return fmt.Errorf("images of %s, on %s: %w", host, im.targets[host], err)
		}
		if n, err := io.Copy(w, im.archive); err != nil || n != e.Size {
			return errors.Join(err, short(n, e.Size))
		}
	}
}

// open begins a set with the description of its members.
func (im *importing) open(ctx context.Context, e archive.Entry) (FileWriter, error) {
	target, ok := im.targets[e.Host]
	if _, twice := im.made[e.Host]; !ok || twice {
		return nil, damaged("images of %q, which is not a host of the cut or was there already", e.Host)
	}
	meta, err := io.ReadAll(im.archive)
	if err != nil {
		return nil, err
	}
	a, err := im.c.Answering(im.statuses, target)
	if err != nil {
		return nil, err
	}
	im.c.Doing(target, "taking the images of "+e.Host)
	return a.ImportImages(ctx, ImportOpen{Key: images.Key{Job: im.cut.Job, Snapshot: im.cut.ID, Host: e.Host}, Epoch: im.at.Epoch, Meta: meta,
		JobKey: im.jobKey, Vaults: im.vaults})
}

// copyOut has other hosts fetch what was imported: a host may put only images of its own on others.
func (im *importing) copyOut(ctx context.Context) error {
	for _, h := range im.cut.Hosts {
		got, ok := im.made[h.Host]
		if !ok {
			return damaged("it has no images of %s", h.Host)
		}
		var others []Candidate
		for _, o := range im.statuses {
			if o.Err == nil && !slices.Contains(got.Copies, o.Name) {
				others = append(others, Candidate{o.Name, o.Info.FreeBytes})
			}
		}
		from := Sources{Hosts: (Census{Statuses: im.statuses}).Participants(got.Copies), Vaults: got.Vaults}
		var errs []error
		for _, name := range OrderHolders(im.cut.Job, im.targets[h.Host], others, bytesOf(h)) {
			if len(got.Copies) > im.copies {
				break
			}
			a, err := im.c.Answering(im.statuses, name)
			if err == nil {
				im.c.Doing(name, "fetching the images of "+h.Host)
				_, err = a.FetchImages(ctx, images.Key{Job: im.cut.Job, Snapshot: im.cut.ID, Host: h.Host}, got.Digest, from)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				continue
			}
			got.Copies = append(got.Copies, name)
		}
		if len(got.Copies) <= im.copies {
			return fmt.Errorf("%s needed for copies of the images of %s; %s stored one: %w", neededHosts(im.copies), h.Host, few(len(got.Copies)-1), errors.Join(errs...))
		}
		im.made[h.Host] = got
	}
	return nil
}

// undo takes back what was made, unless there is a cut of it.
func (im *importing) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if cut, err := im.c.Catalogue.Cut(ctx, "", im.cut.ID); err == nil && cut.ID == im.cut.ID || err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrAmbiguous) {
		return err
	}
	var keys []images.Key
	for _, h := range im.cut.Hosts {
		keys = append(keys, images.Key{Job: im.cut.Job, Snapshot: im.cut.ID, Host: h.Host})
	}
	for _, h := range im.statuses {
		a, err := im.c.Answering(im.statuses, h.Name)
		if err == nil {
			err = a.ResolveImages(ctx, nil, keys)
		}
		if err != nil && h.Err == nil {
			im.c.Noticef("images of what was not imported are left on %s, in doubt: %v", h.Name, err)
		}
	}
	for _, v := range im.vaults {
		if err := im.removeFrom(ctx, v); err != nil {
			im.c.Noticef("images of what was not imported are left in %s until ssctl gc: %v", v, err)
		}
	}
	return errors.Join(im.c.Catalogue.EndAttempt(noted(ctx), im.at.ID), im.forgetJob(ctx))
}

// removeFrom takes images of the cut out of a vault, unless they are of a cut that exists: of another cluster, which has the vault, too.
func (im *importing) removeFrom(ctx context.Context, vault string) error {
	return im.c.OnVault(ctx, im.statuses, nil, func(a Agent) error {
		inv, err := a.Inventory(ctx, vault, im.cut.Job)
		if err != nil || inv.hasCut(im.cut.ID) {
			return err
		}
		return a.RemoveImages(ctx, Removal{Vault: vault, Job: im.cut.Job, Snapshot: im.cut.ID})
	})
}

// forgetJob removes a job that the import made, if nobody uses it yet.
func (im *importing) forgetJob(ctx context.Context) error {
	if !im.newJob {
		return nil
	}
	j, err := im.c.Catalogue.Job(ctx, im.cut.Job)
	if err != nil || len(j.Placement) > 0 { // somebody has started a member of it meanwhile
		return err
	}
	err = im.c.Catalogue.RemoveJob(ctx, im.cut.Job)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
