package kv

import "fmt"

// Bounds counts what a transaction writes. The zero value is that of one that has written nothing.
type Bounds struct {
	writes int
	bytes  int
}

// Put notes a put, or says why it is too much.
func (b *Bounds) Put(bucket, key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("record %s/%s has %d bytes, more than %d: %w", bucket, key, len(value), MaxValue, ErrTooLarge)
	}
	b.bytes += len(value)
	if b.bytes > MaxBytes {
		return fmt.Errorf("a transaction of more than %d bytes, at record %s/%s: %w", MaxBytes, bucket, key, ErrTooLarge)
	}
	return b.Delete(bucket, key)
}

// Delete notes a delete, or says why it is too much.
func (b *Bounds) Delete(bucket, key string) error {
	if b.writes++; b.writes > MaxWrites {
		return fmt.Errorf("a transaction of more than %d changes, at record %s/%s: %w", MaxWrites, bucket, key, ErrTooLarge)
	}
	return nil
}
