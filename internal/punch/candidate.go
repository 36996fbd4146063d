package punch

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net/netip"
)

// A CandidateType says how an address was learned (RFC 8445 §5.1.1). The values are part of the
// signalling format.
type CandidateType uint8

// The types of candidates.
const (
	HostCandidate   CandidateType = iota // an address of an interface
	ServerReflexive                      // what a STUN server saw
	PeerReflexive                        // what the peer saw, or where its checks came from
	Relay                                // an address on a relay
)

// String returns the name that SDP uses (RFC 8839 §5.1), or "type(n)" for a value that has none.
func (t CandidateType) String() string {
	switch t {
	case HostCandidate:
		return "host"
	case ServerReflexive:
		return "srflx"
	case PeerReflexive:
		return "prflx"
	case Relay:
		return "relay"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// preference is the type preference recommended by RFC 8445 §5.1.2.2.
func (t CandidateType) preference() uint32 {
	switch t {
	case HostCandidate:
		return 126
	case PeerReflexive:
		return 110
	case ServerReflexive:
		return 100
	}
	return 0
}

// A Candidate is an address at which a peer may be reached. Addr is never an IPv4-mapped IPv6
// address. Priority is that of RFC 8445 §5.1.2: larger is better; 0 stands for the type's default.
type Candidate struct {
	Type     CandidateType
	Addr     netip.AddrPort
	Priority uint32
}

// String returns type and address: "host 192.0.2.1:4000".
func (c Candidate) String() string { return c.Type.String() + " " + c.Addr.String() }

// A Pair is what ICE selected. Remote.Addr is the address that the peer's packets really come from.
type Pair struct{ Local, Remote Candidate }

// String returns both candidates with an arrow between them.
func (p Pair) String() string { return p.Local.String() + " -> " + p.Remote.String() }

// priority is RFC 8445 §5.1.2.1 for component 1. The local preference interleaves the families,
// IPv6 first (RFC 8421 §4): index counts the candidates of one type and family.
func priority(t CandidateType, v6 bool, index int) uint32 {
	local := 65534 - 2*min(index, 32767)
	if v6 {
		local++
	}
	return t.preference()<<24 | uint32(local)<<8 | (256 - 1)
}

// Credentials are the user fragment and password of an ICE agent (RFC 8445 §5.3). The fragment
// travels in the clear with each check; the password authenticates the checks and never travels.
type Credentials struct{ Ufrag, Pwd string }

const (
	ufragChars = 16
	pwdChars   = 32 // 192 bits; RFC 8445 asks for 128
	iceChars   = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

// CredentialsFromSeed derives the credentials of one generation from a random seed, so that
// signalling carries sixteen bytes instead of both strings. The seed is as secret as the password.
func CredentialsFromSeed(seed [16]byte) Credentials {
	b, err := hkdf.Key(sha256.New, seed[:], nil, "adit ice credentials v1", ufragChars+pwdChars)
	if err != nil {
		panic("punch: derive ice credentials: " + err.Error()) // only for absurd lengths
	}
	for i := range b {
		b[i] = iceChars[b[i]&63] // 64 characters: no bias
	}
	return Credentials{Ufrag: string(b[:ufragChars]), Pwd: string(b[ufragChars:])}
}
