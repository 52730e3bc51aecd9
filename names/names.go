package names

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	// MaxLength is how many bytes a name may have.
	MaxLength = 63
	// maxPrefix is how much of a host's name begins its members' names: a dash and ten digits fit behind it.
	maxPrefix = MaxLength - 11
	// MaxNumber bounds the number in a member's name.
	MaxNumber = math.MaxUint32
	// Rule says in words what Valid checks.
	Rule = "use 1 to 63 letters, digits, '.', '-' and '_', a letter or digit first"
)

// Valid says whether name can be that of a cluster, a host, a job, a member or a cut: 1 to MaxLength ASCII letters, digits,
// dots, dashes and underscores, the first a letter or digit. Such a name is safe as that of a file, and of a cgroup.
func Valid(name string) bool {
	if name == "" || len(name) > MaxLength {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune(".-_", rune(c))) {
			return false
		}
	}
	return true
}

// Check returns nil for a valid name, or an error that says what noun needs.
func Check(noun, name string) error {
	if Valid(name) {
		return nil
	}
	return fmt.Errorf("%s %q is not a valid name: %s", noun, name, Rule)
}

// Prefix is what the names of members that are started on a host begin with: the host's name, cut where the number would not fit
// behind it. Numbers are counted by prefix, so two hosts whose long names begin alike share one count.
func Prefix(host string) string { return host[:min(len(host), maxPrefix)] }

// Member is the name of the member of a prefix and a number.
func Member(prefix string, number uint64) string {
	return prefix + "-" + strconv.FormatUint(number, 10)
}

// Number takes a member's name apart. ok is false for a name that Member does not make.
func Number(name string) (prefix string, number uint64, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 1 {
		return "", 0, false
	}
	number, err := strconv.ParseUint(name[i+1:], 10, 64)
	if err != nil || number == 0 || number > MaxNumber || Member(name[:i], number) != name {
		return "", 0, false
	}
	return name[:i], number, true
}
