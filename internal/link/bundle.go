package link

import (
	"encoding/binary"
	"net/netip"
)

// Payloads that are small and leave at the same moment share a packet: a hundred streams opened at once
// cost each side a tenth of the packets, and of what these cost. Nothing waits for company. The plaintext
// of a BUNDLE is two payloads or more, each behind its size:
//
//	 0        2                          2+size
//	+--------+--------------------------+--------+-----
//	| u16 BE | size bytes, 1 or more    | u16 BE | …
//	+--------+--------------------------+--------+-----
//
// It is no larger than leastPacket, which nearly every path carries, so that it says nothing about the path's MTU.
const sizeBytes = 2 // before each payload

// bundleLocked puts a payload into the batch's last packet, if that carries payloads to the same address
// and has room. It returns false if the payload needs a packet of its own.
func (l *Link) bundleLocked(b *batch, p *packet, to netip.AddrPort) bool {
	i := b.n - 1
	if i < 0 || i != b.open || b.to[i] != to || p.at[1] == l.seal.counter || p.typ != typeData {
		return false
	}
	packet := b.packet(i)
	grows := sizeBytes + p.n
	first := packetType(packet) == typeData
	if first {
		grows += sizeBytes
	}
	if len(packet)+grows > min(leastPacket, l.pmtu.size) {
		return false
	}
	b.end[i] += grows
	whole := b.packet(i)
	at := len(packet) - tagBytes // where what follows belongs
	if first {
		n := at - headerBytes
		copy(whole[headerBytes+sizeBytes:], whole[headerBytes:at])
		binary.BigEndian.PutUint16(whole[headerBytes:], uint16(n))
		whole[0] = whole[0]&^(15<<2) | typeBundle<<2
		at += sizeBytes
	}
	binary.BigEndian.PutUint16(whole[at:], uint16(p.n))
	copy(whole[at+sizeBytes:], p.b[:p.n])
	l.sentAll.bytes += uint64(grows)
	l.cc.Grow(l.seal.counter, grows)
	return true
}

// nextPayload cuts the first payload off a bundle's plaintext. ok is false where that is no bundle.
func nextPayload(b []byte) (p, rest []byte, ok bool) {
	if len(b) <= sizeBytes {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || sizeBytes+n > len(b) {
		return nil, nil, false
	}
	return b[sizeBytes : sizeBytes+n : sizeBytes+n], b[sizeBytes+n:], true
}

// receiveBundle hands over what a BUNDLE carries, all or nothing.
func (l *Link) receiveBundle(b []byte) {
	n := 0
	for rest := b; len(rest) > 0; n++ {
		var ok bool
		if _, rest, ok = nextPayload(rest); !ok {
			return
		}
	}
	f := l.handler.Load()
	if n < 2 || f == nil {
		return
	}
	for len(b) > 0 {
		var p []byte
		p, b, _ = nextPayload(b)
		(*f)(p)
	}
}
