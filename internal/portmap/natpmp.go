package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	pmpAddress = 0
	pmpMapUDP  = 1
)

// pmp maps by NAT-PMP (RFC 6886).
type pmp struct{ gateway netip.Addr }

func (p *pmp) protocol() Protocol { return NATPMP }

func probePMP(ctx context.Context, gateway, _ netip.Addr) (method, error) {
	p := &pmp{gateway}
	if _, err := p.external(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// external asks for the router's public address (RFC 6886 §3.2).
func (p *pmp) external(ctx context.Context) (a netip.Addr, err error) {
	err = exchange(ctx, p.gateway, []byte{0, pmpAddress}, func(b []byte) (bool, error) {
		code, ok := parsePMP(b, pmpAddress, 12)
		if ok && code == 0 {
			a = netip.AddrFrom4([4]byte(b[8:12]))
		}
		return ok, pmpError(code)
	})
	return a, err
}

// check has the mapping asked for again, as with PCP.
func (*pmp) check(context.Context, int, int) bool { return false }

func (p *pmp) add(ctx context.Context, port, external int) (netip.AddrPort, time.Duration, error) {
	a, err := p.external(ctx)
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	mapped, life, err := p.request(ctx, port, external, wantLifetime)
	if err == nil && (mapped == 0 || life <= 0) {
		err = fmt.Errorf("the answer has no port: %w", ErrRefused)
	}
	return netip.AddrPortFrom(a, mapped), life, err
}

func (p *pmp) remove(ctx context.Context, port, _ int) error {
	_, _, err := p.request(ctx, port, 0, 0) // RFC 6886 §3.4
	return err
}

func (p *pmp) request(ctx context.Context, port, external int, want time.Duration) (mapped uint16, life time.Duration, err error) {
	b := []byte{0, pmpMapUDP, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	b = binary.BigEndian.AppendUint16(b, uint16(external))
	b = binary.BigEndian.AppendUint32(b, uint32(want/time.Second))
	err = exchange(ctx, p.gateway, b, func(b []byte) (bool, error) {
		code, ok := parsePMP(b, pmpMapUDP, 16)
		if ok && code == 0 {
			if int(binary.BigEndian.Uint16(b[8:])) != port {
				return false, nil
			}
			mapped = binary.BigEndian.Uint16(b[10:])
			life = time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second
		}
		return ok, pmpError(code)
	})
	return mapped, life, err
}

// parsePMP reads the result of a response to op. A refusal may be shorter than size (§3.5).
func parsePMP(b []byte, op byte, size int) (code uint16, ok bool) {
	if len(b) < 4 || b[0] != 0 || b[1] != op|0x80 {
		return 0, false
	}
	code = binary.BigEndian.Uint16(b[2:])
	return code, code != 0 || len(b) >= size
}

func pmpError(code uint16) error {
	names := [...]string{1: "unsupported version", 2: "switched off", 3: "network failure", 4: "no resources", 5: "unsupported operation"}
	if code == 0 {
		return nil
	}
	if int(code) < len(names) {
		return fmt.Errorf("%w: %s", ErrRefused, names[code])
	}
	return fmt.Errorf("%w: result %d", ErrRefused, code)
}
