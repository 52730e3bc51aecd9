package blob

import (
	"fmt"
	"strings"
)

// Bounds of a name. Most file systems take 255 bytes for an element, and S3 takes 1024 for a key.
const (
	maxElements = 8
	maxElement  = 128
)

// CheckName refuses what is not an object's name: 1 to 8 elements, joined with slashes, each 1 to 128 of A–Z a–z 0–9 . _ -, a letter or digit
// first. Such a name is safe as a path and as a key of an object store.
func CheckName(name string) error {
	if len(name) > maxElements*(maxElement+1) {
		return fmt.Errorf("%q… is too long: %w", name[:maxElement], ErrInvalid)
	}
	elements := strings.Split(name, "/")
	if len(elements) > maxElements {
		return fmt.Errorf("%q has more than %d elements: %w", name, maxElements, ErrInvalid)
	}
	for _, e := range elements {
		if !validElement(e) {
			return fmt.Errorf("%q: element %q is not 1 to %d letters, digits, dots, dashes and underscores, a letter or digit first: %w",
				name, e, maxElement, ErrInvalid)
		}
	}
	return nil
}

func validElement(e string) bool {
	if len(e) == 0 || len(e) > maxElement {
		return false
	}
	for i := range len(e) {
		switch c := e[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// possiblePrefix says whether a name may begin with prefix.
func possiblePrefix(prefix string) bool {
	elements := strings.Split(prefix, "/")
	for i, e := range elements {
		if last := i == len(elements)-1; !validElement(e) && (e != "" || !last) {
			return false
		}
	}
	return len(elements) <= maxElements
}
