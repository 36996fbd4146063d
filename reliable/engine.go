package reliable

import (
	"reflect"
	"sync"
	"unsafe"

	kcp "github.com/xtaci/kcp-go/v5"
)

// keepWindow is the largest window that an engine may have had and be kept: kcp-go's rings do not shrink.
const keepWindow = 1024

// An engine is a kcp.KCP that sends for one conversation at a time: for as long as that has something on its way. It
// takes 6 KiB, and more once its window has grown, which an idle stream need not hold. Its sequence numbers go on counting from one conversation to
// the next: sender.shift makes the conversation's own of them.
type engine struct {
	kcp  *kcp.KCP
	conv *conversation // guarded by its mu
	next uint32        // number of the next segment, while no conversation has it
	most int           // the largest window it had
	mtu  int           // as kcp knows it; 0: its own
}

// engineConv is the number that kcp knows its conversation by; output replaces it.
const engineConv = 1

var engines = sync.Pool{New: func() any {
	e := new(engine)
	e.kcp = kcp.NewKCP(engineConv, func(b []byte, size int) { e.conv.output(b, size) })
	slim(e.kcp)
	return e
}}

// slim gives k small rings, which grow, in the place of those that kcp-go begins with: 27 KiB, of which two thirds are
// for receiving, which is not kcp's task here. There is no exported way. Where a later kcp-go has other fields it does
// nothing; TestSlim tells.
func slim(k *kcp.KCP) {
	for _, name := range []string{"snd_buf", "snd_queue", "rcv_queue"} {
		f := reflect.ValueOf(k).Elem().FieldByName(name)
		if !f.IsValid() || f.Kind() != reflect.Pointer || f.Type().Elem().Kind() != reflect.Struct {
			return
		}
		elements := f.Elem().FieldByName("elements")
		if !elements.IsValid() || elements.Kind() != reflect.Slice {
			return
		}
		small := reflect.MakeSlice(elements.Type(), kcp.RINGBUFFER_MIN, kcp.RINGBUFFER_MIN)
		reflect.NewAt(elements.Type(), unsafe.Pointer(elements.UnsafeAddr())).Elem().Set(small)
	}
}

// attachLocked gets an engine for what is to be sent.
func (c *conversation) attachLocked() {
	s := &c.out
	e := engines.Get().(*engine)
	e.conv = c
	s.engine, s.kcp = e, e.kcp
	s.shift = s.next - e.next
	s.window, s.rto, s.told = 0, 0, 0
	c.tellLocked(kcp.IKCP_CMD_WINS, 0, s.next) // the peer's window is open; a new kcp takes it for small
}

// detachLocked gives the engine up, which has nothing on its way.
func (c *conversation) detachLocked() {
	s := &c.out
	e := s.engine
	e.next, e.conv = s.next-s.shift, nil
	c.mem.give(s.charged + int64(len(s.refused))*maxPacket)
	s.engine, s.kcp, s.charged, s.refused, s.reported = nil, nil, 0, nil, bitmap{}
	if e.most <= keepWindow {
		engines.Put(e)
	}
}

// dropSentLocked gives the engine up with what it has on its way: for the garbage collector.
func (c *conversation) dropSentLocked() {
	s := &c.out
	c.mem.give(s.charged + int64(len(s.refused))*maxPacket)
	s.engine, s.kcp, s.charged, s.refused, s.reported = nil, nil, 0, nil, bitmap{}
	signal(c.room)
}
