package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

const (
	messageSize = 16
	// endNumber is the number of the message that follows the last.
	endNumber = math.MaxUint64
	scramble  = 0x9e3779b97f4a7c15
)

// station checks the messages that come in at one place: their numbers begin with 0 and leave none out.
type station struct {
	name string
	from io.Reader
	next uint64
}

// receive returns the next message's number. end says that it is the one that follows the last.
func (s *station) receive() (number uint64, end bool, err error) {
	var buf [messageSize]byte
	if _, err := io.ReadFull(s.from, buf[:]); err != nil {
		return 0, false, fmt.Errorf("%s: message %d: %w", s.name, s.next, err)
	}
	number = binary.LittleEndian.Uint64(buf[:])
	if check := binary.LittleEndian.Uint64(buf[8:]); check != number*scramble {
		return 0, false, fmt.Errorf("%s: message %d: %#x with %#x is none", s.name, s.next, number, check)
	}
	if number == endNumber {
		return number, true, nil
	}
	if number != s.next {
		return 0, false, fmt.Errorf("%s: message %d came, want %d", s.name, number, s.next)
	}
	s.next++
	return number, false, nil
}

// send writes the message of that number.
func send(to io.Writer, number uint64) error {
	var buf [messageSize]byte
	binary.LittleEndian.PutUint64(buf[:], number)
	binary.LittleEndian.PutUint64(buf[8:], number*scramble)
	_, err := to.Write(buf[:])
	return err
}

// relay passes messages on up to the end message, and that too.
func relay(s *station, to io.Writer) error {
	for {
		number, end, err := s.receive()
		if err != nil {
			return err
		}
		if err := send(to, number); err != nil {
			return fmt.Errorf("%s: pass message %d on: %w", s.name, number, err)
		}
		if end {
			return nil
		}
	}
}
