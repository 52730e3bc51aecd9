package custody

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
)

// Copies puts one of this host's image sets where else it is to be: on the first hosts of a list that take it, and into
// every vault.
type Copies struct {
	h      *Holder
	key    images.Key
	hosts  []Peer   // that may hold a copy, best first
	wanted int      // how many of them must
	vaults []string // all must

	mu     sync.Mutex
	next   int // the first of hosts that nobody has asked yet
	copies []Peer
	stored []string // vaults that have it
	moved  int64
	errs   []error
}

// Copy prepares copies of an image set of this host: on wanted of the hosts, which are best first, and in all vaults.
func (h *Holder) Copy(key images.Key, hosts []Peer, wanted int, vaults []string) *Copies {
	return &Copies{h: h, key: key, hosts: hosts, wanted: wanted, vaults: vaults}
}

// Store seals a set in the making and makes its copies, which begin while it is being sealed. Where only the copies fail, what was sealed is returned with the error:
// it names every host and vault that did not take one, and why.
func (c *Copies) Store(ctx context.Context, p *images.Partial, info images.Info) (images.Sealed, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := newQueue()
	info.Stored = q.add
	var copying sync.WaitGroup
	var copied error
	copying.Go(func() { copied = c.run(ctx, q) })
	sealed, err := p.Seal(ctx, info)
	if err != nil {
		cancel() // before the queue's end, which would have them ask for the set
		copying.Wait()
		return images.Sealed{}, c.h.Stored(err)
	}
	q.end()
	copying.Wait()
	return sealed, copied
}

// run makes the copies, as many at once as are wanted. Where a host refuses, the next one is asked. q is what has been stored so far of a set that is
// still being sealed.
func (c *Copies) run(ctx context.Context, q *queue) error {
	var wg sync.WaitGroup
	for range min(c.wanted, len(c.hosts)) {
		wg.Go(func() {
			images.YieldToJob() // the job runs meanwhile
			c.place(ctx, q)
		})
	}
	for _, url := range c.vaults {
		wg.Go(func() {
			images.YieldToJob()
			c.deposit(ctx, url, q)
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	// As they were offered, not as they came to an end.
	at := func(p Peer) int {
		return slices.IndexFunc(c.hosts, func(o Peer) bool { return o.Host == p.Host })
	}
	slices.SortFunc(c.copies, func(a, b Peer) int { return at(a) - at(b) })
	slices.Sort(c.stored)
	var short []string
	if len(c.copies) < c.wanted {
		short = append(short, fmt.Sprintf("copies of the images needed on other hosts: %d, hosts asked: %d, copies stored: %d", c.wanted, c.next, len(c.copies)))
	}
	if len(c.stored) < len(c.vaults) {
		short = append(short, fmt.Sprintf("%d of %d vaults stored a copy of the images", len(c.stored), len(c.vaults)))
	}
	if len(short) == 0 {
		return nil
	}
	return &fault.Error{Err: &listed{strings.Join(short, ", and "), c.errs}, Next: "see ssctl host list and the vaults, or want fewer copies of the job"}
}

// listed is several errors, one a line, under a head.
type listed struct {
	head string
	errs []error
}

func (l *listed) Error() string {
	text := l.head
	for i, err := range l.errs {
		text += []string{":\n  ", "\n  "}[min(i, 1)] + err.Error()
	}
	return text
}

func (l *listed) Unwrap() []error { return l.errs }

// refusal is why a host or vault did not take a copy.
func refusal(where string, err error) error {
	if isFull(err) {
		return fmt.Errorf("%s: %w", where, &fullError{"its disk", err})
	}
	return fmt.Errorf("%s: %w", where, err)
}

// place asks one host after another, until one takes a copy.
func (c *Copies) place(ctx context.Context, q *queue) {
	for ctx.Err() == nil {
		c.mu.Lock()
		if c.next == len(c.hosts) {
			c.mu.Unlock()
			return
		}
		p := c.hosts[c.next]
		c.next++
		c.mu.Unlock()
		moved, err := c.push(ctx, keeping{c.h.cfg.Peers.Objects(p)}, q)
		c.mu.Lock()
		c.moved += moved.Bytes
		if err == nil {
			c.copies = append(c.copies, p)
			c.mu.Unlock()
			return
		}
		c.errs = append(c.errs, refusal(p.Host, err))
		c.mu.Unlock()
	}
}

// push puts a copy somewhere: what there is of the set as it is stored, and the rest once it is sealed.
func (c *Copies) push(ctx context.Context, to blob.Store, q *queue) (images.Moved, error) {
	ahead := c.h.cfg.Store.Ahead(ctx, c.key.Job, to, q.reader())
	if err := q.wait(ctx); err != nil {
		return ahead, err
	}
	moved, err := c.h.cfg.Store.Push(ctx, c.key, to)
	moved.Bytes += ahead.Bytes
	return moved, err
}

// deposit puts a copy into a vault.
func (c *Copies) deposit(ctx context.Context, url string, q *queue) {
	var moved images.Moved
	v, err := c.h.vault(ctx, url)
	if err == nil {
		moved, err = c.push(ctx, v, q)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved += moved.Bytes
	if err != nil {
		c.errs = append(c.errs, refusal(url, err))
		return
	}
	c.stored = append(c.stored, url)
}

// Undo has everyone forget the set: also those that failed, whose answer may be all that was lost. The error is about those
// that have it.
func (c *Copies) Undo(ctx context.Context) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	c.mu.Lock()
	asked, vaults, copies, stored := c.hosts[:c.next], c.vaults, slices.Clone(c.copies), slices.Clone(c.stored)
	c.mu.Unlock()
	add := func(has bool, where string, err error) {
		if !has || err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, fmt.Errorf("copy of the images in %s: %w", where, err))
	}
	for _, p := range asked {
		wg.Go(func() {
			has := slices.ContainsFunc(copies, func(o Peer) bool { return o.Host == p.Host })
			add(has, p.Host, c.h.cfg.Peers.SettleImages(ctx, p, c.key, false))
		})
	}
	for _, url := range vaults {
		wg.Go(func() {
			add(slices.Contains(stored, url), url, c.h.withdraw(ctx, url, c.key))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Settle tells the holders that the set's cut exists.
func (c *Copies) Settle(ctx context.Context) {
	for _, p := range c.copies {
		if err := c.h.cfg.Peers.SettleImages(ctx, p, c.key, true); err != nil {
			// The copy stays in doubt until ssctl next asks that host: nothing is lost.
			c.h.cfg.Log.Warn("copy not told of the commit", "job", c.key.Job, "host", p.Host, "error", err)
		}
	}
}

// Holders names the hosts that have the set, this one first.
func (c *Copies) Holders() []string {
	out := []string{c.h.cfg.Host}
	for _, p := range c.copies {
		out = append(out, p.Host)
	}
	return out
}

// Vaults are the URLs of the vaults that have the set.
func (c *Copies) Vaults() []string { return c.stored }

// Moved is how many bytes went to other hosts and vaults.
func (c *Copies) Moved() int64 { return c.moved }

// keeping is another host's objects, of which none can be removed from here. Its agent compares them with their names.
type keeping struct{ Objects }

// ComparesObjects is images.Comparing's.
func (keeping) ComparesObjects() {}

func (keeping) Remove(_ context.Context, name string) error {
	return fmt.Errorf("remove %s from another host: %w", name, blob.ErrDenied)
}

// vault opens a vault. The error says which it is, and never with what credentials.
func (h *Holder) vault(ctx context.Context, url string) (blob.Store, error) {
	v, err := blob.OpenURL(ctx, url, blob.Options{CredentialsFile: h.cfg.VaultCredentials})
	if err != nil {
		return nil, fmt.Errorf("open the vault %s: %w", url, err)
	}
	return v, nil
}

func (h *Holder) push(ctx context.Context, key images.Key, url string) (images.Moved, error) {
	v, err := h.vault(ctx, url)
	if err != nil {
		return images.Moved{}, err
	}
	return h.cfg.Store.Push(ctx, key, v)
}

// withdraw removes the sets of an attempt from a vault. Those of a cut that exists stay, whatever the caller believes.
func (h *Holder) withdraw(ctx context.Context, url string, key images.Key) error {
	v, err := h.vault(ctx, url)
	if err != nil {
		return err
	}
	if _, err := v.Stat(ctx, images.CutName(key.Job, key.Snapshot)); !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	_, err = images.RemoveIn(ctx, v, key.Job, key.Snapshot)
	return err
}

// sources are the other hosts and the vaults that may hold a set. Nothing is opened before it is needed.
func (h *Holder) sources(hosts []Peer, vaults []string) []images.Source {
	var out []images.Source
	for _, p := range hosts {
		if p.Host != h.cfg.Host {
			out = append(out, images.Source{Name: p.Host, Reader: h.cfg.Peers.Objects(p)})
		}
	}
	for _, url := range vaults {
		out = append(out, images.Source{Name: url, Reader: &lateVault{h: h, url: url}})
	}
	return out
}

// lateVault is a vault that is opened when something is read from it: what is whole here needs none, and one that is not there
// leaves the others to be asked.
type lateVault struct {
	h   *Holder
	url string

	mu sync.Mutex
	v  blob.Store
}

func (l *lateVault) open(ctx context.Context) (blob.Store, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.v == nil {
		v, err := l.h.vault(ctx, l.url)
		if err != nil {
			return nil, err
		}
		l.v = v
	}
	return l.v, nil
}

func (l *lateVault) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	v, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return v.Get(ctx, name, off, n)
}

func (l *lateVault) Stat(ctx context.Context, name string) (blob.Info, error) {
	v, err := l.open(ctx)
	if err != nil {
		return blob.Info{}, err
	}
	return v.Stat(ctx, name)
}

func (l *lateVault) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	v, err := l.open(ctx)
	if err != nil {
		return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, err) }
	}
	return v.List(ctx, prefix)
}
