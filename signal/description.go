package signal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unicode"
	"unicode/utf8"
)

// A CandidateType says where a candidate's address comes from (RFC 8445 section 5.1.1).
type CandidateType uint8

// The types of candidate. Their values are on the wire.
const (
	Host CandidateType = iota
	ServerReflexive
	PeerReflexive
	Relay
)

// String returns the type as SDP writes it (RFC 8839 section 5.1).
func (t CandidateType) String() string {
	switch t {
	case Host:
		return "host"
	case ServerReflexive:
		return "srflx"
	case PeerReflexive:
		return "prflx"
	case Relay:
		return "relay"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// A Candidate is one address at which a peer may be reached. Every candidate is UDP and of the only
// component there is.
type Candidate struct {
	Type     CandidateType
	Addr     netip.AddrPort // no zone; a mapped IPv4 address travels as IPv4
	Priority uint32         // RFC 8445 section 5.1.2
}

const (
	// MaxCandidates and MaxTargets bound how many of each a description holds, MaxTargetBytes how
	// long one target is.
	MaxCandidates  = 24
	MaxTargets     = 16
	MaxTargetBytes = 255

	descriptionVersion    = 1
	descriptionFixedBytes = 1 + 3 + 16

	fieldCandidates = 1
	fieldTarget     = 2
	fieldNAT        = 3

	candidateTypeMask = 0x03
	candidateIPv6     = 0x04
)

// A Description is what one peer tells the other inside the handshake: where it may be reached and
// what it offers.
type Description struct {
	Index      uint32   // what the other side puts into the header of every packet; 24 bits
	Seed       [16]byte // the ICE user fragment and password derive from it
	Candidates []Candidate
	Targets    []string // what an exposer offers, its default first; text without control characters
	NAT        NAT      // in front of the peer's IPv4 socket; the zero value says nothing and is left out
}

// Append appends the binary form of d to dst. What the receiver would refuse is left out: candidates
// beyond MaxCandidates or without a usable address, targets beyond MaxTargets, empty, too long or
// not printable.
//
//	 0        1                 4                     20
//	+--------+-----------------+---------------------+----------
//	| ver 1  | index           | seed, 16 bytes      | fields ...
//	+--------+-----------------+---------------------+----------
//	field:      | id, uvarint | length, uvarint | value |     unknown ids are skipped
//	  1  candidates, one after the other:
//	            | bits 0-1 type, bit 2 IPv6 | address, 4 or 16 | port, 2 | priority, 4 |
//	  2  one target
//	  3  the NAT: see NAT
//
// Integers are big-endian.
func (d Description) Append(dst []byte) []byte {
	dst = append(dst, descriptionVersion, byte(d.Index>>16), byte(d.Index>>8), byte(d.Index))
	dst = append(dst, d.Seed[:]...)
	var list []byte
	n := 0
	for _, c := range d.Candidates {
		if n == MaxCandidates {
			break
		}
		if c.check() == nil {
			list = c.append(list)
			n++
		}
	}
	if n > 0 {
		dst = appendField(dst, fieldCandidates, list)
	}
	n = 0
	for _, t := range d.Targets {
		if n == MaxTargets {
			break
		}
		if checkTarget(t) == nil {
			dst = appendField(dst, fieldTarget, []byte(t))
			n++
		}
	}
	if v := d.NAT.append(nil); len(v) > 0 {
		dst = appendField(dst, fieldNAT, v)
	}
	return dst
}

// ParseDescription reads what Append wrote. It retains nothing of b.
func ParseDescription(b []byte) (Description, error) {
	var d Description
	if len(b) < descriptionFixedBytes {
		return d, fmt.Errorf("parse description of %d bytes: want %d or more", len(b), descriptionFixedBytes)
	}
	if b[0] != descriptionVersion {
		return d, fmt.Errorf("parse description of version %d: want %d", b[0], descriptionVersion)
	}
	d.Index = uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	copy(d.Seed[:], b[4:])
	for b = b[descriptionFixedBytes:]; len(b) > 0; {
		id, value, rest, err := cutField(b)
		if err != nil {
			return Description{}, fmt.Errorf("parse description: %w", err)
		}
		b = rest
		switch id {
		case fieldCandidates:
			cs, err := parseCandidates(value)
			if err == nil && len(d.Candidates)+len(cs) > MaxCandidates {
				err = errTooMany
			}
			if err != nil {
				return Description{}, fmt.Errorf("parse description: %w", err)
			}
			d.Candidates = append(d.Candidates, cs...)
		case fieldTarget:
			t := string(value)
			if err := checkTarget(t); err != nil {
				return Description{}, fmt.Errorf("parse description: %w", err)
			}
			if len(d.Targets) == MaxTargets {
				return Description{}, fmt.Errorf("parse description: more than %d targets", MaxTargets)
			}
			d.Targets = append(d.Targets, t)
		case fieldNAT:
			d.NAT = parseNAT(value)
		}
	}
	return d, nil
}

var errTooMany = fmt.Errorf("more than %d candidates", MaxCandidates)

// parseCandidates reads the value of a field of candidates: at most MaxCandidates.
func parseCandidates(b []byte) ([]Candidate, error) {
	var cs []Candidate
	for len(b) > 0 {
		if len(cs) == MaxCandidates {
			return nil, errTooMany
		}
		head := b[0]
		if head&^(candidateTypeMask|candidateIPv6) != 0 {
			return nil, fmt.Errorf("candidate with unknown bits %#x", head)
		}
		size := 4
		if head&candidateIPv6 != 0 {
			size = 16
		}
		if len(b) < 1+size+6 {
			return nil, errors.New("candidate cut short")
		}
		addr, _ := netip.AddrFromSlice(b[1 : 1+size])
		c := Candidate{
			Type:     CandidateType(head & candidateTypeMask),
			Addr:     netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[1+size:])),
			Priority: binary.BigEndian.Uint32(b[3+size:]),
		}
		if err := c.check(); err != nil {
			return nil, err
		}
		cs = append(cs, c)
		b = b[1+size+6:]
	}
	return cs, nil
}

// check refuses what no peer could be reached at.
func (c Candidate) check() error {
	addr := c.Addr.Addr()
	if c.Type > Relay || !addr.IsValid() || addr.Unmap().IsUnspecified() || addr.Unmap().IsMulticast() || c.Addr.Port() == 0 {
		return fmt.Errorf("unusable candidate %v %v", c.Type, c.Addr)
	}
	return nil
}

func (c Candidate) append(dst []byte) []byte {
	addr := c.Addr.Addr().Unmap()
	head := byte(c.Type)
	if addr.Is6() {
		head |= candidateIPv6
	}
	dst = append(dst, head)
	dst = append(dst, addr.AsSlice()...)
	dst = binary.BigEndian.AppendUint16(dst, c.Addr.Port())
	return binary.BigEndian.AppendUint32(dst, c.Priority)
}

// checkTarget keeps out what must not reach a terminal.
func checkTarget(t string) error {
	if t == "" || len(t) > MaxTargetBytes || !utf8.ValidString(t) {
		return fmt.Errorf("target of %d bytes is empty, too long or not text", len(t))
	}
	for _, r := range t {
		if !unicode.IsGraphic(r) {
			return errors.New("target with unprintable characters")
		}
	}
	return nil
}

func appendField(dst []byte, id uint64, value []byte) []byte {
	dst = binary.AppendUvarint(dst, id)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func cutField(b []byte) (id uint64, value, rest []byte, err error) {
	id, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, nil, errors.New("field cut short")
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return 0, nil, nil, errors.New("field cut short")
	}
	b = b[n:]
	return id, b[:size], b[size:], nil
}
