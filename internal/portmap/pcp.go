package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	pcpPort     = 5351 // PCP and NAT-PMP share it
	pcpVersion  = 2
	pcpAnnounce = 0
	pcpMap      = 1
	pcpHeader   = 24
	pcpMapBytes = 36
	pcpResponse = 0x80
	udpProtocol = 17
)

// pcp maps by PCP's MAP opcode (RFC 6887 §11). The nonce makes the mapping this side's own.
type pcp struct {
	gateway, local netip.Addr
	nonce          [12]byte
}

func (p *pcp) protocol() Protocol { return PCP }

// probePCP sends ANNOUNCE (RFC 6887 §14.1), which every server answers.
func probePCP(ctx context.Context, gateway, local netip.Addr) (method, error) {
	err := exchange(ctx, gateway, pcpRequest(pcpAnnounce, 0, local), func(b []byte) (bool, error) {
		code, _, ok := parsePCP(b, pcpAnnounce)
		if !ok {
			// A NAT-PMP server answers with its own version and "unsupported" (RFC 6887 §9).
			return len(b) >= 4 && b[0] == 0, fmt.Errorf("a server of NAT-PMP: %w", ErrNone)
		}
		return true, pcpError(code)
	})
	if err != nil {
		return nil, err
	}
	return &pcp{gateway, local, randomNonce()}, nil
}

// check has the mapping asked for again, which costs no more than any other question. The epoch (RFC 6887 §8.5)
// does not show that a server was restarted and lost its mappings where it counts from the start of the system.
func (*pcp) check(context.Context, int, int) bool { return false }

func (p *pcp) add(ctx context.Context, port, external int) (addr netip.AddrPort, life time.Duration, err error) {
	err = exchange(ctx, p.gateway, p.mapRequest(port, external, wantLifetime), func(b []byte) (bool, error) {
		code, seconds, ok := parsePCP(b, pcpMap)
		if !ok {
			return false, nil
		}
		var mapped netip.AddrPort
		if mapped, ok = p.parseMap(b, port); !ok {
			return false, nil
		}
		addr, life = mapped, seconds
		return true, pcpError(code)
	})
	if err == nil && (addr.Port() == 0 || life <= 0) {
		err = fmt.Errorf("the answer has no port: %w", ErrRefused)
	}
	return addr, life, err
}

func (p *pcp) remove(ctx context.Context, port, external int) error {
	return exchange(ctx, p.gateway, p.mapRequest(port, external, 0), func(b []byte) (bool, error) {
		code, _, ok := parsePCP(b, pcpMap)
		if ok {
			_, ok = p.parseMap(b, port)
		}
		return ok, pcpError(code)
	})
}

func (p *pcp) mapRequest(port, external int, life time.Duration) []byte {
	b := pcpRequest(pcpMap, life, p.local)
	b = append(b, p.nonce[:]...)
	b = append(b, udpProtocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	b = binary.BigEndian.AppendUint16(b, uint16(external))
	any4 := netip.IPv4Unspecified().As16() // "any IPv4 address" (§5)
	return append(b, any4[:]...)
}

// parseMap reads a MAP response to a request for port.
func (p *pcp) parseMap(b []byte, port int) (netip.AddrPort, bool) {
	if len(b) < pcpHeader+pcpMapBytes {
		return netip.AddrPort{}, false
	}
	b = b[pcpHeader:]
	if [12]byte(b[:12]) != p.nonce || b[12] != udpProtocol || int(binary.BigEndian.Uint16(b[16:])) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[20:36])).Unmap(), binary.BigEndian.Uint16(b[18:])), true
}

func pcpRequest(opcode byte, life time.Duration, local netip.Addr) []byte {
	b := []byte{pcpVersion, opcode, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(life/time.Second))
	a := local.As16()
	return append(b, a[:]...)
}

// parsePCP reads the header of a response (RFC 6887 §7.2).
func parsePCP(b []byte, opcode byte) (code byte, life time.Duration, ok bool) {
	if len(b) < pcpHeader || len(b)%4 != 0 || b[0] != pcpVersion || b[1] != opcode|pcpResponse {
		return 0, 0, false
	}
	return b[3], time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second, true
}

func pcpError(code byte) error {
	names := [...]string{2: "not authorized", 3: "malformed request", 4: "unsupported opcode", 5: "unsupported option",
		6: "malformed option", 7: "network failure", 8: "no resources", 9: "unsupported protocol", 10: "quota exceeded",
		11: "cannot provide that port", 12: "address mismatch: another NAT is in between", 13: "too many remote peers"}
	if code == 0 {
		return nil
	}
	if int(code) < len(names) && names[code] != "" {
		return fmt.Errorf("%w: %s", ErrRefused, names[code])
	}
	return fmt.Errorf("%w: result %d", ErrRefused, code)
}
