package link

import "encoding/binary"

// Every packet is one UDP datagram:
//
//	 0        1..3                 4..11             12 ..            end-16..end
//	+--------+--------------------+-----------------+----------------+-------------+
//	|10TTTTEE| receiver index u24 | counter u64 BE  | ciphertext     | AEAD tag    |
//	+--------+--------------------+-----------------+----------------+-------------+
//
// TTTT is the packet type, EE the key epoch modulo 4. The first byte lies in 128..191, outside of
// STUN, DTLS, TURN channels (RFC 7983) and QUIC (RFC 9443). Bytes 0..11 are the associated data; the
// nonce is four zero bytes and the counter.
const (
	headerBytes   = 12
	tagBytes      = 16
	overheadBytes = headerBytes + tagBytes

	// What a path is expected to carry: 1200 + 28 + 4 (TURN) + 48 (IPv6, UDP) = 1280, the least MTU of IPv6.
	mtuBytes    = 1200
	packetBytes = mtuBytes + overheadBytes

	// What no path needs to carry more than: 1472 + 28 (IPv4, UDP) = 1500, Ethernet's MTU.
	mostPacket = 1472
	mostMTU    = mostPacket - overheadBytes

	indexMask = 1<<24 - 1
)

// Packet types. 4 is kept for resets.
const (
	typeData     = 0
	typeControl  = 1
	typeFragment = 2 // see putFragment
	typeClose    = 3
	typeBundle   = 5 // see sizeBytes
)

// The first byte of a control packet's plaintext.
const (
	kindPing      = 1 // anything
	kindPong      = 2 // counter of the PING u64
	kindChallenge = 3 // 8 random bytes
	kindResponse  = 4 // the same 8 bytes
	kindFeedback  = 5 // see feedback
	kindMessage   = 6 // id u64, message
	kindAck       = 7 // id u64
)

const (
	shortBytes   = 1 + 8 // PONG, CHALLENGE, RESPONSE, ACK
	messageBytes = leastPacket - overheadBytes - shortBytes
	reasonBytes  = 256
)

// putHeader writes a packet's header to the first headerBytes of b.
func putHeader(b []byte, typ, epoch byte, index uint32, counter uint64) {
	binary.BigEndian.PutUint32(b, index&indexMask)
	b[0] = 0x80 | typ<<2 | epoch&3
	binary.BigEndian.PutUint64(b[4:], counter)
}

// isPacket reports whether b can be a packet of ours at all.
func isPacket(b []byte) bool {
	return len(b) >= overheadBytes && len(b) <= mostPacket && b[0]&0xc0 == 0x80
}

func packetType(b []byte) byte  { return b[0] >> 2 & 15 }
func packetEpoch(b []byte) byte { return b[0] & 3 }

func packetIndex(b []byte) uint32   { return binary.BigEndian.Uint32(b) & indexMask }
func packetCounter(b []byte) uint64 { return binary.BigEndian.Uint64(b[4:]) }
