package netmon

import "encoding/binary"

// onlyMisses reports whether what a routing socket of a BSD gave (route(4)) tells of nothing but destinations
// without a route. To look at the network makes such messages itself, if it has no IPv6 for example: they would
// be a hint to look again, for ever.
//
//	length 16, the system's order | version 8 | type 8 | more, by type
func onlyMisses(b []byte, miss byte) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		if len(b) < 4 || b[3] != miss {
			return false
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 {
			return false
		}
		b = b[min(n, len(b)):]
	}
	return true
}
