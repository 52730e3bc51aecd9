// Package three has one test that passes, one that fails, and one that ends its process.
package three

import (
	"os"
	"testing"
)

func TestGood(*testing.T) {}

func TestBad(t *testing.T) { t.Error("because") }

func TestEnds(*testing.T) { os.Exit(3) }
