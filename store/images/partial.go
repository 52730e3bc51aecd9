package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"ss/names"
	"ss/store/keys"
	"ss/store/pack"
)

// Partial is an image set in the making: a folder of plain files. Nobody sees it until Seal.
type Partial struct {
	s      *Store
	key    Key
	dir    string
	moved  bool // its manifest may be there, perhaps not durably
	sealed bool // it is a set
	gone   bool // nothing is left in the staging folder
	eaten  bool // some of the plain files' room has been given back: they cannot be sealed again
}

// Begin starts an image set. Where there is one of that key already, whole or partial, the error wraps ErrExists. Where the dumps
// take all that they may, it wraps ErrNoSpace.
func (s *Store) Begin(key Key) (*Partial, error) {
	p, err := s.begin(key)
	if err != nil {
		return nil, fmt.Errorf("begin images of %s: %w", key, err)
	}
	return p, nil
}

func (s *Store) begin(key Key) (*Partial, error) {
	there, err := s.has(key)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, ErrExists
	}
	left, err := s.stagingLeft()
	if err == nil && left == 0 {
		s.DropKept()
		left, err = s.stagingLeft()
	}
	if err != nil {
		return nil, err
	}
	if left == 0 {
		return nil, fmt.Errorf("%w for dumps in %s: wait until those there are stored, or raise its limit: %w", ErrNoSpace, s.staging, errStagingFull)
	}
	s.stageMu.Lock()
	defer s.stageMu.Unlock()
	p := &Partial{s: s, key: key, dir: filepath.Join(s.staging, key.Job, key.Snapshot, key.Host)}
	for _, dir := range []string{filepath.Join(s.staging, key.Job), filepath.Join(s.staging, key.Job, key.Snapshot)} {
		if err := s.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			pruneDirs(s.staging, dir)
			return nil, err
		}
	}
	if err := s.mkdir(p.dir); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("another is at it, or was interrupted: %w", ErrExists)
	} else if err != nil {
		pruneDirs(s.staging, filepath.Dir(p.dir))
		return nil, err
	}
	return p, nil
}

var errStagingFull = errors.New("the staging folder is full")

// Staging is the folder that image sets are made in.
func (s *Store) Staging() string { return s.staging }

// Key is the set's.
func (p *Partial) Key() Key { return p.key }

// Dir makes, the first time, and returns the folder for a member's images (0700), in the staging folder. What is put there must be regular files, in
// folders at will.
func (p *Partial) Dir(member string) (string, error) {
	if !names.Valid(member) {
		return "", fmt.Errorf("images of %s: member %q: %w", p.key, member, ErrInvalid)
	}
	dir := filepath.Join(p.dir, member)
	if err := p.s.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("images of %s: %w", p.key, p.s.noRoom(err))
	}
	return dir, nil
}

// Info is what a set says beside what is in the files.
type Info struct {
	Epoch    uint64
	Meta     json.RawMessage // kept in the index: encrypted
	JobKey   keys.Job
	Progress func(bytes int64) // read so far; nil: nobody
	// Stored is told of each new pack once it is durable here, while others are still written: Ahead may send it on. Nobody knows yet whether there will
	// be a set. nil: nobody is told.
	Stored func(ref ObjectRef)
}

// Sealed is what Seal made.
type Sealed struct {
	Manifest Manifest
	Ingested pack.Ingested
}

// Seal stores the files as objects, durably, and then makes them the set of its key, in doubt until Commit. The plain files are removed, unless dumps are kept:
// of a large set, the room of what is in durable packs is given back while others are still written. After an error, Discard it, or Seal it again, if nothing of it was
// given back (ErrInvalid). Cancelling ctx stops it while the set is still invisible, and
// has no effect later. Where there is no room the error wraps ErrNoSpace.
func (p *Partial) Seal(ctx context.Context, info Info) (Sealed, error) {
	sealed, err := p.seal(ctx, info)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal images of %s: %w", p.key, p.s.noRoom(err))
	}
	return sealed, nil
}

func (p *Partial) seal(ctx context.Context, info Info) (Sealed, error) {
	if p.sealed || p.gone || p.eaten {
		return Sealed{}, fmt.Errorf("sealed or discarded before, or room of its files was given back: %w", ErrInvalid)
	}
	if err := p.retract(); err != nil {
		return Sealed{}, err
	}
	s := p.s
	held := s.pins.pin()
	defer held.release()
	known, err := s.known(ctx, p.key, info.JobKey, held)
	if err != nil {
		return Sealed{}, err
	}
	made := &sink{s: s, job: p.key.Job, held: held}
	opt := pack.IngestOptions{Pause: s.opt.Pause, Progress: info.Progress}
	if info.Stored != nil {
		opt.Stored = func(ref pack.PackRef) { info.Stored(refOf(ref)) }
	}
	if s.Frees() {
		opt.Release = p.release
	}
	x, ingested, err := pack.Ingest(ctx, p.dir, info.JobKey, known, made, opt)
	var m Manifest
	var data []byte
	if err == nil {
		m, data, err = p.describe(ctx, x, info, made)
	}
	if err != nil {
		held.release()
		return Sealed{}, errors.Join(err, made.drop())
	}
	p.moved = true
	err = s.putManifest(ctx, p.key, data, false)
	if errors.Is(err, ErrExists) { // somebody else's, which came meanwhile
		p.moved = false
		held.release()
		return Sealed{}, errors.Join(err, made.drop())
	}
	if err != nil {
		// So that nobody takes for a set what may not survive a crash. Its objects go only if the manifest is gone for certain.
		if retractErr := p.retract(); retractErr != nil {
			return Sealed{}, errors.Join(err, retractErr)
		}
		held.release()
		return Sealed{}, errors.Join(err, made.drop())
	}
	p.sealed, p.moved = true, false
	if s.opt.KeepDumps {
		p.keep(ctx, m)
	} else {
		_ = p.clear() // the set is whole. What stays is tried again by Discard, and by RemovePartials
	}
	return Sealed{Manifest: m, Ingested: ingested}, nil
}

// describe stores the index and makes the manifest.
func (p *Partial) describe(ctx context.Context, x pack.Index, info Info, made *sink) (Manifest, []byte, error) {
	x.Meta = info.Meta
	form, err := x.Encode(info.JobKey)
	if err != nil {
		return Manifest{}, nil, err
	}
	index, err := made.put(ctx, form)
	if err != nil {
		return Manifest{}, nil, err
	}
	m := Manifest{
		Schema: schema, Job: p.key.Job, Snapshot: p.key.Snapshot, Epoch: info.Epoch, Host: p.key.Host,
		Created: p.s.now().UTC().Truncate(time.Millisecond), KeyID: info.JobKey.ID(),
		Files: len(x.Files), Bytes: x.Bytes(), Index: index, Packs: []ObjectRef{},
	}
	for _, ref := range x.Packs {
		m.Packs = append(m.Packs, refOf(ref))
	}
	data, err := m.encode()
	if err != nil {
		return Manifest{}, nil, err
	}
	// What is written must be readable: the same function decides both.
	if m, err = DecodeManifest(data); err != nil {
		return Manifest{}, nil, err
	}
	return m, data, context.Cause(ctx)
}

func refOf(p pack.PackRef) ObjectRef { return ObjectRef{p.Digest, p.Size, crcText(p.CRC32C)} }

// retract takes back a manifest of which Seal could not say that it is durable.
func (p *Partial) retract() error {
	if !p.moved {
		return nil
	}
	if err := p.s.Remove(p.key); err != nil {
		return err
	}
	p.moved = false
	return nil
}

// clear removes the plain files.
func (p *Partial) clear() error {
	if p.gone {
		return nil
	}
	p.s.stageMu.Lock()
	defer p.s.stageMu.Unlock()
	if err := p.s.removeAll(p.dir); err != nil {
		return err
	}
	p.gone = true // another may begin under this key now; this one is done with
	pruneDirs(p.s.staging, filepath.Dir(p.dir))
	return nil
}

// Discard removes the set in the making, also when Seal failed at its last step. After a Seal that went well, and after another
// Discard, it does nothing, but for plain files that could not be removed then.
func (p *Partial) Discard() error {
	if err := errors.Join(p.retract(), p.clear()); err != nil {
		return fmt.Errorf("discard images of %s: %w", p.key, err)
	}
	return nil
}

// sink takes the packs of one ingest. They are pinned before they have their names.
type sink struct {
	s    *Store
	job  string
	held *pin

	mu   sync.Mutex
	made []string // names of what is new
}

// Create is pack.Sink's.
func (k *sink) Create(ctx context.Context) (pack.Incoming, error) {
	in, err := k.s.objects.Create(ctx)
	if err != nil {
		return nil, err
	}
	return &sinking{in, k}, nil
}

type sinking struct {
	incoming
	sink *sink
}

// incoming is what *blob.Incoming does.
type incoming interface {
	Write(p []byte) (int, error)
	Commit(name string) error
	Discard() error
}

// Commit is pack.Incoming's.
func (i *sinking) Commit(digest string) error {
	name := ObjectName(i.sink.job, digest)
	i.sink.held.hold(name)
	i.sink.mu.Lock()
	i.sink.made = append(i.sink.made, name)
	i.sink.mu.Unlock()
	return i.incoming.Commit(name)
}

// put stores what is in memory.
func (k *sink) put(ctx context.Context, data []byte) (ObjectRef, error) {
	in, err := k.Create(ctx)
	if err != nil {
		return ObjectRef{}, err
	}
	ref := ObjectRef{digest(data), int64(len(data)), crcText(crcOf(data))}
	if _, err := in.Write(data); err != nil {
		return ObjectRef{}, errors.Join(err, in.Discard())
	}
	return ref, in.Commit(ref.Digest)
}

// drop removes what was stored, after a failure: it takes room, and is of no use, as nobody else can have made the same (each pack
// and index is encrypted under a key or nonce of its own).
func (k *sink) drop() error {
	var errs []error
	for _, name := range k.made {
		_, err := k.s.pins.unlessKept(nil, name, func() error { return k.s.objects.Remove(context.Background(), name) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
