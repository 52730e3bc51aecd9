package gate

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// passing says which packets a queue lets through.
type passing int

const (
	passNone passing = iota
	passData         // all but handshakes
	passAll
)

// batchSize bounds how many packets one system call sends on their way.
const batchSize = 512

// ackTimeout bounds the wait for an answer that the kernel gives at once, unless it had no memory to.
const ackTimeout = 10 * time.Second

// queue is one NFQUEUE that this process listens to, on a socket and with a goroutine of its own.
type queue struct {
	num uint16
	nl  *netlink.Conn

	mu      sync.Mutex // held while verdicts are sent: it keeps them in order
	pass    passing
	held    []packet // in the order of arrival
	last    uint32   // id of the last packet heard of
	lost    uint64
	waiting map[uint32]chan error // by sequence number: requests not acknowledged yet
	failed  error                 // why the reader ended

	done chan struct{} // closed when the reader has ended
}

// openQueue binds num, and holds from the first packet on. The error is errQueueTaken if someone else has it.
func openQueue(netNS int, num uint16) (*queue, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNS, MessageBufferSize: 4096})
	if err != nil {
		return nil, fmt.Errorf("netlink socket for queue %d: %w", num, err)
	}
	if err := prepareQueueSocket(nl, num); err != nil {
		return nil, errors.Join(err, nl.Close())
	}
	q := &queue{num: num, nl: nl, waiting: map[uint32]chan error{}, done: make(chan struct{})}
	go q.read()
	return q, nil
}

func prepareQueueSocket(nl *netlink.Conn, num uint16) error {
	if err := nl.SetReadBuffer(queueBuffer); err != nil {
		return fmt.Errorf("receive buffer for queue %d: %w", num, err)
	}
	// With a full buffer the kernel drops the packet whose news does not fit. That shows as a gap in
	// the ids; an ENOBUFS on top of it would say less.
	if err := nl.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("netlink options for queue %d: %w", num, err)
	}
	if err := nl.SetOption(netlink.CapAcknowledge, true); err != nil {
		return fmt.Errorf("netlink options for queue %d: %w", num, err)
	}
	_, err := nl.Execute(bindMessage(num))
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EPERM):
		return fmt.Errorf("bind queue %d: %w: %w", num, errQueueTaken, err)
	case err != nil:
		return fmt.Errorf("bind queue %d (does the kernel have CONFIG_NETFILTER_NETLINK_QUEUE?): %w", num, err)
	}
	return nil
}

// read takes in everything the kernel says until the socket is closed.
func (q *queue) read() {
	defer close(q.done)
	for {
		msgs, err := q.nl.Receive()
		var answer *netlink.OpError
		switch {
		case err == nil:
			q.take(msgs)
		case errors.As(err, &answer) && answer.Sequence != 0:
			// A verdict that came too late (ENOENT: the kernel dropped the packet before) needs no action.
			q.acknowledge(answer.Sequence, err)
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOBUFS):
		default:
			q.fail(err)
			return
		}
	}
}

func (q *queue) take(msgs []netlink.Message) {
	for _, m := range msgs {
		switch m.Header.Type {
		case netlink.Error:
			q.acknowledge(m.Header.Sequence, nil)
		case nfqMsgPacket:
			if p, err := parsePacket(m); err == nil {
				q.arrive(p)
			}
		}
	}
}

func (q *queue) arrive(p packet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if gap := p.id - q.last - 1; gap < 1<<31 {
		q.lost += uint64(gap)
	}
	q.last = p.id
	if q.pass == passAll || q.pass == passData && !p.handshake {
		if q.send(verdictMessage(q.num, p.id, nfAccept, false)) == nil {
			return
		}
	}
	q.held = append(q.held, p)
}

// send sends without waiting; the kernel has carried a verdict out, with all that follows for the packet, when it returns.
func (q *queue) send(msgs ...netlink.Message) error {
	if _, err := q.nl.SendMessages(msgs); err != nil {
		return fmt.Errorf("queue %d: %w", q.num, err)
	}
	return nil
}

// letPass sets which packets pass from now on, and sends those of the held ones on their way, in order.
// With passNone, nothing passes when it returns.
func (q *queue) letPass(pass passing) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var err error
	if q.pass == passAll && pass != passAll {
		err = q.send(maxLenMessage(q.num, maxQueued), failOpenMessage(q.num, false))
	}
	q.pass = pass
	switch pass {
	case passData:
		err = errors.Join(err, q.releaseData())
	case passAll:
		err = errors.Join(err, q.releaseAll(nfAccept), q.passInKernel())
	}
	return errors.Join(err, q.failed)
}

// releaseAll gives every packet that has been heard of the same verdict.
func (q *queue) releaseAll(verdict uint32) error {
	for len(q.held) > 0 {
		n := min(batchSize, len(q.held))
		if err := q.send(verdictMessage(q.num, q.held[n-1].id, verdict, true)); err != nil {
			return err
		}
		q.held = q.held[n:]
	}
	q.held = nil
	return nil
}

// passInKernel has the kernel accept packets on the spot: no packet fits into the queue, and those pass. If
// they went on to take the way through this process, the first ones that no longer meet a rule would overtake them.
// All of it is one system call, so that next to nothing arrives between the last packet that was queued and
// the first that is not. A batch verdict on an empty queue is answered with ENOENT, and does no harm.
func (q *queue) passInKernel() error {
	// Ids compare modulo 2^32 (nfq_id_after): this one is after all that are queued, heard of or not.
	rest := verdictMessage(q.num, q.last+1<<30, nfAccept, true)
	return q.send(failOpenMessage(q.num, true), rest, rest, rest, maxLenMessage(q.num, 0), rest)
}

// releaseData lets everything go but handshakes. A batch verdict takes all packets up to an id, so it
// serves for those before the first handshake only.
func (q *queue) releaseData() error {
	first := 0
	for first < len(q.held) && !q.held[first].handshake {
		first++
	}
	for n := 0; n < first; {
		n = min(n+batchSize, first)
		if err := q.send(verdictMessage(q.num, q.held[n-1].id, nfAccept, true)); err != nil {
			return err
		}
	}
	var handshakes []packet
	for i, p := range q.held[first:] {
		if p.handshake {
			handshakes = append(handshakes, p)
			continue
		}
		if err := q.send(verdictMessage(q.num, p.id, nfAccept, false)); err != nil {
			q.held = append(handshakes, q.held[first+i:]...)
			return err
		}
	}
	q.held = handshakes
	return nil
}

// discard drops what is in the queue now, and goes on holding.
func (q *queue) discard() error {
	if err := q.request(syncMessage(q.num)); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.releaseAll(nfDrop)
}

func (q *queue) lostSoFar() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// request sends m and waits for its acknowledgement. All packets queued before it was sent have arrived then.
func (q *queue) request(m netlink.Message) error {
	ack := make(chan error, 1)
	q.mu.Lock()
	if q.failed != nil {
		q.mu.Unlock()
		return q.failed
	}
	m, err := q.nl.Send(m)
	if err == nil {
		q.waiting[m.Header.Sequence] = ack // the reader needs q.mu to answer
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("queue %d: %w", q.num, err)
	}
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case err := <-ack:
		return err
	case <-timeout.C:
		q.acknowledge(m.Header.Sequence, nil)
		return fmt.Errorf("queue %d: the kernel did not answer within %v", q.num, ackTimeout)
	}
}

func (q *queue) acknowledge(seq uint32, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ack, ok := q.waiting[seq]; ok {
		delete(q.waiting, seq)
		ack <- err
	}
}

// fail ends every wait: no answer will come any more.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = fmt.Errorf("queue %d: %w", q.num, err)
	for seq, ack := range q.waiting {
		delete(q.waiting, seq)
		ack <- q.failed
	}
}

// close lets go of everything that still comes, and unbinds. The caller has made sure that nothing new is on its way.
func (q *queue) close() error {
	err := q.letPass(passAll)
	err = errors.Join(err, q.request(syncMessage(q.num)))
	err = errors.Join(err, q.request(unbindMessage(q.num)))
	err = errors.Join(err, q.nl.Close())
	<-q.done
	return err
}
