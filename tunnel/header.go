package tunnel

import (
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
)

// maxRequestBytes bounds the request of a stream of kindBench.
const maxRequestBytes = 64

// A header says what a stream is for. The opener sends it once, in front of the data:
//
//	 0        1                        n
//	+--------+------------------------+
//	| kind   | target, canonical text |   n <= 512; the text only with kind 2
//	+--------+------------------------+
//
// With kind 4 a request of at most 64 bytes follows, which Policy.Bench understands. There is one way
// to write each header: a target that is not canonical is refused.
type header struct {
	kind    byte
	target  Target // of kindTarget
	request string // of kindBench
}

// headerTo returns the header of a stream to t.
func headerTo(t Target) header {
	if t.IsDefault() {
		return header{kind: kindDefault}
	}
	return header{kind: kindTarget, target: t}
}

func (h header) encode() []byte {
	b := []byte{h.kind}
	switch h.kind {
	case kindTarget:
		b = append(b, h.target.String()...)
	case kindBench:
		b = append(b, h.request...)
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
	h := header{kind: b[0]}
	switch h.kind {
	case kindDefault, kindPipe:
		if len(b) > 1 {
			return header{}, fmt.Errorf("%w: %d bytes too many", ErrHeader, len(b)-1)
		}
	case kindBench:
		if len(b) > 1+maxRequestBytes {
			return header{}, fmt.Errorf("%w: a request of %d bytes, at most %d are allowed", ErrHeader, len(b)-1, maxRequestBytes)
		}
		h.request = string(b[1:])
	case kindTarget:
		t, err := ParseTarget(string(b[1:]))
		if err != nil {
			return header{}, fmt.Errorf("%w: %v", ErrHeader, err)
		}
		if t.String() != string(b[1:]) {
			return header{}, fmt.Errorf("%w: target %q is not canonical", ErrHeader, b[1:])
		}
		h.target = t
	default:
		return header{}, fmt.Errorf("%w: kind %d is not known here", ErrHeader, h.kind)
	}
	return h, nil
}
