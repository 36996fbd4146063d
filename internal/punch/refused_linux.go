package punch

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	mostErrors = 64 // read from a socket's queue at once

	icmpUnreachable, icmpPort   = 3, 3
	icmp6Unreachable, icmp6Port = 1, 4

	extendedErr = int(unsafe.Sizeof(unix.SockExtendedErr{}))
)

// watchErrors makes the kernel keep ICMP errors in the socket's queue, for as often as it was called with true
// and not with false. It reports whether that works. Meanwhile each error is told once to the next call on the
// socket as well, whatever that is about: sendOp.pending.
func (b *batch) watchErrors(on bool) bool {
	n := int32(-1)
	if on {
		n = 1
	}
	switch watching := b.watching.Add(n); {
	case on && watching > 1, !on && watching > 0:
		return true
	}
	var err error
	if e := b.raw.Control(func(fd uintptr) { err = recvErrors(int(fd), on) }); e != nil {
		err = e
	}
	if err != nil && on {
		b.watching.Add(-1)
	}
	return err == nil
}

// recvErrors sets IP_RECVERR or its kin of IPv6; what is in the queue is gone when it ends.
func recvErrors(fd int, on bool) error {
	v := 0
	if on {
		v = 1
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, v)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, v)
}

// errors empties the queue, and tells of the datagrams that the kernel at their destination had nobody for.
func (b *batch) errors(refused func(to netip.AddrPort, head []byte)) {
	var head [64]byte
	var oob [256]byte
	_ = b.raw.Control(func(fd uintptr) { // fails only when closed
		for range mostErrors {
			n, on, _, from, err := unix.Recvmsg(int(fd), head[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			var to netip.AddrPort
			switch a := from.(type) { // where the datagram was sent
			case *unix.SockaddrInet4:
				to = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
			case *unix.SockaddrInet6:
				to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
			}
			if by, ok := portUnreachable(oob[:on]); ok && by == to.Addr() {
				refused(to, head[:n])
			}
		}
	})
}

// portUnreachable returns who says so in the control messages of an error.
func portUnreachable(oob []byte) (by netip.Addr, ok bool) {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}, false
		}
		oob = rest
		v4 := h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVERR
		v6 := h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(data) < extendedErr+2 {
			continue
		}
		origin, typ, code := data[4], data[5], data[6]
		offender := data[extendedErr:]
		switch family := binary.NativeEndian.Uint16(offender); {
		case origin == unix.SO_EE_ORIGIN_ICMP && typ == icmpUnreachable && code == icmpPort && family == unix.AF_INET && len(offender) >= 8:
			return netip.AddrFrom4([4]byte(offender[4:])), true
		case origin == unix.SO_EE_ORIGIN_ICMP6 && typ == icmp6Unreachable && code == icmp6Port && family == unix.AF_INET6 && len(offender) >= 24:
			return netip.AddrFrom16([16]byte(offender[8:])), true
		}
	}
	return netip.Addr{}, false
}

// pending reports whether a call failed because of a datagram sent before, and is to be made once more: an ICMP
// error that the socket watches for is told to whoever calls next.
func (op *sendOp) pending() bool {
	if !op.retry {
		return false
	}
	switch op.err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPROTO, unix.EACCES:
		op.retry = false
		return true
	}
	return false
}
