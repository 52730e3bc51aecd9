package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"ss/integration/progs/internal/meet"
	"ss/integration/progs/internal/standstill"
)

const (
	wordSize   = 8
	batchWords = 8 << 10 // words a write
	readSize   = 256 << 10
)

// The two directions carry different words, so that a mix-up of them is noticed.
const (
	fromServer uint64 = 0x5345525645520001
	fromClient uint64 = 0x434c49454e540002
)

// word is number i of a direction. No two numbers share a word.
func word(direction, i uint64) uint64 { return direction ^ i*0x9e3779b97f4a7c15 }

// endWord follows the last word when there were n.
func endWord(direction, n uint64) uint64 { return ^word(direction, n) }

// exchange is one run of both directions.
type exchange struct {
	conn     *net.TCPConn
	stop     meet.Stopper
	arrivals *standstill.Recorder

	sent, received atomic.Uint64
	peerDone       chan struct{} // closed when the partner's stream has come to its end
}

// run sends and receives until both streams have ended.
func (e *exchange) run(role string) error {
	out, in := fromClient, fromServer
	if role == "serve" {
		out, in = in, out
	}
	sent := make(chan error, 1)
	go func() { sent <- e.send(out) }()
	received := e.receive(e.conn, in)
	if received != nil {
		_ = e.conn.Close() // else the sender may wait for ever for a partner that has given up
	} else {
		close(e.peerDone)
	}
	return errors.Join(received, <-sent)
}

// send writes words until it is enough or the partner has ended, and then the end word.
func (e *exchange) send(direction uint64) error {
	buf := make([]byte, 0, (batchWords+1)*wordSize)
	var n uint64
	for !e.enough(n) {
		batch := uint64(batchWords)
		if limit := e.stop.Limit; limit > 0 {
			batch = min(batch, limit-n)
		}
		buf = buf[:0]
		for range batch {
			buf = binary.LittleEndian.AppendUint64(buf, word(direction, n))
			n++
		}
		if _, err := e.conn.Write(buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		e.sent.Store(n)
	}
	buf = binary.LittleEndian.AppendUint64(buf[:0], endWord(direction, n))
	if _, err := e.conn.Write(buf); err != nil {
		return fmt.Errorf("send the end: %w", err)
	}
	if err := e.conn.CloseWrite(); err != nil {
		return fmt.Errorf("send the end: %w", err)
	}
	return nil
}

func (e *exchange) enough(n uint64) bool {
	select {
	case <-e.peerDone:
		return true
	default:
		return e.stop.Enough(n)
	}
}

// receive reads words and checks each, up to the end word and the end of the stream behind it.
func (e *exchange) receive(from io.Reader, direction uint64) error {
	buf := make([]byte, readSize)
	fill := 0
	var n uint64
	for {
		got, err := from.Read(buf[fill:])
		if err != nil {
			return fmt.Errorf("receive: after %d words and without an end word: %w", n, err)
		}
		e.arrivals.Mark()
		fill += got
		whole := fill - fill%wordSize
		for at := 0; at < whole; at += wordSize {
			w := binary.LittleEndian.Uint64(buf[at:])
			if w == word(direction, n) {
				n++
				continue
			}
			if w != endWord(direction, n) {
				return fmt.Errorf("receive: word %d is %#x, want %#x", n, w, word(direction, n))
			}
			e.received.Store(n)
			return expectEnd(from, fill-at-wordSize)
		}
		e.received.Store(n)
		fill = copy(buf, buf[whole:fill])
	}
}

// expectEnd checks that nothing follows the end word.
func expectEnd(from io.Reader, rest int) error {
	n, err := from.Read(make([]byte, 1))
	if rest+n > 0 {
		return fmt.Errorf("receive: %d bytes after the end word", rest+n)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("receive: after the end word, which closes the stream: %w", err)
	}
	return nil
}
