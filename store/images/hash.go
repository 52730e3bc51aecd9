package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// chunkSize is how much is read, hashed and sent at a time.
const chunkSize = 1 << 20

// inParallel calls f for 0…n-1 from a few goroutines, each with a buffer of its own of chunkSize bytes, and
// returns when all have returned. The first error cancels the context of the others; it is the one
// that is returned.
func inParallel(ctx context.Context, n int, f func(ctx context.Context, i int, buf []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0), 8) {
		wg.Go(func() {
			buf := make([]byte, chunkSize)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// copyChunks reads r to its end and hands each chunk to f. The chunk is f's until it returns.
func copyChunks(ctx context.Context, r io.Reader, buf []byte, f func(chunk []byte) error) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := f(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// hashFile returns the SHA-256 of what is left to read of f, in hex, the checksums of its parts, and how long it was.
func hashFile(ctx context.Context, f *os.File, buf []byte) (sum string, crcs []string, size int64, err error) {
	h := sha256.New()
	crcs = []string{} // not null in the manifest
	var crc uint32
	err = copyChunks(ctx, f, buf, func(chunk []byte) error {
		crc = crc32.Update(crc, castagnoli, chunk) // chunkSize divides PartSize
		if size += int64(len(chunk)); size%PartSize == 0 {
			crcs, crc = append(crcs, crcText(crc)), 0
		}
		_, err := h.Write(chunk)
		return err
	})
	if size%PartSize != 0 {
		crcs = append(crcs, crcText(crc))
	}
	return sumOf(h), crcs, size, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcText(crc uint32) string { return fmt.Sprintf("%08x", crc) }

func sumOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
