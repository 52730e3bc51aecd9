package target

import (
	"fmt"
	"strings"

	"ss/agent/proc"
)

// Lacking says which instructions the processors of this host lack that those of another have, "" if none. The C library chooses among its functions by
// the processor when a program starts, and nothing chooses again after a restore: a program that never names such an instruction dies of it all the same.
func Lacking(theirs proc.Processor, host string) string {
	lacks := theirs.Without(proc.ReadProcessor())
	if len(lacks) == 0 {
		return ""
	}
	return fmt.Sprintf("its processors lack instructions that those of %s have, and that programs there may use (%s): restore to a host with the same or a newer processor", host, strings.Join(lacks, ", "))
}
