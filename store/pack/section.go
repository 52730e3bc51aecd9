package pack

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"ss/store/keys"
)

// What keys are derived for, in HKDF's info. They are part of the form.
const (
	nameLabel  = "ss chunk name v1"
	checkLabel = "ss key check v1"
	packLabel  = "ss pack v1"
	indexLabel = "ss index v1"
)

const (
	packMagic  = "sspk"
	indexMagic = "ssix"
	version    = 1

	headSize = 60 // magic, version, salt, check of the key, checksum
	saltAt   = 8
	checkAt  = saltAt + 32
	sumAt    = checkAt + 16
	tagSize  = 16
)

// The kinds of sections, which are authenticated with them.
const (
	kindSegment byte = 1 + iota
	kindTable
	kindIndex
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A head is what packs and indexes begin with, in every version.
type head [headSize]byte

func newHead(magic string, k keys.Job, salt [32]byte) head {
	var h head
	copy(h[:], magic)
	binary.BigEndian.PutUint32(h[4:], version)
	copy(h[saltAt:], salt[:])
	check := k.Derive(checkLabel, salt[:])
	copy(h[checkAt:sumAt], check[:])
	binary.BigEndian.PutUint32(h[sumAt:], crc32.Checksum(h[:sumAt], castagnoli))
	return h
}

// parseHead judges the first bytes of an object. what names it in errors.
func parseHead(data []byte, magic, what string, k keys.Job) (head, error) {
	if len(data) < headSize || !bytes.HasPrefix(data, []byte(magic)) {
		return head{}, fmt.Errorf("this is no %s: %w", what, ErrDamaged)
	}
	h := head(data[:headSize])
	if binary.BigEndian.Uint32(h[sumAt:]) != crc32.Checksum(h[:sumAt], castagnoli) {
		return head{}, fmt.Errorf("the head of the %s has another checksum: %w", what, ErrDamaged)
	}
	if v := binary.BigEndian.Uint32(h[4:]); v != version {
		return head{}, fmt.Errorf("the %s has version %d, this program knows %d: use a newer one: %w", what, v, version, ErrUnknownVersion)
	}
	check := k.Derive(checkLabel, h[saltAt:checkAt])
	if subtle.ConstantTimeCompare(check[:sumAt-checkAt], h[checkAt:sumAt]) != 1 {
		return head{}, fmt.Errorf("the %s was not written under the key %s: %w", what, k.ID(), ErrKey)
	}
	return h, nil
}

// A box encrypts and authenticates the sections of one object. Many goroutines may use it.
type box struct {
	head head
	aead cipher.AEAD
}

func newBox(h head, k keys.Job, label string) *box {
	key := k.Derive(label, h[saltAt:checkAt])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("pack: AES-256: " + err.Error()) // it refuses only lengths of keys
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("pack: GCM: " + err.Error()) // it refuses only other block sizes
	}
	return &box{head: h, aead: aead}
}

// bind returns a section's nonce, and what is authenticated with it.
func (b *box) bind(kind byte, number uint64, trailer []byte) (nonce [12]byte, data []byte) {
	binary.BigEndian.PutUint64(nonce[4:], number)
	data = make([]byte, 0, headSize+1+8+trailerSize)
	data = append(data, b.head[:]...)
	data = append(data, kind)
	data = binary.BigEndian.AppendUint64(data, number)
	return nonce, append(data, trailer...)
}

// seal encrypts a section where it lies. It is longer by tagSize then.
func (b *box) seal(plain []byte, kind byte, number uint64, trailer []byte) []byte {
	nonce, data := b.bind(kind, number, trailer)
	return b.aead.Seal(plain[:0], nonce[:], plain, data)
}

// open decrypts a section where it lies.
func (b *box) open(sealed []byte, kind byte, number uint64, trailer []byte) ([]byte, error) {
	nonce, data := b.bind(kind, number, trailer)
	plain, err := b.aead.Open(sealed[:0], nonce[:], sealed, data)
	if err != nil {
		return nil, fmt.Errorf("is not what was written: %w", ErrDamaged) // GCM says no more either
	}
	return plain, nil
}
