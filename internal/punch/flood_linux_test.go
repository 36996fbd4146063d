package punch

import "testing"

var floodModes = []floodMode{
	floodOn(fallback{name: "gso"}),
	floodOn(fallback{name: "mmsg", noGSO: true}),
	floodOn(fallback{name: "mmsg-no-gro", noGSO: true, noGRO: true}),
	floodOn(fallback{name: "plain", noGSO: true, noGRO: true, noMmsg: true}),
}

func floodOn(f fallback) floodMode {
	return floodMode{f.name, func(b *testing.B, from, to *Host) {
		f.set(b, from)
		f.set(b, to)
	}}
}
