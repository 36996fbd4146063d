package punch

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	recvSlots = 64      // messages of one recvmmsg, each a datagram
	slotBytes = 2 << 10 // for one datagram: Ethernet's and a bit

	// Messages that may be runs themselves. One call asks for few while runs come, for they are better
	// handled while they are in the processor's cache, and for many while datagrams come one by one:
	// 720 ns each with 2 a call, 590 with 16.
	groSlots     = 16
	groRuns      = 2
	groSlotBytes = 64 << 10 // for the largest run
)

// A reader receives for one goroutine. Its buffer is 1 MiB, of which only what was ever written to
// takes up memory: 4 KiB a slot as long as no runs come. It allocates nothing when it reads.
type reader struct {
	b    *batch
	buf  []byte
	runs []run
	try  func(fd uintptr) bool

	// Of the newest call.
	slot   int  // bytes
	merged bool // a run came
	count  int  // messages asked for
	got    int  // messages that came
	err    error

	iov   [recvSlots]unix.Iovec
	msgs  [recvSlots]mmsghdr
	names [recvSlots]unix.RawSockaddrInet6 // IPv4's is smaller
	oob   [recvSlots][oobBytes]byte

	last     unix.RawSockaddrInet6 // the source of the newest message
	lastFrom netip.AddrPort
}

// oobBytes has room for the control message of UDP_GRO, an int, and for another.
const oobBytes = 48

func (b *batch) reader() *reader {
	r := &reader{b: b, buf: make([]byte, max(groSlots*groSlotBytes, recvSlots*slotBytes)), runs: make([]run, 0, recvSlots)}
	r.try = r.recv
	for i := range r.msgs {
		h := &r.msgs[i].hdr
		h.Iov = &r.iov[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.oob[i][0]
	}
	return r
}

// read waits for datagrams and returns them as runs, valid until it is called again. There may be
// none.
func (r *reader) read() ([]run, error) {
	r.runs = r.runs[:0]
	if !r.b.mmsg.Load() {
		return r.readOne()
	}
	r.prepare()
	if err := r.b.raw.Read(r.try); err != nil {
		return nil, err
	}
	if r.err == unix.ENOSYS || r.err == unix.EPERM { // some sandboxes say that of what they do not know
		r.b.mmsg.Store(false)
		return r.readOne()
	}
	if r.err != nil {
		return nil, r.err
	}
	r.merged = false
	for i := range r.got {
		m := &r.msgs[i]
		if m.n == 0 || m.hdr.Flags&unix.MSG_TRUNC != 0 {
			continue // larger than anything that we are sent
		}
		n := int(m.n)
		segment := segmentOf(r.oob[i][:m.hdr.Controllen], n)
		r.merged = r.merged || segment < n
		r.runs = join(r.runs, run{r.buf[i*r.slot:][:n], segment, r.source(&r.names[i])})
	}
	return r.runs, nil
}

// prepare lays out the buffer, and undoes what the last call wrote to the headers of its messages.
func (r *reader) prepare() {
	slot := slotBytes
	r.count = recvSlots
	if r.b.gro.Load() {
		slot, r.count = groSlotBytes, groSlots
		if r.merged {
			r.count = groRuns
		}
	}
	if slot != r.slot {
		r.slot, r.got = slot, min(len(r.buf)/slot, recvSlots)
		for i := range r.got {
			r.iov[i].Base = &r.buf[i*slot]
			r.iov[i].SetLen(slot)
		}
	}
	for i := range r.got {
		h := &r.msgs[i].hdr
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(oobBytes)
	}
}

func (r *reader) recv(fd uintptr) bool {
	if e := r.b.testOnlyMmsg.Load(); e != 0 {
		r.got, r.err = 0, unix.Errno(e)
		return true
	}
	r.got, r.err = recvmmsg(fd, r.msgs[:r.count])
	return r.err != unix.EAGAIN
}

// readOne is read where recvmmsg is missing.
func (r *reader) readOne() ([]run, error) {
	n, on, _, from, err := r.b.conn.ReadMsgUDPAddrPort(r.buf[:groSlotBytes], r.oob[0][:])
	if err != nil {
		return nil, err
	}
	if n > 0 {
		r.runs = append(r.runs, run{r.buf[:n], segmentOf(r.oob[0][:on], n), from})
	}
	return r.runs, nil
}

// segmentOf returns the size of the datagrams in a message of n bytes from what UDP_GRO says.
func segmentOf(oob []byte, n int) int {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			if s := int(binary.NativeEndian.Uint32(data)); s > 0 {
				return min(s, n)
			}
		}
		oob = rest
	}
	return n
}

// source returns the address in a socket address. It is mostly the one that it was last.
func (r *reader) source(name *unix.RawSockaddrInet6) netip.AddrPort {
	if *name == r.last {
		return r.lastFrom
	}
	r.last = *name
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		r.lastFrom = netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port)
		return r.lastFrom
	}
	a := netip.AddrFrom16(name.Addr)
	if name.Scope_id != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10)) // package net takes the index too
	}
	r.lastFrom = netip.AddrPortFrom(a, port)
	return r.lastFrom
}
