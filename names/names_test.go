package names_test

import (
	"strings"
	"testing"

	"ss/names"
)

func TestValid(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "Z9": true, "host-1.example_2": true, "0": true, strings.Repeat("x", 63): true,
		"": false, strings.Repeat("x", 64): false, ".a": false, "-a": false, "_a": false, "a/b": false, "a b": false, "..": false,
		"é": false, "a\x00": false, "a\n": false,
	} {
		if names.Valid(name) != want || (names.Check("job", name) == nil) != want {
			t.Errorf("Valid(%q) is %v", name, !want)
		}
	}
}

// TestMember checks that the name of every host's member is valid, and gives prefix and number back: two members of one name had
// the same prefix and the same number.
func TestMember(t *testing.T) {
	for length := 1; length <= names.MaxLength; length++ {
		for _, host := range []string{strings.Repeat("x", length), ("a-1.2_" + strings.Repeat("3-", 31))[:length]} {
			for _, n := range []uint64{1, 9, 10, 12345, names.MaxNumber} {
				name := names.Member(names.Prefix(host), n)
				if !names.Valid(name) {
					t.Fatalf("member %q of host %q is not valid", name, host)
				}
				prefix, number, ok := names.Number(name)
				if !ok || prefix != names.Prefix(host) || number != n {
					t.Fatalf("%q is taken apart as %q, %d, %v", name, prefix, number, ok)
				}
			}
		}
	}
	for _, name := range []string{"", "a", "-1", "a-", "a-0", "a-01", "a-x", "a-99999999999", "a-+1"} {
		if _, _, ok := names.Number(name); ok {
			t.Errorf("%q has a number", name)
		}
	}
}
