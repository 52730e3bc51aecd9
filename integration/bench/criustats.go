package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"google.golang.org/protobuf/encoding/protowire"
)

// Stats is what CRIU writes to stats-dump about a dump, in milliseconds (images/stats.proto of CRIU).
type Stats struct {
	Freezing float64 `json:"freezing_ms"`
	Frozen   float64 `json:"frozen_ms"`
	MemDump  float64 `json:"memdump_ms"`
	MemWrite float64 `json:"memwrite_ms"`
}

// statsHeader is the length of the two magic numbers and the length before the message.
const statsHeader = 12

func readStats(path string) (Stats, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Stats{}, err
	}
	if len(data) < statsHeader || len(data)-statsHeader < int(binary.LittleEndian.Uint32(data[8:])) {
		return Stats{}, fmt.Errorf("%s: too short", path)
	}
	var st Stats
	err = eachField(data[statsHeader:], func(entry protowire.Number, dump []byte, _ uint64) error {
		if entry != 1 { // dump_stats_entry
			return nil
		}
		return eachField(dump, func(n protowire.Number, _ []byte, v uint64) error {
			if to := map[protowire.Number]*float64{1: &st.Freezing, 2: &st.Frozen, 3: &st.MemDump, 4: &st.MemWrite}[n]; to != nil {
				*to = float64(v) / 1000
			}
			return nil
		})
	})
	if err != nil {
		return Stats{}, fmt.Errorf("%s: %w", path, err)
	}
	return st, nil
}

// eachField walks the fields of a protobuf message that has only numbers and messages.
func eachField(b []byte, f func(n protowire.Number, message []byte, number uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var message []byte
		var number uint64
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			message, size = protowire.ConsumeBytes(b)
		default:
			return errors.New("a field of an unknown kind")
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := f(n, message, number); err != nil {
			return err
		}
	}
	return nil
}
