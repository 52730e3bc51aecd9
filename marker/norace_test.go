//go:build !race

package marker

const raceEnabled = false
