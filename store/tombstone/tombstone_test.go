package tombstone

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// prefix "signs" by putting the kind before the body.
type prefix struct{}

func (prefix) SignStatement(kind string, body []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s|%s", kind, body), nil
}

func (prefix) OpenStatement(kind string, s []byte) ([]byte, error) {
	if body, ok := bytes.CutPrefix(s, []byte(kind+"|")); ok {
		return body, nil
	}
	return nil, errors.New("not signed")
}

func example() Tombstone {
	return Tombstone{Cluster: "c", Job: "ring", Cut: "20261122-104501-x7k2", Epoch: 7, Removed: time.Date(2026, 11, 22, 10, 45, 2, 5, time.UTC),
		Sets: []Set{{"hostB", strings.Repeat("b", 64)}, {"hostA", strings.Repeat("a", 64)}}}
}

func TestRoundTrip(t *testing.T) {
	data, err := example().Encode(prefix{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(data, prefix{})
	if err != nil || got.Job != "ring" || got.Epoch != 7 || len(got.Sets) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, c := range []struct {
		job, cut, host, manifest string
		want                     bool
	}{
		{"ring", "20261122-104501-x7k2", "hostA", strings.Repeat("a", 64), true},
		{"ring", "20261122-104501-x7k2", "hostA", strings.Repeat("b", 64), false}, // the cut was imported again
		{"ring", "20261122-104501-x7k3", "hostA", strings.Repeat("a", 64), false},
		{"rong", "20261122-104501-x7k2", "hostA", strings.Repeat("a", 64), false},
		{"ring", "20261122-104501-x7k2", "hostA", "", false}, // damaged: nobody knows which set it is
	} {
		if got.Covers(c.job, c.cut, c.host, c.manifest) != c.want {
			t.Errorf("%+v", c)
		}
	}
	again := example()
	slices.Reverse(again.Sets)
	if data2, err := again.Encode(prefix{}); err != nil || !bytes.Equal(data, data2) {
		t.Errorf("the order of sets counts: %v", err)
	}
	again.Epoch++
	if a, b := got.ID(), again.ID(); a == b || len(a) != 16 {
		t.Errorf("ids %s and %s", a, b)
	}
}

func TestDecodeRefuses(t *testing.T) {
	data, err := example().Encode(prefix{})
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"nothing":          nil,
		"not signed":       bytes.TrimPrefix(data, []byte(Kind)),
		"another schema":   bytes.Replace(data, []byte(`"schema":1`), []byte(`"schema":2`), 1),
		"another form":     bytes.Replace(data, []byte(`"schema":1`), []byte(`"schema": 1`), 1),
		"a path for a cut": bytes.Replace(data, []byte("20261122-104501-x7k2"), []byte("../../22-104501-x7k2"), 1),
		"no digest":        bytes.Replace(data, []byte("aaaa"), []byte("aa"), 1),
	} {
		if _, err := Decode(bad, prefix{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Decode(data, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("without a verifier: %v", err)
	}
	for _, bad := range []Tombstone{{}, {Job: "a", Cut: "b"}, {Job: "a", Cut: "b/c", Sets: example().Sets}} {
		if _, err := bad.Encode(prefix{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
