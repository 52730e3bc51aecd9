package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// maxWrapped bounds a wrapped key, in bytes. One recipient takes 150.
const maxWrapped = 64 << 10

// NewIdentity draws an identity of a cluster ("AGE-SECRET-KEY-1…") and its recipient ("age1…").
func NewIdentity() (identity, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("draw an identity: %w", err)
	}
	return id.String(), id.Recipient().String(), nil
}

// CheckRecipient says what is wrong with a recipient; nil if nothing is.
func CheckRecipient(recipient string) error {
	if strings.Contains(strings.ToUpper(recipient), "AGE-SECRET-KEY-") {
		return errors.New("this is an identity, which must stay secret: give its recipient (age1…), which `age-keygen -y` prints")
	}
	if _, err := age.ParseX25519Recipient(recipient); err != nil {
		return fmt.Errorf("recipient %q is not one that age-keygen prints (age1…): %w", recipient, err)
	}
	return nil
}

// Wrap encrypts a key to all recipients; the result is text (armored age).
func (k Job) Wrap(recipients ...string) (string, error) {
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := EncryptTo(armored, recipients...)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(k[:]); err != nil {
		return "", fmt.Errorf("wrap a job's key: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return "", fmt.Errorf("wrap a job's key: %w", err)
	}
	return text.String(), nil
}

// Unwrap decrypts what Wrap made with the first identity that fits. Otherwise the error wraps ErrUnwrap.
func Unwrap(wrapped string, identities ...string) (Job, error) {
	if len(wrapped) > maxWrapped {
		return Job{}, fmt.Errorf("a wrapped key has at most %d bytes, this has %d: %w", maxWrapped, len(wrapped), ErrUnwrap)
	}
	r, err := DecryptFrom(armor.NewReader(strings.NewReader(wrapped)), identities...)
	if err != nil {
		return Job{}, err
	}
	var k Job
	// One byte more than a key has: what is longer is none, and age tells only at its end that all of it is genuine.
	var plain [len(k) + 1]byte
	switch n, err := io.ReadFull(r, plain[:]); {
	case err == nil:
		return Job{}, fmt.Errorf("wrapped is more than a key: %w", ErrUnwrap)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		return Job{}, fmt.Errorf("wrapped key is damaged: %w: %w", err, ErrUnwrap)
	case n != len(k):
		return Job{}, fmt.Errorf("wrapped are %d bytes, a key has %d: %w", n, len(k), ErrUnwrap)
	}
	copy(k[:], plain[:])
	return k, nil
}

// EncryptTo returns a writer that encrypts to the recipients what is written to it, into w. Close ends it, and does not close w.
func EncryptTo(w io.Writer, recipients ...string) (io.WriteCloser, error) {
	if len(recipients) == 0 {
		return nil, errors.New("encrypt to whom? No recipient is given")
	}
	parsed := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		if err := CheckRecipient(r); err != nil {
			return nil, err
		}
		p, err := age.ParseX25519Recipient(r)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", r, err)
		}
		parsed[i] = p
	}
	enc, err := age.Encrypt(w, parsed...)
	if err != nil {
		return nil, fmt.Errorf("encrypt to %d recipients: %w", len(recipients), err)
	}
	return enc, nil
}

// DecryptFrom reads what EncryptTo wrote. If no identity fits, or it is nothing like that, the error wraps ErrUnwrap. The reader gives
// an error, and no end, where bytes are missing or are not what was written.
func DecryptFrom(r io.Reader, identities ...string) (io.Reader, error) {
	if len(identities) == 0 {
		return nil, fmt.Errorf("decrypt with what? No identity is given: %w", ErrUnwrap)
	}
	parsed := make([]age.Identity, len(identities))
	for i, s := range identities {
		p, err := age.ParseX25519Identity(s)
		if err != nil { // whose text may quote the secret
			return nil, fmt.Errorf("identity %d of %d is not one that age-keygen makes (AGE-SECRET-KEY-1…): %w", i+1, len(identities), ErrUnwrap)
		}
		parsed[i] = p
	}
	dec, err := age.Decrypt(r, parsed...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, fmt.Errorf("it was encrypted to others than the %d identities at hand: %w", len(identities), ErrUnwrap)
	}
	if err != nil {
		return nil, fmt.Errorf("encrypted data is damaged: %w: %w", err, ErrUnwrap)
	}
	return dec, nil
}
