package punch

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxSegments   = 64    // UDP_MAX_SEGMENTS of kernels before 6.9
	maxBatchBytes = 65000 // below the 65507 that one UDP datagram may carry

	// sendWait is how long a send may wait for room in the socket's buffer before its datagrams are
	// lost. They would only queue further ahead.
	sendWait = 20 * time.Millisecond
)

// A batch reads and writes runs of datagrams of one size with one system call each: UDP_GRO
// (Linux 5.0) and UDP_SEGMENT (4.18), where kernel and device allow.
type batch struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	gso  atomic.Bool
	ops  sync.Pool // *sendOp

	oob [64]byte // owned by the reader

	testOnlyGSO error // what the kernel is made to answer to UDP_SEGMENT
}

func (b *batch) init(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	b.conn, b.raw = c, raw
	b.ops.New = func() any { return newSendOp() }
	return raw.Control(func(fd uintptr) {
		// A kernel that does not know UDP_SEGMENT ignores the control message and sends one huge
		// datagram: it must be asked first.
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		b.gso.Store(err == nil)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) // without it reads are one by one
	})
}

// read fills buf with datagrams of segment bytes each, the last may be shorter.
func (b *batch) read(buf []byte) (n, segment int, from netip.AddrPort, err error) {
	n, on, _, from, err := b.conn.ReadMsgUDPAddrPort(buf, b.oob[:])
	if err != nil {
		return 0, 0, from, err
	}
	segment = n
	for rest := b.oob[:on]; len(rest) >= unix.CmsgLen(0); {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			if s := int(binary.NativeEndian.Uint32(data)); s > 0 {
				segment = min(s, n)
			}
		}
		rest = next
	}
	return n, segment, from, nil
}

// A sendOp is the state of one sendmsg, kept so that sending allocates nothing.
type sendOp struct {
	b      []byte
	oob    []byte
	to     unix.Sockaddr // points at sa4 or sa6
	conn   *net.UDPConn
	err    error
	waited bool

	sa4  unix.SockaddrInet4
	sa6  unix.SockaddrInet6
	cmsg [2][]byte // UDP_SEGMENT, IP_TTL
	try  func(fd uintptr) bool
}

func newSendOp() *sendOp {
	op := &sendOp{cmsg: [2][]byte{make([]byte, unix.CmsgSpace(2)), make([]byte, unix.CmsgSpace(4))}}
	setCmsg(op.cmsg[0], unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	setCmsg(op.cmsg[1], unix.IPPROTO_IP, unix.IP_TTL, 4)
	op.try = op.send
	return op
}

func setCmsg(b []byte, level, typ int32, size int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
}

func (op *sendOp) send(fd uintptr) bool {
	for {
		_, op.err = unix.SendmsgN(int(fd), op.b, op.oob, op.to, 0)
		switch op.err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			if !op.waited {
				op.waited = true
				_ = op.conn.SetWriteDeadline(time.Now().Add(sendWait)) // fails only when closed
			}
			return false
		}
		return true
	}
}

func (b *batch) open(to netip.AddrPort) *sendOp {
	op := b.ops.Get().(*sendOp)
	op.conn = b.conn
	if a := to.Addr(); a.Is4() {
		op.sa4.Addr, op.sa4.Port = a.As4(), int(to.Port())
		op.to = &op.sa4
	} else {
		op.sa6.Addr, op.sa6.Port = a.As16(), int(to.Port())
		op.to = &op.sa6
	}
	return op
}

func (b *batch) close(op *sendOp) {
	op.b, op.oob, op.to, op.conn = nil, nil, nil, nil
	b.ops.Put(op)
}

func (b *batch) write(op *sendOp, p, oob []byte) error {
	op.b, op.oob, op.err, op.waited = p, oob, nil, false
	err := b.raw.Write(op.try)
	if op.waited || errors.Is(err, os.ErrDeadlineExceeded) {
		_ = b.conn.SetWriteDeadline(time.Time{}) // fails only when closed
	}
	if err != nil {
		return err
	}
	return op.err
}

// send sends the datagrams of segment bytes each that p holds. It goes on after an error that
// concerns one datagram and returns the first.
func (b *batch) send(p []byte, segment int, to netip.AddrPort) error {
	if to.Addr().Zone() != "" {
		return sendEach(b.conn, p, segment, to)
	}
	op := b.open(to)
	defer b.close(op)
	var first error
	for len(p) > 0 {
		n := min(segment, len(p))
		run := min(maxSegments, maxBatchBytes/segment) * segment
		var err error
		if b.gso.Load() && run > segment && len(p) > segment {
			n = min(run, len(p))
			err = b.sendRun(op, p[:n], segment)
		} else {
			err = b.write(op, p[:n], nil)
		}
		if final(err) {
			return err
		}
		if first == nil {
			first = err
		}
		p = p[n:]
	}
	return first
}

func (b *batch) sendRun(op *sendOp, p []byte, segment int) error {
	binary.NativeEndian.PutUint16(op.cmsg[0][unix.CmsgLen(0):], uint16(segment))
	err := b.testOnlyGSO
	if err == nil {
		err = b.write(op, p, op.cmsg[0])
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EIO):
		b.gso.Store(false) // the device cannot compute checksums: udp(7)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EOPNOTSUPP):
		// A segment larger than the path's MTU is refused in a run, while alone it may be fragmented.
	default:
		return err
	}
	var first error
	for len(p) > 0 {
		n := min(segment, len(p))
		err := b.write(op, p[:n], nil)
		if final(err) {
			return err
		}
		if first == nil {
			first = err
		}
		p = p[n:]
	}
	return first
}

// final reports whether what comes after an error would fare the same: the socket is closed, or its
// buffer stayed full.
func final(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// sendNear sends one datagram that dies after ttl hops; over IPv6 it is an ordinary one.
func (b *batch) sendNear(p []byte, ttl int, to netip.AddrPort) error {
	if !to.Addr().Is4() {
		return b.send(p, len(p), to)
	}
	op := b.open(to)
	defer b.close(op)
	binary.NativeEndian.PutUint32(op.cmsg[1][unix.CmsgLen(0):], uint32(ttl))
	return b.write(op, p, op.cmsg[1])
}
