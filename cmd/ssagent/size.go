package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// size is a number of bytes as a person writes it: 4096, 100MiB, 8 GiB, 10MB.
type size int64

// units are what may stand behind a number. Those with an i are powers of 1024 (IEC 80000-13), the others of 1000.
var units = map[string]int64{
	"": 1, "B": 1,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// parseSize reads a size. It is a whole number, not negative, of one of the units.
func parseSize(text string) (size, error) {
	digits := strings.TrimRight(text, "BKMGTik")
	unit, ok := units[text[len(digits):]]
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, " "), 10, 63)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not a size; write a whole number and a unit, like 100MiB or 2GiB", text)
	}
	if int64(n) > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is more than a file system has", text)
	}
	return size(int64(n) * unit), nil
}

// UnmarshalYAML reads a size.
func (s *size) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: not a size", node.Line)
	}
	n, err := parseSize(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*s = n
	return nil
}
