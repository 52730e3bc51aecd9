package pack

import (
	"encoding/binary"
	"fmt"
)

// A decoder reads varints and bytes. After its first error it reads zeros. Its errors wrap ErrDamaged.
type decoder struct {
	data []byte // what is left
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format+": %w", append(args, ErrDamaged)...)
	}
}

// number reads a varint from least, which is not negative, to most. what names it in errors.
func (d *decoder) number(what string, least, most int64) int {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.fail("%s: no number", what)
		return 0
	}
	if most < least || v < uint64(least) || v > uint64(most) {
		d.fail("%s: %d is not from %d to %d", what, v, least, most)
		return 0
	}
	d.data = d.data[n:]
	return int(v)
}

// signed reads a varint in zigzag, of at most 62 bits.
func (d *decoder) signed(what string) int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.data)
	if n <= 0 || v > 1<<62 || v < -1<<62 {
		d.fail("%s: no number", what)
		return 0
	}
	d.data = d.data[n:]
	return v
}

// bytes takes n bytes, which it does not copy.
func (d *decoder) bytes(what string, n int) []byte {
	if d.err == nil && n > len(d.data) {
		d.fail("%s: %d bytes of %d are there", what, len(d.data), n)
	}
	if d.err != nil {
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

// end makes sure that nothing follows.
func (d *decoder) end() {
	if len(d.data) != 0 {
		d.fail("%d bytes too many", len(d.data))
	}
}
