package turn

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

// attribute is a raw attribute of a message.
type attribute struct {
	typ   stun.AttrType
	value []byte
}

func (a attribute) AddTo(m *stun.Message) error {
	m.Add(a.typ, a.value)
	return nil
}

func peerAddress(a netip.AddrPort) stun.Setter { return xorAddress{stun.AttrXORPeerAddress, a} }

type xorAddress struct {
	typ  stun.AttrType
	addr netip.AddrPort
}

func (x xorAddress) AddTo(m *stun.Message) error {
	return stun.XORMappedAddress{IP: net.IP(x.addr.Addr().AsSlice()), Port: int(x.addr.Port())}.AddToAs(m, x.typ)
}

// address reads an XOR'd address attribute.
func address(m *stun.Message, typ stun.AttrType) (netip.AddrPort, bool) {
	var x stun.XORMappedAddress
	if x.GetFromAs(m, typ) != nil {
		return netip.AddrPort{}, false
	}
	a, ok := netip.AddrFromSlice(x.IP)
	return netip.AddrPortFrom(a.Unmap(), uint16(x.Port)), ok
}

func seconds(d time.Duration) stun.Setter {
	return attribute{stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))}
}

// granted returns the lifetime that the server gave, between half a minute and an hour.
func granted(m *stun.Message) time.Duration {
	v, err := m.Get(stun.AttrLifetime)
	if err != nil || len(v) != 4 {
		return lifetime
	}
	d := time.Duration(binary.BigEndian.Uint32(v)) * time.Second
	return min(max(d, 30*time.Second), time.Hour)
}

func channelNumber(n uint16) stun.Setter {
	return attribute{stun.AttrChannelNumber, []byte{byte(n >> 8), byte(n), 0, 0}}
}

// requestedUDP asks for a UDP relay (protocol 17, RFC 8656 §18.7).
var requestedUDP = attribute{stun.AttrRequestedTransport, []byte{17, 0, 0, 0}}

// requestedFamily asks for an address of a family (RFC 8656 §18.6).
func requestedFamily(v6 bool) stun.Setter {
	f := byte(stunmsg.IPv4)
	if v6 {
		f = stunmsg.IPv6
	}
	return attribute{stun.AttrRequestedAddressFamily, []byte{f, 0, 0, 0}}
}

// responseError makes an error of an error response.
func responseError(m *stun.Message) error {
	var code stun.ErrorCodeAttribute
	if code.GetFrom(m) != nil {
		if m.Type.Method == stun.MethodCreatePermission {
			return fmt.Errorf("%w: without a code", ErrForbidden) // pion's server, when it refuses the address
		}
		return &ResponseError{Reason: "an error without a code"}
	}
	reason := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' {
			return -1
		}
		return r
	}, string(code.Reason[:min(len(code.Reason), 128)]))
	err := &ResponseError{int(code.Code), reason}
	switch code.Code {
	case stun.CodeUnauthorized:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case stun.CodeForbidden:
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	case stun.CodeAllocQuotaReached, stun.CodeInsufficientCapacity:
		return fmt.Errorf("%w: %w", ErrQuota, err)
	}
	return err
}
