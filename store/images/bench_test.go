package images

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"ss/internal/yield"
)

// The table is what the store costs beside plain copies of the same files on the same disk. `make bench` prints it. It asserts nothing.
var (
	benchTable  = flag.Bool("table", false, "print what the store costs beside plain copies, and run no test")
	benchMiB    = flag.Int("table.mib", 256, "of memory in each set")
	benchRounds = flag.Int("table.n", 5, "rounds, of which the medians count")
)

// printTable is what this test binary does where -table asks for it (TestMain); it returns the exit status.
func printTable() int {
	began := time.Now()
	err := onDisk(func(dir string) error {
		rows, err := measureStore(dir, *benchMiB, *benchRounds, os.Stderr)
		if err != nil {
			return err
		}
		return printCosts(os.Stdout, rows, *benchMiB, *benchRounds, time.Since(began))
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: bench of the store:", err)
		return 1
	}
	return 0
}

// TestTable: with hardly any memory, every row of the table is measured.
func TestTable(t *testing.T) {
	rows, err := measureStore(t.TempDir(), 2, 1, io.Discard)
	ok(t, err)
	var out strings.Builder
	ok(t, printCosts(&out, rows, 2, 1, time.Second))
	if len(rows) != 2*len(benchRows) {
		t.Errorf("%d rows:\n%s", len(rows), out.String())
	}
	for _, r := range rows {
		if len(r.bare) != 1 || len(r.ours) != 1 || r.bare[0].wall <= 0 || r.ours[0].wall <= 0 {
			t.Errorf("%s: nothing measured: %+v, %+v", r.what, r.bare, r.ours)
		}
	}
}

// onDisk calls f with a folder that lies on a disk: on some systems /tmp is memory.
func onDisk(f func(dir string) error) error {
	base := os.TempDir()
	var on unix.Statfs_t
	if err := unix.Statfs(base, &on); err == nil && on.Type == unix.TMPFS_MAGIC {
		base = "/var/tmp"
	}
	dir, err := os.MkdirTemp(base, "ss-bench-store-")
	if err != nil {
		return err
	}
	return errors.Join(f(dir), os.RemoveAll(dir))
}

// cost is what one piece of work took.
type cost struct {
	wall, cpu time.Duration // cpu: of the whole process, user and system
	wrote     int64
}

// costs is a row of the table.
type costs struct {
	what       string
	bytes      int64 // that the work is about
	bare, ours []cost
}

// What is measured in every round.
const (
	copyDump      = "copy of the dump, fsync"
	ingestFirst   = "ingest of a first cut"
	ingestChanged = "ingest after 5 % of the pages changed"
	ingestSame    = "ingest after nothing changed"
	copyTwice     = "two copies of the dump at once, fsync"
	storeTwice    = "a first cut stored, and copied to a second store"
	copyPacks     = "copy of the packs, fsync"
	fetchOne      = "fetch from one copy"
	fetchTwo      = "fetch from two copies"
	copyPages     = "copy"
	unpackStore   = "unpack"
	unpackKept    = "unpack of the kept dump"
)

// benchRows are the rows of one kind of memory: ours, and what it is compared with.
var benchRows = []struct{ what, ours, bare string }{
	{ingestFirst + " ÷ cp, fsync", ingestFirst, copyDump},
	{ingestChanged + " ÷ cp, fsync", ingestChanged, copyDump},
	{ingestSame + " ÷ cp, fsync", ingestSame, copyDump},
	{storeTwice + " ÷ 2 cp, fsync", storeTwice, copyTwice},
	{fetchOne + " ÷ cp of the packs, fsync", fetchOne, copyPacks},
	{fetchTwo + " ÷ cp of the packs, fsync", fetchTwo, copyPacks},
	{unpackStore + " ÷ cp", unpackStore, copyPages},
	{unpackKept + " ÷ unpack", unpackKept, unpackStore},
}

// bench measures with one kind of memory.
type bench struct {
	dir   string // empty between two rounds, but for the folders of plain, one and two
	kind  string
	plain [2]string // pages-1.img as it was at the first cut, and with 5 % of its pages changed
	size  int64
	packs []string // and the index, of the first cut
	held  int64    // their length
	one   *Store   // holds key1, and its dump
	two   *Store   // holds key1
	round int
	took  map[string][]cost
}

func measureStore(dir string, mib, rounds int, log io.Writer) ([]costs, error) {
	var rows []costs
	for _, kind := range []string{"random", "mixed"} {
		b := &bench{dir: filepath.Join(dir, kind), kind: kind, size: int64(mib) << 20, took: map[string][]cost{}}
		if err := b.prepare(); err != nil {
			return nil, err
		}
		for b.round = range rounds {
			if err := b.run(); err != nil {
				return nil, fmt.Errorf("%s memory: %w", kind, err)
			}
			b.tell(log, rounds)
		}
		for _, r := range benchRows {
			about := b.size
			if r.bare == copyPacks {
				about = b.held
			}
			rows = append(rows, costs{kind + ": " + r.what, about, b.took[r.bare], b.took[r.ours]})
		}
		if err := os.RemoveAll(b.dir); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// tell says what the last round took.
func (b *bench) tell(log io.Writer, rounds int) {
	fmt.Fprintf(log, "%-6s round %d of %d:", b.kind, b.round+1, rounds)
	for _, r := range benchRows {
		fmt.Fprintf(log, " %.0f÷%.0f", ms(b.took[r.ours][b.round].wall), ms(b.took[r.bare][b.round].wall))
	}
	fmt.Fprintln(log, " ms")
}

// prepare makes the memory, and the two copies that a restore may find.
func (b *bench) prepare() error {
	memory := random(int(b.size), 1)
	if b.kind == "mixed" {
		mix(memory)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pages := int(b.size >> 12)
	for i := range b.plain {
		b.plain[i] = filepath.Join(b.dir, "plain", fmt.Sprint(i), "pages-1.img")
		if i == 1 {
			fresh := random(pages/20<<12, 2)
			for n, page := range rng.Perm(pages)[:pages/20] {
				copy(memory[page<<12:(page+1)<<12], fresh[n<<12:])
			}
		}
		if err := os.MkdirAll(filepath.Dir(b.plain[i]), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(b.plain[i], memory, 0o600); err != nil {
			return err
		}
	}
	var err error
	if b.one, err = Open(filepath.Join(b.dir, "one", "images"), Options{KeepDumps: true}); err != nil {
		return err
	}
	if b.two, err = Open(filepath.Join(b.dir, "two", "images"), Options{}); err != nil {
		return err
	}
	p, err := b.staged(b.one, key1, b.plain[0])
	if err != nil {
		return err
	}
	if _, err := p.Seal(context.Background(), infoOf(key1)); err != nil {
		return err
	}
	if _, err = b.two.Fetch(context.Background(), key1, "", false, []Source{asSource("one", b.one)}); err != nil {
		return err
	}
	if b.packs, err = filepath.Glob(filepath.Join(b.one.dir, key1.Job, objectsFolder, "*")); err != nil {
		return err
	}
	for _, p := range b.packs {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		b.held += info.Size()
	}
	return nil
}

// mix makes random memory more like a program's: of each eight pages two hold zeros, one what a page before it holds, three what
// compresses, and two are left.
func mix(memory []byte) {
	for at := 0; at+8<<12 <= len(memory); at += 8 << 12 {
		page := func(n int) []byte { return memory[at+n<<12 : at+(n+1)<<12] }
		clear(memory[at : at+2<<12])
		copy(page(2), page(7))
		for n := 3; n < 6; n++ { // 64 kinds of bytes, and a third of each page the same
			for i, c := range page(n) {
				page(n)[i] = c & 63
				if i > 2700 {
					page(n)[i] = byte(i >> 3)
				}
			}
		}
	}
}

// staged is a dump that waits to be stored.
func (b *bench) staged(s *Store, key Key, from string) (*Partial, error) {
	p, err := s.Begin(key)
	if err != nil {
		return nil, err
	}
	dir, err := p.Dir("hostA-1")
	if err != nil {
		return nil, err
	}
	return p, copyFiles([]string{from}, dir, false)
}

// run is one round.
func (b *bench) run() error {
	for _, part := range []func(dir string) error{b.ingests, b.copies, b.fetches, b.unpacks} {
		dir := filepath.Join(b.dir, "round")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := part(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// work is one thing to measure. It returns how many bytes it wrote.
type work struct {
	name string
	do   func() (int64, error)
}

// inTurn measures one after the other. What is compared with, the first, is the first in one round and the last in the next.
func (b *bench) inTurn(bare work, ours ...work) error {
	all := append([]work{bare}, ours...)
	if b.round%2 == 1 {
		all = append(ours, bare)
	}
	for _, w := range all {
		if err := settle(b.dir, int(b.size)); err != nil {
			return err
		}
		cpu, began := cpuTime(), time.Now()
		wrote, err := w.do()
		b.took[w.name] = append(b.took[w.name], cost{time.Since(began), cpuTime() - cpu, wrote})
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// settle has written what the last measurement left to be written, and makes room for what the next one writes: on a virtual machine,
// memory that was free for long belongs to the machine below, and getting it back takes its time. Whoever comes second would
// pay for it, or would not.
func settle(dir string, room int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for i := 0; i < room; i += os.Getpagesize() {
		memory[i] = 1
	}
	return unix.Munmap(memory)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ingests stores three cuts in a store of its own.
func (b *bench) ingests(dir string) error {
	s, err := Open(filepath.Join(dir, "images"), Options{})
	if err != nil {
		return err
	}
	var seals []work
	for _, cut := range []struct {
		name string
		key  Key
		from string
	}{{ingestFirst, key1, b.plain[0]}, {ingestChanged, key2, b.plain[1]}, {ingestSame, key3, b.plain[1]}} {
		p, err := b.staged(s, cut.key, cut.from)
		if err != nil {
			return err
		}
		seals = append(seals, work{cut.name, func() (int64, error) {
			made, err := p.Seal(context.Background(), infoOf(cut.key))
			return made.Ingested.Wrote, err
		}})
	}
	return b.inTurn(yielding(copying(copyDump, b.plain[:1], filepath.Join(dir, "cp"), true)), seals...)
}

// copies stores a first cut here and elsewhere, as an agent does whose job wants a copy on another host: packs are sent while others are written.
func (b *bench) copies(dir string) error {
	here, err := Open(filepath.Join(dir, "here", "images"), Options{})
	if err != nil {
		return err
	}
	there, err := Open(filepath.Join(dir, "there", "images"), Options{})
	if err != nil {
		return err
	}
	p, err := b.staged(here, key1, b.plain[0])
	if err != nil {
		return err
	}
	ours := func() (int64, error) {
		ctx, refs, ahead := context.Background(), make(chan ObjectRef, b.size>>20+1), make(chan struct{})
		go func() {
			defer close(ahead)
			here.Ahead(ctx, key1.Job, asPeer(there), func(context.Context) (ObjectRef, bool) {
				ref, more := <-refs
				return ref, more
			})
		}()
		info := infoOf(key1)
		info.Stored = func(ref ObjectRef) { refs <- ref }
		made, err := p.Seal(ctx, info)
		close(refs)
		<-ahead
		if err != nil {
			return 0, err
		}
		_, err = here.Push(ctx, key1, asPeer(there))
		return 2 * made.Ingested.Wrote, err
	}
	bare := func() (int64, error) {
		return 0, inParallel(context.Background(), 2, 2, func(_ context.Context, i int) error {
			_, err := yielding(copying("", b.plain[:1], filepath.Join(dir, fmt.Sprint("cp", i)), true)).do()
			return err
		})
	}
	return b.inTurn(work{copyTwice, bare}, work{storeTwice, ours})
}

// fetches is what a host does that has nothing of a cut.
func (b *bench) fetches(dir string) error {
	fetch := func(name string, sources ...Source) work {
		return work{name, func() (int64, error) {
			s, err := Open(filepath.Join(dir, fmt.Sprint(len(sources)), "images"), Options{})
			if err != nil {
				return 0, err
			}
			moved, err := s.Fetch(context.Background(), key1, "", false, sources)
			return moved.Bytes, err
		}}
	}
	one, two := asSource("one", b.one), asSource("two", b.two)
	return b.inTurn(copying(copyPacks, b.packs, filepath.Join(dir, "cp"), true), fetch(fetchOne, one), fetch(fetchTwo, one, two))
}

// unpacks makes the plain files again.
func (b *bench) unpacks(dir string) error {
	ctx := context.Background()
	unpack := func() (int64, error) {
		_, err := b.one.Unpack(ctx, key1, "", jobKey, filepath.Join(dir, "unpacked"), nil)
		return b.size, err
	}
	link := func() (int64, error) {
		there, err := b.one.UnpackKept(ctx, key1, "", filepath.Join(dir, "kept"), nil)
		if err == nil && !there {
			err = errors.New("the dump was not kept")
		}
		return 0, err
	}
	return b.inTurn(copying(copyPages, b.plain[:1], filepath.Join(dir, "cp"), false), work{unpackStore, unpack}, work{unpackKept, link})
}

func copying(name string, from []string, to string, durable bool) work {
	return work{name, func() (int64, error) { return 0, errors.Join(os.MkdirAll(to, 0o700), copyFiles(from, to, durable)) }}
}

// yielding does work at the priority of an ingest.
func yielding(w work) work {
	return work{w.name, func() (n int64, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			yield.ToJob()
			n, err = w.do()
		}()
		<-done
		return n, err
	}}
}

// copyFiles copies as cp does that reads and writes: where a file system can share blocks between files, a copy would cost nothing.
func copyFiles(from []string, to string, durable bool) error {
	buffer := make([]byte, 256<<10)
	for _, path := range from {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(filepath.Join(to, filepath.Base(path)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(0o600))
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buffer)
		if err == nil && durable {
			err = out.Sync()
		}
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// middle is the median of what pick finds in each round.
func middle(all []cost, pick func(cost) float64) float64 {
	var v []float64
	for _, c := range all {
		v = append(v, pick(c))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func printCosts(out io.Writer, rows []costs, mib, rounds int, took time.Duration) error {
	fmt.Fprintf(out, "\nWhat the store costs beside plain copies: %d MiB of memory, medians of %d rounds, bare and ours in turn\n\n", mib, rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tBARE ms\tOURS ms\tRATIO\tOURS MiB/s\tPER CORE\tWROTE MiB\t")
	for _, r := range rows {
		wall, cpu := func(c cost) float64 { return ms(c.wall) }, func(c cost) float64 { return ms(c.cpu) }
		bare, ours := middle(r.bare, wall), middle(r.ours, wall)
		perSecond := func(ms float64) float64 { return float64(r.bytes) / (1 << 20) / (ms / 1000) }
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.0f\t%.0f\t%.1f\t\n", pad(r.what), bare, ours, ours/bare, perSecond(ours), perSecond(middle(r.ours, cpu)),
			middle(r.ours, func(c cost) float64 { return float64(c.wrote) / (1 << 20) }))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n"+benchNotes+"\nOK: the store was measured (%.0f s); what it is to cost is asserted nowhere\n", took.Seconds())
	return nil
}

// pad makes the first column stand left where all others stand right.
func pad(s string) string {
	const width = 64
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}

const benchNotes = `ingest:   read, hash, compress, encrypt, write, fsync; of plain files that lie in memory, as a dump does
stored, and copied: the same, and the packs hashed, written and fsynced by a second store on the same disk, without a network between; bare: both copies at once
fetch:    of all packs, from stores on the same disk, without a network between; written, checked, fsync
bare:     read and write, 256 KiB at a time; with fsync where ours does it, on the same disk, which is synced before each, and at the same priority:
          ingest and what it is compared with make way for everything else on the machine
PER CORE: MiB for each second of processor time that the whole process took, user and system
mixed:    a quarter zeros, an eighth of pages twice, three eighths compress, a quarter random`
