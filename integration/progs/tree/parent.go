package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"ss/integration/progs/internal/meet"
)

// parent is the root of a tree: it passes messages from the other tree to its children, and theirs to the other tree.
type parent struct {
	conn   *net.TCPConn
	family *family
	stop   *meet.Stopper // of the connecting tree; nil in the serving one
	out    io.Writer

	fromPeer *station
}

func (p *parent) run() error {
	p.fromPeer = &station{name: "parent, from the other tree", from: p.conn}
	toPeer := make(chan error, 1)
	go func() {
		toPeer <- relay(&station{name: "parent, from the children", from: p.family.out}, p.conn)
	}()
	err := p.feed()
	if err != nil {
		// Without this the relay may wait for ever for children who wait for us.
		err = errors.Join(err, p.conn.Close(), p.family.in.Close())
	}
	return errors.Join(err, <-toPeer)
}

// feed gives the children their messages: those of the other tree, or, in the connecting tree, a new one for
// each that has come back.
func (p *parent) feed() error {
	if p.stop == nil {
		return relay(p.fromPeer, p.family.in)
	}
	var made uint64
	for ; made < window; made++ {
		if err := send(p.family.in, made); err != nil {
			return fmt.Errorf("parent: make message %d: %w", made, err)
		}
	}
	stopping := false
	said := time.Now()
	for {
		number, end, err := p.fromPeer.receive()
		switch {
		case err != nil:
			return err
		case end && p.fromPeer.next != made:
			return fmt.Errorf("parent: %d messages made, %d came back", made, p.fromPeer.next)
		case end:
			return nil
		case stopping:
			continue
		case p.stop.Enough(number):
			stopping = true
			err = send(p.family.in, endNumber)
		default:
			err = send(p.family.in, made)
			made++
		}
		if err != nil {
			return fmt.Errorf("parent: make message %d: %w", made, err)
		}
		if time.Since(said) >= progressEvery {
			said = time.Now()
			fmt.Fprintf(p.out, "progress messages=%d\n", number)
		}
	}
}
