package pack

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// newCompressor makes what compresses one segment, or index, at a time. It belongs to one goroutine and has none of its own.
func newCompressor(level zstd.EncoderLevel, window int) *zstd.Encoder {
	// No checksum: GCM authenticates more than it would.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level), zstd.WithWindowSize(window),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("pack: zstd: " + err.Error()) // it refuses only options
	}
	return enc
}

// newDecompressor makes what decompresses into the room it is given, and no further. It belongs to one goroutine and has none of its own.
func newDecompressor() *zstd.Decoder {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic("pack: zstd: " + err.Error()) // it refuses only options
	}
	return dec
}

// inflate decompresses a frame into room, which it fills exactly.
func inflate(dec *zstd.Decoder, frame, room []byte) error {
	got, err := dec.DecodeAll(frame, room[:0:len(room)])
	if err != nil {
		return fmt.Errorf("does not decompress: %w: %w", err, ErrDamaged)
	}
	if len(got) != len(room) {
		return fmt.Errorf("has %d bytes decompressed, and %d were written: %w", len(got), len(room), ErrDamaged)
	}
	return nil
}
