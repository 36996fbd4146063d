package punch

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendWait is how long a send may wait for room in the socket's buffer before its datagrams are
	// lost. They would only queue further ahead.
	sendWait = 20 * time.Millisecond

	sendMessages = 64 // of one sendmmsg
)

// A sendOp is the state of one sendmsg or sendmmsg, kept so that sending allocates nothing.
type sendOp struct {
	b      []byte
	oob    []byte
	to     unix.Sockaddr // points at sa4 or sa6
	conn   *net.UDPConn
	err    error
	waited bool
	retry  bool // an error may be that of a datagram before

	sa4     unix.SockaddrInet4
	sa6     unix.SockaddrInet6
	cmsg    [2][]byte // UDP_SEGMENT, IP_TTL
	try     func(fd uintptr) bool
	tryMany func(fd uintptr) bool

	many *manyOp // made when it is first used
}

// A manyOp is what sendmmsg needs besides: 5 KiB.
type manyOp struct {
	errno *atomic.Int32 // batch.testOnlyMmsg
	count int           // messages to send
	sent  int           // that left
	raw4  unix.RawSockaddrInet4
	raw6  unix.RawSockaddrInet6
	iov   [sendMessages]unix.Iovec
	msgs  [sendMessages]mmsghdr
}

func newSendOp() *sendOp {
	op := &sendOp{cmsg: [2][]byte{make([]byte, unix.CmsgSpace(2)), make([]byte, unix.CmsgSpace(4))}}
	setCmsg(op.cmsg[0], unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	setCmsg(op.cmsg[1], unix.IPPROTO_IP, unix.IP_TTL, 4)
	op.try, op.tryMany = op.send, op.sendMany
	return op
}

func setCmsg(b []byte, level, typ int32, size int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
}

// segments returns the control message that parts a run into datagrams.
func (op *sendOp) segments(segment int) []byte {
	binary.NativeEndian.PutUint16(op.cmsg[0][unix.CmsgLen(0):], uint16(segment))
	return op.cmsg[0]
}

// hops returns the control message that sets the hop limit.
func (op *sendOp) hops(ttl int) []byte {
	binary.NativeEndian.PutUint32(op.cmsg[1][unix.CmsgLen(0):], uint32(ttl))
	return op.cmsg[1]
}

func (op *sendOp) injected(errno *atomic.Int32) error {
	if e := errno.Load(); e != 0 {
		return unix.Errno(e)
	}
	return nil
}

func (op *sendOp) send(fd uintptr) bool {
	for {
		_, op.err = unix.SendmsgN(int(fd), op.b, op.oob, op.to, 0)
		if op.err != unix.EINTR && !op.pending() {
			return op.done()
		}
	}
}

func (op *sendOp) sendMany(fd uintptr) bool {
	m := op.many
	if op.err = op.injected(m.errno); op.err != nil {
		return true
	}
	if m.sent, op.err = sendmmsg(fd, m.msgs[:m.count]); op.pending() {
		m.sent, op.err = sendmmsg(fd, m.msgs[:m.count])
	}
	return op.done()
}

// done reports whether the call need not be made again once there is room.
func (op *sendOp) done() bool {
	if op.err != unix.EAGAIN {
		return true
	}
	if !op.waited {
		op.waited = true
		_ = op.conn.SetWriteDeadline(time.Now().Add(sendWait)) // fails only when closed
	}
	return false
}

func (b *batch) open(to netip.AddrPort) *sendOp {
	op := b.ops.Get().(*sendOp)
	op.conn, op.retry = b.conn, b.watching.Load() > 0
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

// write sends one message.
func (b *batch) write(op *sendOp, p, oob []byte) error {
	op.b, op.oob = p, oob
	return b.wait(op, op.try)
}

// writeMany sends the first datagrams of p with one call and returns the bytes that left.
func (b *batch) writeMany(op *sendOp, p []byte, segment int) (int, error) {
	m := op.prepare(p, segment)
	m.errno = &b.testOnlyMmsg
	err := b.wait(op, op.tryMany)
	for i := range m.count {
		m.iov[i].Base = nil // p is the caller's
	}
	if err != nil {
		return 0, err
	}
	return min(m.sent*segment, len(p)), nil
}

// prepare makes a message of each of the first datagrams of p.
func (op *sendOp) prepare(p []byte, segment int) *manyOp {
	if op.many == nil {
		op.many = new(manyOp)
		for i := range op.many.msgs {
			h := &op.many.msgs[i].hdr
			h.Iov = &op.many.iov[i]
			h.SetIovlen(1)
		}
	}
	m := op.many
	var name *byte
	var size uint32
	if op.to == &op.sa4 {
		m.raw4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: op.sa4.Addr}
		putPort(&m.raw4.Port, op.sa4.Port)
		name, size = (*byte)(unsafe.Pointer(&m.raw4)), unix.SizeofSockaddrInet4
	} else {
		m.raw6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: op.sa6.Addr}
		putPort(&m.raw6.Port, op.sa6.Port)
		name, size = (*byte)(unsafe.Pointer(&m.raw6)), unix.SizeofSockaddrInet6
	}
	m.sent, m.count = 0, 0
	for len(p) > 0 && m.count < sendMessages {
		n := min(segment, len(p))
		m.iov[m.count].Base = &p[0]
		m.iov[m.count].SetLen(n)
		h := &m.msgs[m.count].hdr
		h.Name, h.Namelen = name, size
		m.count++
		p = p[n:]
	}
	return m
}

// putPort stores a port in network byte order.
func putPort(to *uint16, port int) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(to))[:], uint16(port))
}

// wait makes a call as often as the socket's buffer is full, for sendWait at most.
func (b *batch) wait(op *sendOp, try func(fd uintptr) bool) error {
	op.err, op.waited = nil, false
	err := b.raw.Write(try)
	if op.waited || errors.Is(err, os.ErrDeadlineExceeded) {
		_ = b.conn.SetWriteDeadline(time.Time{}) // fails only when closed
	}
	if err != nil {
		return err
	}
	return op.err
}
