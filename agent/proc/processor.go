package proc

import (
	"runtime"
	"slices"
	"strings"
)

// Processor is what a host's processors can do for a program.
type Processor struct {
	Machine  string   `json:"machine"` // as Go names it: "amd64"
	Features []string `json:"features,omitempty"`
}

// instructionSets are the beginnings of those flags in /proc/cpuinfo that stand for instructions which programs use, or for state that they bring. All
// others tell of the kernel's own means, or of defects.
var instructionSets = []string{
	"sse", "ssse", "avx", "amx", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "gfni", "sha_ni", "sha512", "sm3", "sm4", "bmi", "fma", "f16c", "adx", "abm", "popcnt", "movbe",
	"rdrand", "rdseed", "rdtscp", "rdpid", "rtm", "hle", "fsgsbase", "xsave", "pku", "cx16", "lahf_lm", "serialize", "movdir", "waitpkg", "cldemote", "clwb", "clflushopt",
	"clzero", "tbm", "xop", "3dnow", "mmxext", "user_shstk",
}

// ReadProcessor says what this host's processors can do. A kernel that shows none of it has no features.
func ReadProcessor() Processor {
	p := Processor{Machine: runtime.GOARCH}
	_ = fields("/proc/cpuinfo", func(name, value string) bool {
		if name != "flags" && name != "Features" {
			return true
		}
		for _, flag := range strings.Fields(value) {
			if slices.ContainsFunc(instructionSets, func(set string) bool { return strings.HasPrefix(flag, set) }) {
				p.Features = append(p.Features, flag)
			}
		}
		return false
	})
	slices.Sort(p.Features)
	return p
}

// Without lists what p can do and other cannot.
func (p Processor) Without(other Processor) []string {
	if p.Machine != "" && p.Machine != other.Machine {
		return []string{p.Machine}
	}
	var out []string
	for _, f := range p.Features {
		if !slices.Contains(other.Features, f) {
			out = append(out, f)
		}
	}
	return out
}
