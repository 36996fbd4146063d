package doctor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hopsMost = 5
	hopsFor  = 800 * time.Millisecond
)

// carrierHop sends packets that live for a few hops only, and looks at who complains that they died: a
// router behind the first one with an address that is for carriers' NATs (RFC 6598) says that there is
// one. It returns that in words, or "".
func carrierHop(ctx context.Context, server netip.AddrPort) string {
	s, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return ""
	}
	defer s.Close()
	raw, err := s.SyscallConn()
	if err != nil {
		return ""
	}
	set := func(level, name, value int) error {
		err := net.ErrClosed
		if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); e != nil {
			return e
		}
		return err
	}
	if set(unix.IPPROTO_IP, unix.IP_RECVERR, 1) != nil {
		return ""
	}
	for range 2 {
		for ttl := 2; ttl <= hopsMost; ttl++ {
			if set(unix.IPPROTO_IP, unix.IP_TTL, ttl) != nil {
				return ""
			}
			// A complaint about an earlier packet fails the write, and takes nothing from the queue of errors.
			for range 2 {
				if _, err := s.WriteToUDPAddrPort(request(newID(), -1, 0), server); err == nil {
					break
				}
			}
		}
		until := time.Now().Add(hopsFor / 2)
		if t, ok := ctx.Deadline(); ok && t.Before(until) {
			until = t
		}
		if s.SetReadDeadline(until) != nil {
			return ""
		}
		if found := complaint(raw); found.IsValid() {
			return fmt.Sprintf("a router on the way has %v, an address of a carrier's NAT", found)
		}
	}
	return ""
}

// complaint waits until the socket's deadline for a router with an address of a carrier's NAT that says
// that a packet's time is over. It is invalid if there was none.
func complaint(raw syscall.RawConn) (found netip.Addr) {
	var b [64]byte
	var oob [512]byte
	_ = raw.Read(func(fd uintptr) bool { // an error is the deadline's
		for {
			_, n, _, _, err := unix.Recvmsg(int(fd), b[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err != unix.EAGAIN
			}
			if from := expired(oob[:n]); shared.Contains(from) {
				found = from
				return true
			}
		}
	})
	return found
}

// expired returns who sent the ICMP message of a packet whose time to live is over, from the control
// message with it (ip(7), IP_RECVERR): a sock_extended_err and a sockaddr_in.
//
//	| errno u32 | origin u8 | type u8 | code u8 | pad u8 | info u32 | data u32 | family u16 | port u16 | address |
func expired(oob []byte) netip.Addr {
	const size, family, timeExceeded = 24, 16, 11
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range all {
		d := m.Data
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(d) >= size &&
			d[4] == unix.SO_EE_ORIGIN_ICMP && d[5] == timeExceeded &&
			binary.NativeEndian.Uint16(d[family:]) == unix.AF_INET {
			return netip.AddrFrom4([4]byte(d[size-4 : size]))
		}
	}
	return netip.Addr{}
}
