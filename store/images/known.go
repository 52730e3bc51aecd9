package images

import (
	"context"
	"errors"
	"fmt"

	"ss/internal/disk"
	"ss/store/blob"
	"ss/store/keys"
	"ss/store/pack"
)

const (
	// leastUse is how much of a pack the latest set must still use for another set to build on it: one in leastUse of its chunks. A
	// pack that has become sparse is abandoned, and goes with the cuts that use it; packs are never written again.
	leastUse = 2
	// maxForeign bounds the chunks that are known from other hosts' sets, and with them the memory that this takes. What this host's own
	// set has is known always: it is as much as the members themselves.
	maxForeign = 1 << 20
)

// known finds the packs that a set of key can build on, and pins them: those of the latest set of each host of the job, as far as they use
// enough of them. What cannot be read is not known; a snapshot does not fail for it.
func (s *Store) known(ctx context.Context, key Key, k keys.Job, held *pin) (*pack.Known, error) {
	latest, err := s.latest(ctx, key.Job, k.ID())
	if err != nil {
		return nil, err
	}
	kn, seen, foreign := &pack.Known{}, map[string]bool{}, 0
	add := func(m Manifest, limit int) (chunks int, err error) {
		x, err := s.usable(ctx, m, k)
		if err != nil || x == nil {
			return 0, err
		}
		used := x.Used()
		for i, ref := range x.Packs {
			if seen[ref.Digest] || used[i]*leastUse < ref.Chunks || chunks+ref.Chunks > limit {
				continue
			}
			if err := s.pause(ctx); err != nil {
				return 0, err
			}
			table := s.table(ctx, m.Key(), ref, k, held)
			if table == nil {
				continue
			}
			kn.Add(ref, table)
			seen[ref.Digest] = true
			chunks += len(table)
		}
		return chunks, nil
	}
	const all = int(^uint(0) >> 1)
	if m, ok := latest[key.Host]; ok {
		if _, err := add(m, all); err != nil {
			return nil, err
		}
	}
	for host, m := range latest {
		if host == key.Host {
			continue
		}
		n, err := add(m, maxForeign-foreign)
		if err != nil {
			return nil, err
		}
		foreign += n
	}
	return kn, nil
}

// latest finds each host's latest set of a job, of those made under one key.
func (s *Store) latest(ctx context.Context, job, keyID string) (map[string]Manifest, error) {
	sets, err := s.sets(ctx, job)
	if err != nil {
		return nil, err
	}
	latest := map[string]Manifest{}
	for _, set := range sets {
		m := set.Manifest
		if m.KeyID != keyID { // also where it is damaged
			continue
		}
		if before, ok := latest[m.Host]; !ok || before.Epoch <= m.Epoch { // sets come in the order of their snapshots
			latest[m.Host] = m
		}
	}
	return latest, nil
}

// usable reads a set's index; nil where it cannot be read. Damage is noted.
func (s *Store) usable(ctx context.Context, m Manifest, k keys.Job) (*pack.Index, error) {
	x, err := readIndex(ctx, s.objects, m, k)
	switch {
	case err == nil:
		return &x, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	s.noteIn(m.Key(), m.Index.Digest, err)
	return nil, nil
}

// noteIn notes damage in a set, unless that has been removed: its objects may be gone then. What is of another version or key is not damaged, and
// neither is what could not be opened just now.
func (s *Store) noteIn(key Key, digest string, fault error) {
	if !isIntegrity(fault) {
		return
	}
	if there, err := s.has(key); err == nil && there {
		s.note(key.Job, digest, fault)
	}
}

// table reads the names of a pack's chunks and pins it; nil where the pack cannot be read. Damage is noted. The pin comes first: see pins.
func (s *Store) table(ctx context.Context, set Key, ref pack.PackRef, k keys.Job, held *pin) []pack.Name {
	name := ObjectName(set.Job, ref.Digest)
	held.hold(name)
	table, err := s.readTable(ctx, name, ref, k)
	if err != nil && ctx.Err() == nil {
		s.noteIn(set, ref.Digest, err)
	}
	return table
}

func (s *Store) readTable(ctx context.Context, name string, ref pack.PackRef, k keys.Job) ([]pack.Name, error) {
	info, err := s.objects.Stat(ctx, name)
	if err != nil {
		return nil, asFault(name, err)
	}
	if info.Size != ref.Size {
		return nil, wrongSize(name, info.Size, ref.Size)
	}
	f, _, err := disk.OpenRegular(s.objects.Path(name))
	if err != nil {
		return nil, asFault(name, err)
	}
	defer f.Close()
	table, err := pack.ReadTable(f, ref.Size, k)
	if err == nil && len(table) != ref.Chunks {
		err = fmt.Errorf("%d chunks in the table, and %d in the index: %w", len(table), ref.Chunks, pack.ErrDamaged)
	}
	if errors.Is(err, pack.ErrDamaged) {
		return nil, &IntegrityError{Object: name, Detail: err.Error()}
	}
	if err != nil {
		return nil, asFault(name, err)
	}
	return table, nil
}

// readIndex reads the index that a manifest names, from anywhere, and checks that both agree.
func readIndex(ctx context.Context, r blob.Reader, m Manifest, k keys.Job) (pack.Index, error) {
	if m.KeyID != k.ID() {
		return pack.Index{}, fmt.Errorf("images of %s were written under key %s, and this is key %s: %w", m.Key(), m.KeyID, k.ID(), pack.ErrKey)
	}
	data, err := readObject(ctx, r, m.Job, m.Index)
	if err != nil {
		return pack.Index{}, err
	}
	name := ObjectName(m.Job, m.Index.Digest)
	x, err := pack.DecodeIndex(data, k)
	switch {
	case errors.Is(err, pack.ErrUnknownVersion):
		return pack.Index{}, fmt.Errorf("%s: %w: %w", name, ErrUnknownVersion, err)
	case errors.Is(err, pack.ErrDamaged):
		return pack.Index{}, &IntegrityError{Object: name, Detail: err.Error()}
	case err != nil:
		return pack.Index{}, fmt.Errorf("%s: %w", name, err)
	}
	agree := len(x.Packs) == len(m.Packs) && len(x.Files) == m.Files && x.Bytes() == m.Bytes
	for i := 0; agree && i < len(x.Packs); i++ {
		agree = refOf(x.Packs[i]) == m.Packs[i]
	}
	if !agree {
		return pack.Index{}, &IntegrityError{Object: name, Detail: "it does not agree with the manifest of " + m.Key().String()}
	}
	return x, nil
}
