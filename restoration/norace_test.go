//go:build !race

package restoration

const raceEnabled = false
