package punch

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// What wakes whom, from the socket to the handler:
//
//  1. A datagram arrives. The kernel appends it to the socket's queue, together with others of its
//     size and source that came in the same interrupt (UDP_GRO), and wakes the runtime's poller.
//  2. The poller makes the socket's one reader runnable (socket.readLoop, asleep in RawConn.Read).
//  3. The reader takes all that waits, up to recvSlots messages, in one recvmmsg and joins them to
//     runs (reader.read). It tries again without sleeping as long as something comes.
//  4. It calls Host.receive with each run: STUN goes to the inbox of an agent's muxConn, a channel,
//     which wakes pion's reader of it. The rest goes to the handler, inline: the link opens it there,
//     and what that wakes is its own affair. Only then does step 3 come again.
//
// And from the link to the network:
//
//  1. Link.Send queues a datagram. If the link's goroutine sleeps although it could send, it is
//     woken; the first datagram of a burst does that, the others find it running.
//  2. That goroutine takes as many datagrams as pacing and window allow, seals them side by side, and
//     calls Host.Send with each run of one size.
//  3. batch.send makes one sendmsg of a run (UDP_SEGMENT), else one sendmmsg, else a sendmsg for each
//     datagram. It runs on the caller: nobody else is woken.
//  4. If the socket's buffer is full, the caller sleeps in RawConn.Write until the poller tells of
//     room, 20 ms at most; then what is left of the run is lost.
//  5. With nothing more to send, the goroutine sleeps until its pacer's timer or the next step 1.

const (
	maxSegments   = 64    // UDP_MAX_SEGMENTS of kernels before 6.9
	maxBatchBytes = 65000 // below the 65507 that one UDP datagram may carry
)

// A batch reads and writes runs of datagrams with few system calls: UDP_GRO (Linux 5.0) and
// UDP_SEGMENT (4.18) where kernel and device allow, recvmmsg and sendmmsg where they are known, and
// one call for each datagram where not. What the kernel turns out to lack is not tried again.
type batch struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	ops  sync.Pool // *sendOp

	gso, gro, mmsg atomic.Bool // in use

	watching atomic.Int32 // refused_linux.go

	testOnlyGSO  atomic.Int32 // errno that the kernel is made to answer to UDP_SEGMENT
	testOnlyMmsg atomic.Int32 // and to sendmmsg and recvmmsg
}

func (b *batch) init(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	b.conn, b.raw = c, raw
	b.ops.New = func() any { return newSendOp() }
	b.mmsg.Store(true)
	return raw.Control(b.probe)
}

// probe finds out what the kernel knows.
func (b *batch) probe(fd uintptr) {
	// A kernel that does not know UDP_SEGMENT ignores the control message and sends one huge
	// datagram: it must be asked first.
	_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	b.gso.Store(err == nil)
	b.gro.Store(setGRO(fd, 1) == nil)
}

func setGRO(fd uintptr, on int) error {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, on)
}

// send sends the datagrams of segment bytes each that p holds. It goes on after an error that
// concerns one datagram and returns the first.
func (b *batch) send(p []byte, segment int, to netip.AddrPort) error {
	if to.Addr().Zone() != "" {
		return sendEach(b.conn, p, segment, to)
	}
	op := b.open(to)
	defer b.close(op)
	return b.sendAll(op, p, segment)
}

func (b *batch) sendAll(op *sendOp, p []byte, segment int) error {
	var first error
	for len(p) > 0 {
		n, err := len(p), error(nil)
		switch {
		case n <= segment:
			err = b.write(op, p, nil)
		case b.gso.Load() && firstRun(n, segment, maxSegments, maxBatchBytes) > segment:
			n = firstRun(n, segment, maxSegments, maxBatchBytes)
			err = b.sendRun(op, p[:n], segment)
		default:
			err = b.sendMany(op, p, segment)
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

// sendRun sends one run with UDP_SEGMENT, and in another way if that is refused.
func (b *batch) sendRun(op *sendOp, p []byte, segment int) error {
	err := op.injected(&b.testOnlyGSO)
	if err == nil {
		err = b.write(op, p, op.segments(segment))
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
	return b.sendMany(op, p, segment)
}

// sendMany sends each datagram as a message of its own, many with one call where that is known.
func (b *batch) sendMany(op *sendOp, p []byte, segment int) error {
	var first error
	for len(p) > 0 {
		n, err := 0, error(nil)
		if b.mmsg.Load() {
			n, err = b.writeMany(op, p, segment)
			if errors.Is(err, unix.ENOSYS) {
				b.mmsg.Store(false)
				continue
			}
		} else {
			n = min(segment, len(p))
			err = b.write(op, p[:n], nil)
		}
		if final(err) {
			return err
		}
		if err != nil && n == 0 {
			n = min(segment, len(p)) // the error is that of the first datagram
		}
		if first == nil {
			first = err
		}
		p = p[n:]
	}
	return first
}

// sendNear sends one datagram that dies after ttl hops; over IPv6 it is an ordinary one.
func (b *batch) sendNear(p []byte, ttl int, to netip.AddrPort) error {
	if !to.Addr().Is4() {
		return b.send(p, len(p), to)
	}
	op := b.open(to)
	defer b.close(op)
	return b.write(op, p, op.hops(ttl))
}

// final reports whether what comes after an error would fare the same: the socket is closed, or its
// buffer stayed full.
func final(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// offload says what the kernel and the device are known to do with runs.
func (b *batch) offload() (send, receive bool) { return b.gso.Load(), b.gro.Load() }
