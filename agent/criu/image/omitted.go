package image

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"ss/agent"
)

// OmittedName is the file in the images' folder that says what CRIU has found empty. AddPages removes it.
const OmittedName = ".omitted.json"

// PageSize is that of x86-64, in bytes.
const PageSize = 4096

// Ranges are ranges of addresses, by the PIDs that CRIU sees, each process's in order.
type Ranges map[int][]agent.PageRange

// WriteRanges writes the file in one step.
func WriteRanges(path string, r Ranges) error {
	text, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(path+"~", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		return fmt.Errorf("write what CRIU does not dump: %w", err)
	}
	return nil
}

// ReadRanges reads the list of what CRIU was told to leave out, as it lies beside the images.
func ReadRanges(path string) (Ranges, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Ranges
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read what CRIU does not dump: %w", err)
	}
	return r, nil
}

// Overlapping returns what of the ranges, which are in order, lies in the given one.
func Overlapping(all []agent.PageRange, in agent.PageRange) []agent.PageRange {
	var out []agent.PageRange
	i, _ := slices.BinarySearchFunc(all, in.Start, func(r agent.PageRange, at uint64) int {
		if r.End <= at {
			return -1
		}
		return 1
	})
	for ; i < len(all) && all[i].Start < in.End; i++ {
		out = append(out, agent.PageRange{Start: max(all[i].Start, in.Start), End: min(all[i].End, in.End)})
	}
	return out
}
