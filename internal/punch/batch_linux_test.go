package punch

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A fallback is a kernel that lacks something, from the start or as it turns out.
type fallback struct {
	name    string
	noGSO   bool       // UDP_SEGMENT is unknown
	gso     unix.Errno // what the kernel says to a run
	noGRO   bool       // UDP_GRO is unknown
	noMmsg  bool       // sendmmsg and recvmmsg are
	sandbox bool       // which refuses them in its own way
	gsoLeft bool       // runs are tried again afterwards
}

var fallbacks = []fallback{
	{name: "all there", gsoLeft: true},
	{name: "no checksum offload", gso: unix.EIO},
	{name: "segment refused", gso: unix.EINVAL, gsoLeft: true},
	{name: "segment too large", gso: unix.EMSGSIZE, gsoLeft: true},
	{name: "device without offloads", gso: unix.EOPNOTSUPP, gsoLeft: true},
	{name: "no UDP_SEGMENT", noGSO: true},
	{name: "no UDP_GRO", noGRO: true, gsoLeft: true},
	{name: "neither", noGSO: true, noGRO: true},
	{name: "no mmsg", noMmsg: true, gsoLeft: true},
	{name: "no mmsg nor UDP_SEGMENT", noMmsg: true, noGSO: true},
	{name: "no mmsg nor UDP_GRO", noMmsg: true, noGRO: true, gsoLeft: true},
	{name: "no mmsg in a sandbox", noMmsg: true, sandbox: true, gsoLeft: true},
	{name: "no checksum offload nor mmsg", noMmsg: true, gso: unix.EIO},
	{name: "nothing", noMmsg: true, noGSO: true, noGRO: true},
}

// set makes a host's sockets as they would be on such a kernel.
func (f fallback) set(t testing.TB, h *Host) {
	t.Helper()
	for _, s := range h.socks {
		if s == nil {
			continue
		}
		b := &s.batch
		if f.noGSO {
			b.gso.Store(false)
		}
		if f.noGRO {
			b.gro.Store(false)
			if err := b.raw.Control(func(fd uintptr) { _ = setGRO(fd, 0) }); err != nil {
				t.Fatal(err)
			}
		}
		if f.noMmsg {
			b.testOnlyMmsg.Store(int32(unix.ENOSYS))
		}
		if f.sandbox {
			b.testOnlyMmsg.Store(int32(unix.EPERM))
		}
		b.testOnlyGSO.Store(int32(f.gso))
	}
	// The reader sleeps in a call that was set up before.
	got := collect(h, 1)
	if err := h.Send([]byte("wake"), 4, loopback(h)); err != nil {
		t.Fatal(err)
	}
	<-got
}

func TestFallbacks(t *testing.T) {
	t.Parallel()
	for _, f := range fallbacks {
		t.Run(f.name, func(t *testing.T) {
			a, b := listen(t, Config{}), listen(t, Config{})
			gso := a.socks[0].batch.gso.Load()
			f.set(t, a)
			f.set(t, b)
			for range 2 { // the second time nothing has to be found out
				send(t, a, b, 1, 1200, 1200)
				send(t, a, b, 70, 1200, 9)
				send(t, a, b, 150, 20, 11)
				send(t, a, b, 130, 1472, 1472)
			}
			s := &a.socks[0].batch
			if got, want := s.gso.Load(), gso && f.gsoLeft; got != want {
				t.Errorf("runs in use: got %v, want %v", got, want)
			}
			sends := f.noGSO || f.gso != 0 // with sendmmsg
			if got := s.mmsg.Load(); sends && got == f.noMmsg {
				t.Errorf("sendmmsg in use: got %v, want %v", got, !f.noMmsg)
			}
			if got := b.socks[0].batch.mmsg.Load(); got == f.noMmsg {
				t.Errorf("recvmmsg in use: got %v, want %v", got, !f.noMmsg)
			}
		})
	}
}

// What the kernel does not know is not used.
func TestProbe(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // knows nothing of UDP
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var b batch
	b.probe(uintptr(fd))
	if b.gso.Load() || b.gro.Load() {
		t.Errorf("got UDP_SEGMENT %v and UDP_GRO %v, want none", b.gso.Load(), b.gro.Load())
	}
}

// One datagram that is too large costs itself only, whichever way they leave.
func TestSendOneRefused(t *testing.T) {
	t.Parallel()
	for _, f := range fallbacks {
		t.Run(f.name, func(t *testing.T) {
			a, b := listen(t, Config{}), listen(t, Config{})
			f.set(t, a)
			got := collect(b, 8)
			huge := make([]byte, 3*66000+5) // no UDP datagram has so many bytes
			if err := a.Send(huge, 66000, loopback(b)); err == nil {
				t.Error("got no error")
			}
			if p := <-got; len(p) != 5 {
				t.Errorf("got %d bytes, want the last 5", len(p))
			}
			send(t, a, b, 70, 1200, 9)
		})
	}
}

func TestFallbacksAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, f := range fallbacks {
		a, b := listen(t, Config{}), listen(t, Config{})
		f.set(t, a)
		f.set(t, b)
		p, to := datagrams(0, 100, 1200, 700), loopback(b)
		var bytes atomic.Int64
		all := make(chan struct{}, 1)
		b.SetHandler(func(q []byte, _ int, _ netip.AddrPort) {
			if bytes.Add(int64(len(q)))%int64(len(p)) == 0 {
				all <- struct{}{}
			}
		})
		run := func() {
			if err := a.Send(p, 1200, to); err != nil {
				t.Fatal(err)
			}
			<-all
		}
		run()
		if got := testing.AllocsPerRun(200, run); got > 0 {
			t.Errorf("%s: got %v allocations, want 0 (receiving included)", f.name, got)
		}
	}
}
