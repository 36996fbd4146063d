package stunmsg

import (
	"encoding/binary"
	"net/netip"
)

// The address families of attributes (RFC 8489 section 14.1).
const (
	IPv4 = 1
	IPv6 = 2
)

// Address reads the value of MAPPED-ADDRESS and its like (RFC 8489 section 14.1): 0, family, port 16, address. An
// IPv6 address that holds an IPv4 one is returned as it is. ok is false if the value is no address.
func Address(v []byte) (a netip.AddrPort, ok bool) { return address(v, [16]byte{}) }

// XORAddress is Address for XOR-MAPPED-ADDRESS and its like, which are masked with the cookie and the id of the
// message (section 14.2).
func XORAddress(v []byte, id ID) (a netip.AddrPort, ok bool) { return address(v, mask(id)) }

// Mapped returns the address in an answer, XOR-MAPPED-ADDRESS if it has one, else MAPPED-ADDRESS, as servers older
// than RFC 5389 send it. It is never an IPv4 address in an IPv6 one; else it may be anything that a server made up.
func Mapped(b []byte, id ID) (a netip.AddrPort, ok bool) {
	if v, there := Find(b, XORMappedAddress); there {
		a, ok = XORAddress(v, id)
	} else if v, there := Find(b, MappedAddress); there {
		a, ok = Address(v)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), ok
}

// AppendXORAddress appends an attribute with an address, masked with the cookie and the id. An IPv4 address in an
// IPv6 one is written as the IPv4 one.
func AppendXORAddress(dst []byte, typ uint16, a netip.AddrPort, id ID) []byte {
	key := mask(id)
	ip := a.Addr().Unmap()
	dst = binary.BigEndian.AppendUint16(dst, typ)
	if ip.Is4() {
		raw := ip.As4()
		dst = append(dst, 0, 8, 0, IPv4)
		return appendMasked(dst, a.Port(), raw[:], &key)
	}
	raw := ip.As16()
	dst = append(dst, 0, 20, 0, IPv6)
	return appendMasked(dst, a.Port(), raw[:], &key)
}

func appendMasked(dst []byte, port uint16, raw []byte, key *[16]byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, port^binary.BigEndian.Uint16(key[:]))
	for i, b := range raw {
		dst = append(dst, b^key[i])
	}
	return dst
}

func mask(id ID) (key [16]byte) {
	binary.BigEndian.PutUint32(key[:], Cookie)
	copy(key[4:], id[:])
	return key
}

func address(v []byte, key [16]byte) (netip.AddrPort, bool) {
	if len(v) < 4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ binary.BigEndian.Uint16(key[:])
	raw := v[4:]
	for i := range min(len(raw), len(key)) {
		key[i] ^= raw[i]
	}
	switch {
	case v[1] == IPv4 && len(raw) == 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(key[:4])), port), true
	case v[1] == IPv6 && len(raw) == 16:
		return netip.AddrPortFrom(netip.AddrFrom16(key), port), true
	}
	return netip.AddrPort{}, false
}
