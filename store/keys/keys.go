package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

// What keys are derived for, in HKDF's info. A label is never used for two purposes.
const idLabel = "ss job key id v1"

// Job is the secret of one job. It never shows itself: printed, logged or marshalled it is a placeholder.
type Job [32]byte

// Open is the key of jobs whose images are not to be secret: it is known to everyone. Images keep one form that way, and
// what finds damage in them stays the same.
var Open Job

// ErrUnwrap says that none of the identities at hand opens a wrapped key.
var ErrUnwrap = errors.New("no identity opens this key")

// New draws a job's key.
func New() (Job, error) {
	var k Job
	if _, err := rand.Read(k[:]); err != nil {
		return Job{}, fmt.Errorf("draw a job's key: %w", err)
	}
	return k, nil
}

// ID names a key without telling anything about it: 16 hex digits.
func (k Job) ID() string {
	id := k.Derive(idLabel, nil)
	return hex.EncodeToString(id[:8])
}

// Derive makes a 32-byte key for one purpose (HKDF-SHA-256, RFC 5869): info names the purpose, salt (may be nil) the instance.
func (k Job) Derive(info string, salt []byte) [32]byte {
	key, err := hkdf.Key(sha256.New, k[:], salt, info, 32)
	if err != nil {
		panic("keys: HKDF of 32 bytes: " + err.Error()) // it refuses only lengths that are not ours
	}
	return [32]byte(key)
}

// placeholder stands for a key wherever one would be shown.
const placeholder = "[job key]"

// String returns a placeholder.
func (k Job) String() string { return placeholder }

// GoString returns a placeholder.
func (k Job) GoString() string { return placeholder }

// Format writes a placeholder, whatever the verb.
func (k Job) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(placeholder)) }

// LogValue returns a placeholder.
func (k Job) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalText returns a placeholder. Wrap is how a key is stored.
func (k Job) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// MarshalJSON returns a placeholder. Wrap is how a key is stored.
func (k Job) MarshalJSON() ([]byte, error) { return []byte(`"` + placeholder + `"`), nil }
