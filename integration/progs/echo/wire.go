package main

import (
	"encoding/binary"
	"io"
)

func send(to io.Writer, number uint64) error {
	_, err := to.Write(binary.LittleEndian.AppendUint64(nil, number))
	return err
}

// receive returns io.EOF only where the stream ends between two messages.
func receive(from io.Reader) (uint64, error) {
	var buf [8]byte
	if _, err := io.ReadFull(from, buf[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(buf[:]), nil
}
