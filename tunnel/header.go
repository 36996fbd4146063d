package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrHeader is unwrapped by the errors of headers that make no sense.
var ErrHeader = errors.New("bad stream header")

// maxHeaderBytes bounds a stream header. The longest that can be made has 1 + 5 + maxPathBytes.
const maxHeaderBytes = 512

// The kinds of streams. Zero is none, so that an empty field is noticed.
const (
	kindDefault byte = 1 // to the default target
	kindTarget  byte = 2 // to the named target
	kindPipe    byte = 3 // standard input and output of the two sides
	kindBench   byte = 4 // to measure the path
	kindDynamic byte = 5 // to the target that a SOCKS client named
	kindListen  byte = 6 // asks to be listened for, for as long as the stream is open
	kindReturn  byte = 7 // back from a place that was asked for so
)

// maxRequestBytes bounds the request of a stream of kindBench.
const maxRequestBytes = 64

// A header says what a stream is for. The opener sends it once, in front of the data:
//
//	 0        1
//	+--------+------------------------+
//	| kind   | what the kind asks for |   512 bytes at most
//	+--------+------------------------+
//
//	1  nothing, or /udp
//	2  a target, canonical text
//	3  nothing
//	4  a request of at most 64 bytes, which Offer.Bench understands
//	5  a target, canonical text
//	6  id u32 | a place to listen at, canonical text
//	7  id u32 of the stream of kind 6
//
// There is one way to write each header: a target that is not canonical is refused.
type header struct {
	kind    byte
	target  Target  // of kindTarget and kindDynamic; of kindDefault only UDP
	request string  // of kindBench
	id      uint32  // of kindListen and kindReturn
	forward Forward // of kindListen; its target is the default one
}

// headerTo returns the header of a stream to t.
func headerTo(t Target) header {
	if t.IsDefault() {
		return header{kind: kindDefault, target: t}
	}
	return header{kind: kindTarget, target: t}
}

func (h header) encode() []byte {
	b := []byte{h.kind}
	switch h.kind {
	case kindDefault, kindTarget, kindDynamic:
		b = append(b, h.target.String()...)
	case kindBench:
		b = append(b, h.request...)
	case kindListen:
		b = append(binary.BigEndian.AppendUint32(b, h.id), h.forward.Place()...)
	case kindReturn:
		b = binary.BigEndian.AppendUint32(b, h.id)
	}
	return b
}

func parseHeader(b []byte) (header, error) {
	switch {
	case len(b) == 0:
		return header{}, fmt.Errorf("%w: it is empty", ErrHeader)
	case len(b) > maxHeaderBytes:
		return header{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrHeader, len(b), maxHeaderBytes)
	}
	h, rest := header{kind: b[0]}, b[1:]
	if h.kind == kindListen || h.kind == kindReturn {
		if len(rest) < 4 {
			return header{}, fmt.Errorf("%w: it ends too early", ErrHeader)
		}
		h.id, rest = binary.BigEndian.Uint32(rest), rest[4:]
	}
	var err error
	switch h.kind {
	case kindDefault:
		if h.target.UDP = string(rest) == udpSuffix; h.target.UDP {
			rest = nil
		}
	case kindPipe, kindReturn:
	case kindBench:
		if len(rest) > maxRequestBytes {
			return header{}, fmt.Errorf("%w: a request of %d bytes, at most %d are allowed", ErrHeader, len(rest), maxRequestBytes)
		}
		h.request, rest = string(rest), nil
	case kindTarget, kindDynamic:
		if h.target, err = ParseTarget(string(rest)); err == nil && h.target.String() != string(rest) {
			err = fmt.Errorf("target %q is not canonical", rest)
		}
		rest = nil
	case kindListen:
		if h.forward, err = ParseForward(string(rest)); err == nil && (h.forward.Place() != string(rest) || !h.forward.Target.IsDefault()) {
			err = fmt.Errorf("%q is no place to listen at", rest)
		}
		rest = nil
	default:
		return header{}, fmt.Errorf("%w: kind %d is not known here", ErrHeader, h.kind)
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	if err != nil {
		return header{}, fmt.Errorf("%w: %v", ErrHeader, err)
	}
	return h, nil
}
