//go:build !linux

package punch

import "testing"

var floodModes = []floodMode{{"plain", func(*testing.B, *Host, *Host) {}}}
