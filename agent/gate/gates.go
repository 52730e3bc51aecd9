package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables/expr"

	"ss/agent"
)

// Close closes all the given gates in one transaction of the kernel. When it returns, no packet that they
// describe passes. A gate that is closed already also holds what the new description adds; if it was settled,
// it holds everything again. On error, no gate has been closed that was not closed before; only if waiting for
// the packets in flight failed, all are, and OpenAll opens them.
func (k *Manager) Close(ctx context.Context, gates []agent.Gate) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("close gates: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return errShutdown
	}
	var added []*part
	fresh := map[gateKey]*gate{}
	for _, g := range gates {
		p, err := k.prepare(g, fresh)
		if err != nil {
			return errors.Join(fmt.Errorf("close gate of job %s toward %s: %w", g.Job, g.Peer, err), k.undo(fresh))
		}
		if p != nil {
			added = append(added, p)
		}
	}
	if len(added) == 0 {
		return nil
	}
	if err := k.commit(fresh, added); err != nil {
		return errors.Join(fmt.Errorf("close gates: %w", err), k.undo(fresh))
	}
	return waitForOldRules()
}

// prepare makes the part for spec, and binds the queue if the gate is not closed yet: a queue that nobody listens to drops.
func (k *Manager) prepare(spec agent.Gate, fresh map[gateKey]*gate) (*part, error) {
	key := gateKey{spec.Job, spec.Peer}
	w := want(spec, k.opts.Host)
	if w.empty() {
		return nil, nil
	}
	if len(w.cgroups) > 0 && k.noCgroups != nil {
		return nil, fmt.Errorf("the kernel cannot match sockets by cgroup (it takes Linux 5.13 with CONFIG_NFT_SOCKET): %w", k.noCgroups)
	}
	k.made++
	g := k.gates[key]
	if g == nil {
		g = fresh[key]
	}
	if g == nil {
		g = &gate{key: key, action: fmt.Sprintf("g%d", k.made)}
		if k.mode != ModeDrop {
			q, err := k.takeQueue()
			if err != nil {
				return nil, err
			}
			g.queue = q
		}
		fresh[key] = g
	}
	return &part{
		id: k.made, gate: g, want: w,
		// For a person who lists the ruleset.
		comment: fmt.Sprintf("job %s, peer %s", key.job, key.peer),
	}, nil
}

// commit puts the rules of added into force and the gates of fresh into the books.
func (k *Manager) commit(fresh map[gateKey]*gate, added []*part) error {
	again := map[*gate]bool{}
	for _, p := range added {
		if fresh[p.gate.key] == nil && !again[p.gate] {
			again[p.gate] = true
			if err := k.pass(p.gate, passNone); err != nil {
				return err
			}
		}
	}
	c := change{parts: append(k.parts(nil), added...), added: added, actions: map[string][]expr.Any{}}
	for _, g := range fresh {
		c.actions[g.action] = k.hold(g)
	}
	if err := k.table.apply(c); err != nil {
		return err
	}
	maps.Copy(k.gates, fresh)
	for _, p := range added {
		p.gate.parts = append(p.gate.parts, p)
	}
	return nil
}

// hold is what becomes of the packets of a closed gate.
func (k *Manager) hold(g *gate) []expr.Any {
	if g.queue == nil {
		return dropAction(false)
	}
	return queueAction(k.mode, g.queue.num)
}

// undo lets go of queues that no rule leads to.
func (k *Manager) undo(fresh map[gateKey]*gate) error {
	var errs error
	for _, g := range fresh {
		if g.queue != nil {
			errs = errors.Join(errs, g.queue.close())
			k.queues.give(g.queue.num)
		}
	}
	return errs
}

// parts are those of all gates but the ones in without, in the order they were made.
func (k *Manager) parts(without map[gateKey]*gate) []*part {
	var parts []*part
	for key, g := range k.gates {
		if without[key] == nil {
			parts = append(parts, g.parts...)
		}
	}
	slices.SortFunc(parts, func(a, b *part) int { return cmp.Compare(a.id, b.id) })
	return parts
}

// Settle lets packets of existing connections through a closed gate, those it holds first, in order. It goes
// on holding handshakes (SYN and SYN-ACK). Settling what is not closed is not an error.
func (k *Manager) Settle(_ context.Context, job, peer string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.gates[gateKey{job, peer}]
	if g == nil {
		return nil
	}
	if err := k.pass(g, passData); err != nil {
		return fmt.Errorf("settle gate of job %s toward %s: %w", job, peer, err)
	}
	return nil
}

// Seal ends Settle for all gates of the job. When it returns, nothing passes.
func (k *Manager) Seal(_ context.Context, job string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range k.gates {
		if g.key.job != job {
			continue
		}
		if err := k.pass(g, passNone); err != nil {
			return fmt.Errorf("seal gate of job %s toward %s: %w", job, g.key.peer, err)
		}
	}
	return nil
}

// Discard drops what the job's gates hold now, and keeps them closed. It is for packets of sockets that are
// gone, between the end of a job's processes and its restore: a FIN or RST of the old sockets that is let
// go later would end the restored connections.
func (k *Manager) Discard(_ context.Context, job string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range k.gates {
		if g.key.job != job || g.queue == nil {
			continue
		}
		if err := g.queue.discard(); err != nil {
			return fmt.Errorf("discard what gate of job %s toward %s holds: %w", job, g.key.peer, err)
		}
	}
	return nil
}

// Open releases what the gate holds, in order, and removes it. Opening what is not closed is not an error. It does
// not heed the context: a gate must not stay closed because its caller is late. On error the rules may still be
// there, while packets pass; Open can be called again.
func (k *Manager) Open(_ context.Context, job, peer string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.open(func(key gateKey) bool { return key == gateKey{job, peer} }); err != nil {
		return fmt.Errorf("open gate of job %s toward %s: %w", job, peer, err)
	}
	return nil
}

// OpenAll opens every gate of the job, as Open does.
func (k *Manager) OpenAll(_ context.Context, job string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.open(func(key gateKey) bool { return key.job == job }); err != nil {
		return fmt.Errorf("open gates of job %s: %w", job, err)
	}
	return nil
}

// open opens the gates that which names. Packets pass before the rules go, so that one that no longer meets a
// rule finds none before it to overtake.
func (k *Manager) open(which func(gateKey) bool) error {
	opening := map[gateKey]*gate{}
	var errs error
	var c change
	for key, g := range k.gates {
		if !which(key) {
			continue
		}
		if g.queue != nil {
			errs = errors.Join(errs, g.queue.letPass(passAll))
		}
		opening[key] = g
		c.removed = append(c.removed, g.parts...)
		c.gone = append(c.gone, g.action)
	}
	if len(opening) == 0 {
		return nil
	}
	c.parts = k.parts(opening)
	if err := k.table.apply(c); err != nil {
		return errors.Join(errs, err)
	}
	var queued []*gate
	for key, g := range opening {
		delete(k.gates, key)
		if g.queue != nil {
			queued = append(queued, g)
		}
	}
	if len(queued) > 0 {
		k.drains.Go(func() { k.retire(queued) })
	}
	return errs
}

// retire unbinds the queues of gates that no rule leads to any more, once the last packet that met such a rule is through.
func (k *Manager) retire(gates []*gate) {
	err := grace()
	for _, g := range gates {
		err = errors.Join(err, g.queue.close())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range gates {
		if n := g.queue.lostSoFar(); n > 0 {
			k.lost += n
			k.opts.Log.Warn("packets were dropped that a gate should have held: connections wait until TCP sends them again",
				"job", g.key.job, "peer", g.key.peer, "packets", n)
		}
		k.queues.give(g.queue.num)
	}
	if err != nil {
		k.drain = fmt.Errorf("empty the queue of an open gate: %w", err)
	}
}

// pass sets what passes through a closed gate.
func (k *Manager) pass(g *gate, p passing) error {
	if g.queue != nil {
		return g.queue.letPass(p)
	}
	k.table.setAction(g.action, dropAction(p == passData))
	if err := k.table.flush(); err != nil {
		return err
	}
	return waitForOldRules()
}
