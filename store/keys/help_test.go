package keys_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"testing"

	"filippo.io/age/armor"

	"ss/store/keys"
)

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}

// hkdfByHand is RFC 5869 for one block of output.
func hkdfByHand(secret, salt []byte, info string) []byte {
	return mac(mac(salt, secret), append([]byte(info), 1))
}

// encrypt makes what Wrap makes, of anything.
func encrypt(t *testing.T, recipient string, plain []byte) string {
	t.Helper()
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := keys.EncryptTo(armored, recipient)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), armored.Close()); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
