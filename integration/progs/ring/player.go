package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"ss/integration/progs/internal/meet"
)

// kind says what a message is.
type kind uint64

const (
	transfer kind = iota + 1 // Amount changes hands
	count                    // Chandy and Lamport's marker: Amount is what those before have recorded
	stop                     // no transfer follows
	total                    // everything is at rest: Amount is what those before own
	done                     // Amount is what all own
)

const messageSize = 24

// progressEvery is how often a line says how far things are.
const progressEvery = time.Second

// message is what processes send. Number counts the messages of its link from 0.
type message struct {
	Kind   kind
	Number uint64
	Amount int64
}

// player is one process of the ring.
type player struct {
	id, of  int
	balance int64
	total   int64 // what all own together
	stop    meet.Stopper
	window  int // transfers on their way per process
	out     io.Writer
	// countEvery is after how many transfers process 0 counts again.
	countEvery uint64

	previous io.Reader
	next     io.Writer

	sent, received uint64 // messages on the two links
	transfers      uint64 // received
	stopping       bool   // sends no transfer any more
	stopped        bool   // receives no transfer any more
	counting       bool   // process 0: a count is on its way
	arrived        int64  // process 0: what has come in since it recorded its balance for the count
	counts         int
	found          int64 // all money, as the last message says
	said           time.Time
}

// play passes money on until everyone has stopped, and returns an error if any was lost or made.
func (p *player) play() error {
	for range p.window {
		if err := p.pay(); err != nil {
			return err
		}
	}
	for {
		m, err := p.receive()
		if err != nil {
			return err
		}
		over, err := p.handle(m)
		if over || err != nil {
			return err
		}
	}
}

func (p *player) handle(m message) (over bool, err error) {
	switch m.Kind {
	case transfer:
		return false, p.credit(m)
	case count:
		return false, p.count(m)
	case stop:
		if p.stopped {
			return false, errors.New("told to stop twice")
		}
		p.stopped = true
		if p.id == 0 { // it has come round: all money is at rest
			return false, p.send(total, p.balance)
		}
		p.stopping = true
		return false, p.send(stop, 0)
	case total:
		if p.id != 0 {
			return false, p.send(total, m.Amount+p.balance)
		}
		return false, p.send(done, m.Amount)
	case done:
		p.found = m.Amount
		if p.id != 0 {
			if err := p.send(done, m.Amount); err != nil {
				return false, err
			}
		}
		if p.found != p.total {
			return false, fmt.Errorf("at the end %d in all, want %d", p.found, p.total)
		}
		return true, nil
	default:
		return false, fmt.Errorf("message of unknown kind %d", m.Kind)
	}
}

// credit takes a transfer in and, for as long as the game lasts, sends another.
func (p *player) credit(m message) error {
	if p.stopped || m.Amount < 0 {
		return fmt.Errorf("transfer of %d, stopped: %v", m.Amount, p.stopped)
	}
	p.balance += m.Amount
	p.transfers++
	if p.counting {
		p.arrived += m.Amount
	}
	if time.Since(p.said) >= progressEvery {
		p.said = time.Now()
		fmt.Fprintf(p.out, "progress transfers=%d counts=%d\n", p.transfers, p.counts)
	}
	if p.stopping {
		return nil
	}
	if p.id == 0 {
		if p.transfers%p.countEvery == 0 && !p.counting {
			p.counting, p.arrived = true, 0
			if err := p.send(count, p.balance); err != nil {
				return err
			}
		}
		// A count must come home before the end: behind the stop it would find everyone's links closed.
		if !p.counting && p.stop.Enough(p.transfers) {
			p.stopping = true
			return p.send(stop, 0)
		}
	}
	return p.pay()
}

// count takes part in a count of all money while it moves. In a circle, Chandy and Lamport's algorithm is short: a marker's
// arrival is everyone's record, and finds the one incoming channel empty, except at process 0, which
// has recorded before and adds what arrived in between.
func (p *player) count(m message) error {
	if p.id != 0 {
		p.counts++
		return p.send(count, m.Amount+p.balance)
	}
	if !p.counting {
		return errors.New("a count came home that nobody had begun")
	}
	p.counting = false
	p.counts++
	if all := m.Amount + p.arrived; all != p.total {
		return fmt.Errorf("count %d found %d in all, want %d", p.counts, all, p.total)
	}
	return nil
}

// pay sends a part of the balance to the next.
func (p *player) pay() error {
	amount := rand.Int64N(p.balance/4 + 1)
	p.balance -= amount
	return p.send(transfer, amount)
}

func (p *player) send(k kind, amount int64) error {
	var buf [messageSize]byte
	binary.LittleEndian.PutUint64(buf[0:], uint64(k))
	binary.LittleEndian.PutUint64(buf[8:], p.sent)
	binary.LittleEndian.PutUint64(buf[16:], uint64(amount))
	if _, err := p.next.Write(buf[:]); err != nil {
		return fmt.Errorf("send message %d: %w", p.sent, err)
	}
	p.sent++
	return nil
}

func (p *player) receive() (message, error) {
	var buf [messageSize]byte
	if _, err := io.ReadFull(p.previous, buf[:]); err != nil {
		return message{}, fmt.Errorf("receive message %d: %w", p.received, err)
	}
	m := message{
		Kind:   kind(binary.LittleEndian.Uint64(buf[0:])),
		Number: binary.LittleEndian.Uint64(buf[8:]),
		Amount: int64(binary.LittleEndian.Uint64(buf[16:])),
	}
	if m.Number != p.received {
		return m, fmt.Errorf("received message %d, want %d", m.Number, p.received)
	}
	p.received++
	return m, nil
}
