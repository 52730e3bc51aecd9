package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"ss/store/kv"
)

// alphabet is Crockford's base 32 in lower case: in ASCII order, and without i, l, o and u, which
// people mistake for others.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID makes an id such as 20261122-104501-x7k2: the second in UTC, two characters for the fraction
// of it in 1/1024, and two at random. Ids sort as their times do.
func newID(at time.Time, random uint16) string {
	at = at.UTC()
	fraction := at.Nanosecond() * 1024 / int(time.Second)
	return at.Format("20060102-150405-") + string([]byte{
		alphabet[fraction>>5&31], alphabet[fraction&31], alphabet[random>>5&31], alphabet[random&31],
	})
}

// freeID draws an id that no attempt and no cut has.
func freeID(tx kv.Tx, at time.Time) (string, error) {
	for range 100 {
		var b [2]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("draw id: %w", err)
		}
		id := newID(at, uint16(b[0])<<8|uint16(b[1]))
		cut, err := exists(tx, bucketCuts, id)
		if err != nil {
			return "", err
		}
		attempt, err := exists(tx, bucketAttempts, id)
		if err != nil {
			return "", err
		}
		if !cut && !attempt {
			return id, nil
		}
	}
	return "", errors.New("no free id in this millisecond: try again")
}
