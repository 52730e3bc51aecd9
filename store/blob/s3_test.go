package blob_test

import (
	"testing"

	"ss/store/blob/blobtest"
)

// partSize is what vaults of these tests have.
const partSize = 5 << 20

func TestS3Contract(t *testing.T) {
	s := startServer(t)
	blobtest.Suite(t, func(t *testing.T) blobtest.Backend {
		bucket := s.bucket(t)
		v := s.vault(t, bucket, s.address)
		return blobtest.Backend{
			Reader: v, Writer: v, Remover: v,
			Large: 2*partSize + 4321, Many: 1100, // more than two parts; more than one page
			Partials: func(t *testing.T) []string { return s.uploads(t, bucket) },
		}
	})
}
