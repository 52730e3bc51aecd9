package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"ss/agent"
)

var _ agent.Gates = (*Manager)(nil)

// errShutdown is the error of every call that comes after Shutdown.
var errShutdown = errors.New("gate: the manager is shut down")

// Manager keeps the gates of one host. Its methods are safe for concurrent use.
type Manager struct {
	opts Options
	mode string
	// noCgroups says why the kernel cannot match sockets by cgroup, if it cannot.
	noCgroups error

	mu     sync.Mutex // one transaction at a time; guards what follows
	table  *table
	queues *pool
	gates  map[gateKey]*gate
	made   int    // parts so far, for their names
	lost   uint64 // by queues that are gone
	drain  error  // what went wrong while queues were emptied
	closed bool

	drains sync.WaitGroup
}

type gateKey struct{ job, peer string }

// gate is a closed gate, or one that is on its way to open.
type gate struct {
	key    gateKey
	action string // name of the chain that says what becomes of a packet
	parts  []*part
	queue  *queue // nil in ModeDrop
}

// New makes the nft table and finds out how packets can be held. It removes what an earlier agent has left.
// It needs CAP_NET_ADMIN and, to wait for packets in flight, CAP_SYS_ADMIN or CAP_NET_RAW.
func New(opts Options) (*Manager, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	t, err := openTable(opts.NetNS, tableName+opts.Suffix)
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	k := &Manager{
		opts: opts, table: t, gates: map[gateKey]*gate{},
		queues: newPool(opts.FirstQueue, opts.LastQueue),
	}
	if err := k.probe(); err != nil {
		return nil, errors.Join(fmt.Errorf("gate: %w", err), t.close())
	}
	return k, nil
}

// probe finds the mode, and whether sockets can be matched by cgroup.
func (k *Manager) probe() error {
	k.noCgroups = k.table.try(&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: 1, Register: register0})
	if k.opts.Mode == ModeDrop {
		k.mode = ModeDrop
		return nil
	}
	var errs error
	for _, mode := range []string{ModeNative, ModeCompat} {
		if k.opts.Mode != "" && k.opts.Mode != mode {
			continue
		}
		err := k.table.try(queueAction(mode, k.opts.FirstQueue)...)
		if err == nil {
			err = k.probeListen()
		}
		if err == nil {
			k.mode = mode
			return nil
		}
		errs = errors.Join(errs, fmt.Errorf("mode %s: %w", mode, err))
	}
	if k.opts.Mode != "" {
		return fmt.Errorf("this kernel cannot hold packets as asked: %w", errs)
	}
	k.mode = ModeDrop
	return nil
}

// probeListen finds out whether the kernel has nfnetlink_queue.
func (k *Manager) probeListen() error {
	q, err := k.takeQueue()
	if err != nil {
		return err
	}
	defer k.queues.give(q.num)
	return q.close()
}

// takeQueue binds a free queue number.
func (k *Manager) takeQueue() (*queue, error) {
	var q *queue
	_, err := k.queues.take(func(num uint16) (err error) {
		q, err = openQueue(k.opts.NetNS, num)
		return err
	})
	return q, err
}

// queueAction hands a packet to queue num.
func queueAction(mode string, num uint16) []expr.Any {
	if mode == ModeNative {
		return []expr.Any{&expr.Queue{Num: num, Total: 1}}
	}
	// struct xt_NFQ_info (revision 0): a number of two bytes, filled up to eight as XT_ALIGN asks.
	info := xt.Unknown(append(binary.NativeEndian.AppendUint16(nil, num), 0, 0, 0, 0, 0, 0))
	return []expr.Any{&expr.Target{Name: "NFQUEUE", Info: &info}}
}

// dropAction drops a packet, or with handshakesOnly no others than handshakes.
func dropAction(handshakesOnly bool) []expr.Any {
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	if !handshakesOnly {
		return []expr.Any{drop}
	}
	const tcpFlags, syn = 13, 0x02 // RFC 9293, 3.1
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		drop,
	}
}

// Mode says how packets are held here: ModeNative, ModeCompat or ModeDrop.
func (k *Manager) Mode() string { return k.mode }

// Lost is the number of packets, since New, that the kernel dropped instead of holding them, because news of them
// came faster than this process took it in. TCP sends them again; every one may cost a connection a timeout.
func (k *Manager) Lost() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.lost
	for _, g := range k.gates {
		if g.queue != nil {
			n += g.queue.lostSoFar()
		}
	}
	return n
}

// Shutdown opens every gate, removes the table, and returns when all that New and Close started has ended.
// The error is what could not be done in order; the gates are open all the same.
func (k *Manager) Shutdown() error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil
	}
	k.closed = true
	err := k.open(func(gateKey) bool { return true })
	if err != nil {
		k.abandon()
	}
	k.mu.Unlock()
	k.drains.Wait()

	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(err, k.drain, k.table.close())
}

// abandon lets go of gates whose rules could not be removed, just before the table goes and they with it.
func (k *Manager) abandon() {
	for key, g := range k.gates {
		delete(k.gates, key)
		if g.queue != nil {
			k.drain = errors.Join(k.drain, g.queue.close())
		}
	}
}
