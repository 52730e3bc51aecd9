package keys_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"ss/store/keys"
)

func newKey(t testing.TB) keys.Job {
	t.Helper()
	k, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newIdentity(t testing.TB) (identity, recipient string) {
	t.Helper()
	identity, recipient, err := keys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity, recipient
}

func TestKeyNeverShowsItself(t *testing.T) {
	k := newKey(t)
	shown := func(k any) map[string]string {
		out := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "% x", "%32v"} {
			out[verb] = fmt.Sprintf(verb, k)
		}
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		out["json"] = string(text)
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("text", "key", k)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "key", k)
		out["log"] = log.String()
		return out
	}
	for name, v := range map[string]any{
		"bare": k, "pointer": &k, "field": struct{ Key keys.Job }{k}, "map": map[string]keys.Job{"key": k}, "as a map's key": map[keys.Job]int{k: 1},
	} {
		for how, text := range shown(v) {
			if !strings.Contains(text, "[job key]") {
				t.Errorf("%s by %s: no placeholder: %s", name, how, text)
			}
			for _, secret := range []string{hex.EncodeToString(k[:3]), fmt.Sprintf("%d %d %d", k[0], k[1], k[2]), fmt.Sprintf("%d,%d,%d", k[0], k[1], k[2])} {
				if strings.Contains(strings.ToLower(text), secret) {
					t.Errorf("%s by %s shows the key: %s", name, how, text)
				}
			}
		}
	}
	if got := k.String() + k.GoString(); got != "[job key][job key]" {
		t.Errorf("String and GoString: %s", got)
	}
}

// What is derived is fixed for ever: images on disk depend on it.
func TestDeriveIsHKDF(t *testing.T) {
	a, b := newKey(t), newKey(t)
	if a.ID() == b.ID() || len(a.ID()) != 16 {
		t.Errorf("ids %q, %q", a.ID(), b.ID())
	}
	seen := map[[32]byte]bool{}
	for _, k := range []keys.Job{a, b} {
		for _, info := range []string{"one", "two"} {
			for _, salt := range [][]byte{nil, {1}, {2}} {
				seen[k.Derive(info, salt)] = true
			}
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d keys for 12 purposes", len(seen))
	}
	// RFC 5869 has no case with a key of 32 bytes; this is HMAC by hand: PRK = HMAC(salt, key), OKM = HMAC(PRK, info ‖ 1).
	got := keys.Open.Derive("ss test", []byte("salt"))
	if want := hkdfByHand(make([]byte, 32), []byte("salt"), "ss test"); !bytes.Equal(got[:], want) {
		t.Errorf("derived %x, by hand %x", got, want)
	}
}

func TestWrapToManyRecipients(t *testing.T) {
	k := newKey(t)
	id, recipient := newIdentity(t)
	recoveryID, recovery := newIdentity(t)
	otherID, _ := newIdentity(t)
	wrapped, err := k.Wrap(recipient, recovery)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(wrapped, "-----BEGIN AGE ENCRYPTED FILE-----\n") {
		t.Errorf("not armored: %q", wrapped)
	}
	for name, ids := range map[string][]string{"cluster": {id}, "recovery": {recoveryID}, "second of two": {otherID, recoveryID}} {
		if got, err := keys.Unwrap(wrapped, ids...); err != nil || got != k {
			t.Errorf("%s: another key, or %v", name, err)
		}
	}
	for name, ids := range map[string][]string{"wrong": {otherID}, "none": nil, "garbage": {"AGE-SECRET-KEY-1QQQ"}, "empty": {""}, "recipient": {recipient}} {
		_, err := keys.Unwrap(wrapped, ids...)
		if !errors.Is(err, keys.ErrUnwrap) {
			t.Errorf("%s: %v, want ErrUnwrap", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "AGE-SECRET-KEY-1QQQ") {
			t.Errorf("%s: shows the identity: %v", name, err)
		}
	}
	if again, err := k.Wrap(recipient, recovery); err != nil || again == wrapped {
		t.Errorf("wrapped twice the same, or %v", err)
	}
}

func TestUnwrapRefusesWhatIsNotWhole(t *testing.T) {
	k := newKey(t)
	id, recipient := newIdentity(t)
	wrapped, err := k.Wrap(recipient)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(wrapped) - 1 { // without its last line feed it is still whole
		if got, err := keys.Unwrap(wrapped[:n], id); !errors.Is(err, keys.ErrUnwrap) || got != (keys.Job{}) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(wrapped), err)
		}
	}
	for i := range wrapped {
		broken := []byte(wrapped)
		broken[i] ^= 1 << (i % 7)
		if got, err := keys.Unwrap(string(broken), id); err == nil && got != k {
			t.Fatalf("byte %d changed: another key", i)
		} else if err != nil && !errors.Is(err, keys.ErrUnwrap) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "garbage": "garbage", "huge": strings.Repeat("-", 1<<20), "more after it": wrapped + wrapped,
		"short": encrypt(t, recipient, make([]byte, 31)), "long": encrypt(t, recipient, make([]byte, 33)), "empty": encrypt(t, recipient, nil),
	} {
		if _, err := keys.Unwrap(text, id); !errors.Is(err, keys.ErrUnwrap) {
			t.Errorf("%s: %v, want ErrUnwrap", name, err)
		}
	}
}

func TestCheckRecipient(t *testing.T) {
	id, recipient := newIdentity(t)
	if err := keys.CheckRecipient(recipient); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "age1", recipient + "q", recipient[:len(recipient)-1], "ssh-ed25519 AAAA", id, strings.ToLower(id), " " + id, "key: " + id + "\n"} {
		err := keys.CheckRecipient(bad)
		if err == nil {
			t.Errorf("%q passes", bad)
		} else if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(id)) {
			t.Errorf("shows the identity: %v", err)
		}
	}
	if _, err := newKey(t).Wrap(); err == nil {
		t.Error("wrapped to nobody")
	}
	if _, err := newKey(t).Wrap(recipient, "age1"); err == nil {
		t.Error("wrapped to what is not a recipient")
	}
}

func TestEncryptToAndDecryptFrom(t *testing.T) {
	id, recipient := newIdentity(t)
	other, _ := newIdentity(t)
	plain := bytes.Repeat([]byte("what is in a cut. "), 20_000)
	var sealed bytes.Buffer
	w, err := keys.EncryptTo(&sealed, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := keys.DecryptFrom(bytes.NewReader(sealed.Bytes()), other, id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes of %d back, %v", len(got), len(plain), err)
	}
	if _, err := keys.DecryptFrom(bytes.NewReader(sealed.Bytes()), other); !errors.Is(err, keys.ErrUnwrap) {
		t.Errorf("another identity: %v", err)
	}
	r, err = keys.DecryptFrom(bytes.NewReader(sealed.Bytes()[:sealed.Len()/2]), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil {
		t.Error("half of it reads to its end")
	}
}
