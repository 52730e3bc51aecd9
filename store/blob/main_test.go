package blob_test

import (
	"os"
	"testing"
)

// TestMain lets the test program be a process that ends at a step, and stops what tests share.
func TestMain(m *testing.M) {
	if root := os.Getenv("BLOB_TEST_CHILD"); root != "" {
		os.Exit(child(root, os.Getenv("BLOB_TEST_STORY"), os.Getenv("BLOB_TEST_STEP")))
	}
	code := m.Run()
	stopServer()
	os.Exit(code)
}
