package netmon

import (
	"encoding/binary"
	"slices"
	"testing"
)

func TestOnlyMisses(t *testing.T) {
	const miss, change = 7, 3
	message := func(typ byte, size int) []byte {
		b := make([]byte, size)
		binary.NativeEndian.PutUint16(b, uint16(size))
		b[2], b[3] = 5, typ
		return b
	}
	zero := message(miss, 92)
	zero[0], zero[1] = 0, 0
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"a miss", message(miss, 92), true},
		{"a route", message(change, 92), false},
		{"two misses", slices.Concat(message(miss, 92), message(miss, 120)), true},
		{"a miss and a route", slices.Concat(message(miss, 92), message(change, 92)), false},
		{"a miss that was cut off", message(miss, 92)[:40], true},
		{"a miss, and three bytes of another message", append(message(miss, 92), 92, 0, 5), false},
		{"three bytes", []byte{92, 0, 5}, false},
		{"no length", zero, false},
	} {
		if got := onlyMisses(c.b, miss); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzOnlyMisses(f *testing.F) {
	f.Add([]byte{4, 0, 5, 7, 92, 0, 5, 7}, byte(7))
	f.Fuzz(func(t *testing.T, b []byte, miss byte) {
		if onlyMisses(b, miss) && (len(b) < 4 || b[3] != miss) {
			t.Error("taken for a miss")
		}
	})
}
