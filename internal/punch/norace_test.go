//go:build !race

package punch

const raceEnabled = false
