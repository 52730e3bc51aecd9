package marker

import "fmt"

// The model network: hosts whose kernels speak a small TCP, programs that write and read all the
// time, and gates in between. Nothing here knows the protocol.

// vclock counts, per host, the steps of its program that a program's state depends on. Two recorded
// states are consistent exactly if neither knows more of the other than the other recorded (Mattern, 1989).
type vclock [7]uint32

func (v *vclock) merge(o *vclock) {
	for i := range v {
		v[i] = max(v[i], o[i])
	}
}

// pattern is the byte that a program writes at position pos of one direction of a connection.
func pattern(conn, side, pos int) byte {
	x := uint32(conn*2+side)*2654435761 + uint32(pos)*40503
	return byte(x>>13) ^ byte(x>>5)
}

type socketState int

const (
	sockNone   socketState = iota
	sockSyn                // client: SYN sent
	sockRcvd               // server: SYN received
	sockQueued             // server: established, not accepted
	sockOpen               // held by the program
)

const (
	segmentMax = 16
	windowMax  = 48
	bufferMax  = 96
)

// socket is one end of a connection in a host's kernel.
type socket struct {
	host, side    int
	state         socketState
	isn           uint32 // of what this end sends
	una, nxt      uint32
	top           uint32 // the highest that nxt has been
	rcv           uint32
	out           []byte // from una on
	in            []byte // received, not read
	idle          int    // kernel ticks without progress
	written, read int    // by the program
	chunks        []chunk
	merged        int // of the other end's chunks
}

// chunk is the clock of the program when it wrote up to end.
type chunk struct {
	end int
	vc  vclock
}

func (s *socket) write() uint32 { return s.una + uint32(len(s.out)) }

type conn struct {
	id      int
	ends    [2]socket // 0 connected, 1 accepted
	connect vclock
}

type segmentKind int

const (
	segData segmentKind = iota
	segSyn
	segSynAck
)

type segment struct {
	kind       segmentKind
	conn, side int // who sent it
	seq, ack   uint32
	data       []byte
}

// gate is one host's holder toward one peer.
type gate struct {
	closed, settling bool
	held             []heldSegment
}

type heldSegment struct {
	segment
	inbound bool
}

// passes says whether s may pass now. A closed gate holds; settling, it lets existing connections through.
func (g *gate) passes(s segment, existing map[int]bool) bool {
	return !g.closed || g.settling && s.kind == segData && existing[s.conn]
}

// transmit is the only way out of a kernel.
func (w *world) transmit(s segment) {
	c := w.conns[s.conn]
	src, dst := c.ends[s.side].host, c.ends[1-s.side].host
	h := w.hosts[src]
	if h.dead || h.killed {
		return
	}
	if g := &h.gates[dst]; !g.passes(s, h.existing) {
		g.held = append(g.held, heldSegment{segment: s})
		return
	}
	w.wire(src, dst, s)
}

func (w *world) wire(src, dst int, s segment) {
	if src == dst {
		w.after(10, func() { w.deliver(dst, s) })
		return
	}
	if w.chance(w.plan.packetLoss) {
		return
	}
	w.after(50+w.rng.IntN(900), func() {
		h := w.hosts[dst]
		if g := &h.gates[src]; !g.passes(s, h.existing) {
			g.held = append(g.held, heldSegment{segment: s, inbound: true})
			return
		}
		w.deliver(dst, s)
	})
}

// releaseHeld lets what a gate holds and may pass now go on, in order.
func (w *world) releaseHeld(host, peer int) {
	h := w.hosts[host]
	g := &h.gates[peer]
	held := g.held
	g.held = nil
	for _, s := range held {
		switch {
		case !g.passes(s.segment, h.existing):
			g.held = append(g.held, s)
		case s.inbound:
			w.deliver(host, s.segment)
		default:
			w.wire(host, peer, s.segment)
		}
	}
}

// deliver hands a segment to the kernel of its receiver.
func (w *world) deliver(dst int, s segment) {
	c := w.conns[s.conn]
	e := &c.ends[1-s.side]
	if h := w.hosts[dst]; h.dead || h.killed {
		return
	}
	switch s.kind {
	case segSyn:
		if h := w.hosts[dst]; h.holding {
			h.syns = append(h.syns, s)
			return
		}
		if e.state == sockNone {
			e.state = sockRcvd
			e.rcv = s.seq
		}
		if e.state == sockRcvd {
			w.transmit(segment{kind: segSynAck, conn: c.id, side: e.side, seq: e.isn, ack: e.rcv})
		}
	case segSynAck:
		if e.state == sockSyn {
			e.state = sockOpen
			e.rcv = s.seq
		}
		w.acknowledge(c, e)
	case segData:
		w.data(c, e, s)
	}
}

func (w *world) data(c *conn, e *socket, s segment) {
	if e.state == sockRcvd {
		e.state = sockQueued
	}
	if e.state < sockQueued {
		return
	}
	if acked := s.ack - e.una; acked > 0 && acked <= e.top-e.una {
		e.out = e.out[acked:]
		if e.nxt-e.una < acked {
			e.nxt = s.ack // it was on the way of being sent again
		}
		e.una = s.ack
		e.idle = 0
		w.push(c, e)
	}
	if len(s.data) == 0 {
		return
	}
	if skip := e.rcv - s.seq; skip < uint32(len(s.data)) && len(e.in) < bufferMax {
		e.in = append(e.in, s.data[skip:]...)
		e.rcv += uint32(len(s.data)) - skip
	}
	w.acknowledge(c, e)
}

func (w *world) acknowledge(c *conn, e *socket) {
	w.transmit(segment{conn: c.id, side: e.side, seq: e.nxt, ack: e.rcv})
}

// push sends what the window allows.
func (w *world) push(c *conn, e *socket) {
	if e.state != sockOpen {
		return
	}
	for e.nxt != e.write() && e.nxt-e.una < windowMax {
		from := e.nxt - e.una
		n := min(segmentMax, uint32(len(e.out))-from)
		data := append([]byte(nil), e.out[from:from+n]...)
		w.transmit(segment{conn: c.id, side: e.side, seq: e.nxt, ack: e.rcv, data: data})
		e.nxt += n
		if sent := e.nxt - e.una; sent > e.top-e.una {
			e.top = e.nxt
		}
	}
}

// kernelTick resends what has not been acknowledged for a while.
func (w *world) kernelTick() {
	for _, c := range w.conns {
		for i := range c.ends {
			e := &c.ends[i]
			switch {
			case e.state == sockSyn:
				if e.idle++; e.idle%3 == 0 {
					w.transmit(segment{kind: segSyn, conn: c.id, side: i, seq: e.isn})
				}
			case e.state == sockRcvd:
				if e.idle++; e.idle%3 == 0 {
					w.transmit(segment{kind: segSynAck, conn: c.id, side: i, seq: e.isn, ack: e.rcv})
				}
			case e.state == sockOpen && e.una != e.nxt:
				if e.idle++; e.idle >= 3 {
					e.idle = 0
					e.nxt = e.una
					w.push(c, e)
				}
			}
		}
	}
}

// program runs one step of the program of a host: it accepts, writes and reads at random.
func (w *world) program(h *simHost) {
	if h.frozen || h.dead || h.killed {
		return
	}
	h.vc[h.id]++
	w.acceptAll(h)
	if !w.draining && len(w.conns) < w.plan.maxConns && w.chance(w.plan.connectRate) {
		w.connect(h.id, w.rng.IntN(len(w.hosts)))
	}
	for _, c := range w.conns {
		for i := range c.ends {
			if e := &c.ends[i]; e.host == h.id && e.state == sockOpen {
				if w.draining || w.chance(0.5) {
					w.readSome(h, c, e)
				}
				if !w.draining && len(e.out) < bufferMax && w.chance(0.4) {
					w.writeSome(h, c, e)
				}
			}
		}
	}
}

func (w *world) acceptAll(h *simHost) {
	for _, c := range w.conns {
		if e := &c.ends[1]; e.host == h.id && e.state == sockQueued {
			e.state = sockOpen
			h.vc.merge(&c.connect)
		}
	}
}

func (w *world) writeSome(h *simHost, c *conn, e *socket) {
	for range 1 + w.rng.IntN(20) {
		e.out = append(e.out, pattern(c.id, e.side, e.written))
		e.written++
	}
	e.chunks = append(e.chunks, chunk{end: e.written, vc: h.vc})
	w.push(c, e)
}

func (w *world) readSome(h *simHost, c *conn, e *socket) {
	n := len(e.in)
	if n == 0 {
		return
	}
	if !w.draining {
		n = 1 + w.rng.IntN(n)
	}
	for _, b := range e.in[:n] {
		if b != pattern(c.id, 1-e.side, e.read) {
			w.fail("connection %d: host %d read a wrong byte at %d", c.id, h.id, e.read)
		}
		e.read++
	}
	e.in = append([]byte(nil), e.in[n:]...)
	sender := &c.ends[1-e.side]
	for i, ch := range sender.chunks[e.merged:] {
		h.vc.merge(&ch.vc)
		if ch.end >= e.read {
			if ch.end == e.read {
				i++
			}
			e.merged += i
			break
		}
	}
}

// connect makes a connection. Sequence numbers begin near the end of their range, so that they wrap.
func (w *world) connect(from, to int) *conn {
	c := &conn{id: len(w.conns), connect: w.hosts[from].vc}
	for i, h := range [2]int{from, to} {
		isn := uint32(0) - uint32(w.rng.IntN(2000))
		c.ends[i] = socket{host: h, side: i, isn: isn, una: isn, nxt: isn, top: isn}
	}
	c.ends[0].state = sockSyn
	w.conns = append(w.conns, c)
	w.transmit(segment{kind: segSyn, conn: c.id, side: 0, seq: c.ends[0].isn})
	return c
}

// address is the address and port of one end, as its host sees it.
func (c *conn) address(side int) string {
	if side == 0 {
		return fmt.Sprintf("10.0.0.%d:%d", c.ends[0].host+1, 40000+c.id)
	}
	return fmt.Sprintf("10.0.0.%d:5000", c.ends[1].host+1)
}

// image is what a host's dump holds: its program and the sockets that the record listed.
type image struct {
	vc       vclock
	socks    map[[2]int]socket // by connection and side
	waits    map[int]int       // by connection: bytes that have come on it, while nobody has accepted it (M4b)
	captured bool
	stored   bool
	kept     bool
}

func (im *image) capture(w *world, h *simHost) {
	im.vc = h.vc
	im.socks = make(map[[2]int]socket)
	im.waits = make(map[int]int)
	for _, c := range w.conns {
		if e := &c.ends[1]; w.plan.waits && e.host == h.id && (e.state == sockRcvd || e.state == sockQueued) {
			im.waits[c.id] = len(e.in)
		}
		for i := range c.ends {
			if e := c.ends[i]; e.host == h.id && h.existing[c.id] && e.state == sockOpen {
				e.out = append([]byte(nil), e.out...)
				e.in = append([]byte(nil), e.in...)
				e.chunks = nil
				im.socks[[2]int{c.id, i}] = e
			}
		}
	}
	im.captured = true
}

func (im *image) ends(w *world, h *simHost) []End {
	var ends []End
	for _, c := range w.conns {
		if n, ok := im.waits[c.id]; ok {
			ends = append(ends, End{Host: h.name, Member: "m", Local: c.address(1), Remote: c.address(0), Pending: true, Unread: uint32(n)})
		}
		for i := range c.ends {
			if e, ok := im.socks[[2]int{c.id, i}]; ok {
				ends = append(ends, End{
					Host: h.name, Member: "m", Local: c.address(i), Remote: c.address(1 - i),
					SndUna: e.una, WriteSeq: e.write(), RcvNxt: e.rcv,
				})
			}
		}
	}
	return ends
}

// verifyCut holds a cut against the truth: no recorded program knows of another what that one did
// after its record, and when the recorded queues are put back, every reader gets every byte that its
// writer wrote, in order, exactly once.
func (w *world) verifyCut(key Key) {
	for i, p := range w.hosts {
		im := p.images[key]
		if im == nil || !im.stored {
			w.fail("cut %s: host %d has no images", key.Snapshot, i)
		}
		for j, q := range w.hosts {
			if o := q.images[key]; o != nil && o.vc[i] > im.vc[i] {
				w.fail("cut %s: the record of host %d depends on step %d of host %d, whose record is of step %d", key.Snapshot, j, o.vc[i], i, im.vc[i])
			}
		}
	}
	for _, c := range w.conns {
		if _, waits := w.hosts[c.ends[1].host].images[key].waits[c.id]; waits {
			if e, ok := w.hosts[c.ends[0].host].images[key].socks[[2]int{c.id, 0}]; ok && e.written > 0 {
				w.fail("cut %s, connection %d: it is put back in SYN-SENT, and %d bytes were written on it", key.Snapshot, c.id, e.written)
			}
		}
		for side := range c.ends {
			from, ok1 := w.hosts[c.ends[side].host].images[key].socks[[2]int{c.id, side}]
			to, ok2 := w.hosts[c.ends[1-side].host].images[key].socks[[2]int{c.id, 1 - side}]
			if ok1 && ok2 {
				w.verifyChannel(key, c.id, &from, &to)
			}
		}
	}
}

func (w *world) verifyChannel(key Key, id int, from, to *socket) {
	replayed := append([]byte(nil), to.in...)
	if inQueue := to.rcv - from.una; inQueue <= uint32(len(from.out)) {
		replayed = append(replayed, from.out[inQueue:]...)
	} else {
		w.fail("cut %s, connection %d: snd_una %d, rcv_nxt %d, write_seq %d", key.Snapshot, id, from.una, to.rcv, from.write())
	}
	if to.read+len(replayed) != from.written {
		w.fail("cut %s, connection %d: %d bytes read or replayed of %d written", key.Snapshot, id, to.read+len(replayed), from.written)
	}
	for i, b := range replayed {
		if b != pattern(id, from.side, to.read+i) {
			w.fail("cut %s, connection %d: wrong byte at %d after replay", key.Snapshot, id, to.read+i)
		}
	}
}
