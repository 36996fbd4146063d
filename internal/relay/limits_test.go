package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

// An allocation ends with its time, or if it relays nothing; and goes on beyond its credential.
func TestLifetime(t *testing.T) {
	t.Parallel()
	var clock hands
	s := startTURNAt(t, TURNConfig{}, clock.now)
	user := username("x", 5*time.Minute)
	r := s.raw(t, user, Password(secret, user))
	for _, c := range []struct{ asked, want time.Duration }{
		{0, 0}, {time.Second, defaultLifetime}, {20 * time.Minute, 20 * time.Minute}, {100 * time.Hour, maxLifetime}, {1<<32*time.Second - 1, maxLifetime},
	} {
		m := r.ask(methodAllocate, true, transportUDP)
		if got := lifetimeIn(m); code(m) != 0 || got != defaultLifetime {
			t.Fatalf("allocate: got %d, %v", code(m), got)
		}
		m = r.ask(methodRefresh, true, lifetimeAttr(uint32(c.asked/time.Second)))
		if got := lifetimeIn(m); code(m) != 0 || got != c.want {
			t.Errorf("refresh for %v: got %d, %v, want %v", c.asked, code(m), got, c.want)
		}
		r.ask(methodRefresh, true, lifetimeAttr(0))
	}
	if m := r.ask(methodAllocate, true, transportUDP); code(m) != 0 {
		t.Fatal(code(m))
	}
	clock.ahead.Store(int64(6 * time.Minute)) // the credential has ended, the nonce has not
	if m := r.ask(methodRefresh, true); code(m) != 0 {
		t.Errorf("refresh with an ended credential: got %d", code(m))
	}
	s.expire(clock.now())
	if s.Allocations() != 1 {
		t.Fatal("it ended early")
	}
	other := s.raw(t, user, r.pass)
	if m := other.ask(methodAllocate, true, transportUDP); code(m) != codeUnauthorized {
		t.Errorf("a new one with an ended credential: got %d, want 401", code(m))
	}
	clock.ahead.Store(int64(16*time.Minute + time.Second))
	s.expire(clock.now())
	if s.Allocations() != 0 {
		t.Error("it outlives its time")
	}
	user = username("y", 2*time.Hour)
	r = s.raw(t, user, Password(secret, user))
	if m := r.ask(methodAllocate, true, transportUDP, lifetimeAttr(3600)); code(m) != 0 {
		t.Fatal(code(m))
	}
	clock.ahead.Store(int64(16*time.Minute + DefaultIdle + 2*time.Second))
	s.expire(clock.now())
	if s.Allocations() != 0 {
		t.Error("it relays nothing and lives")
	}
}

// Somebody who sets the clock of the host ends no allocation, and keeps none.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	var clock hands
	var set atomic.Int64 // seconds that the wall clock was set by
	now := func() time.Time { return setClock(clock.now(), set.Load()) }
	const forward = 3 * 3600
	if a, b := clock.now(), setClock(clock.now(), forward); b.Unix()-a.Unix() < forward-1 || b.Sub(a) > time.Minute {
		t.Skip("a time.Time is made in another way than this test knows")
	}
	s := startTURNAt(t, TURNConfig{}, now)
	good(s, t, "x")
	for _, by := range []int64{forward, -forward} {
		set.Store(by)
		if s.expire(now()); s.Allocations() != 1 {
			t.Fatalf("it ended when the clock was set by %d s", by)
		}
	}
	clock.ahead.Store(int64(defaultLifetime + time.Second))
	if s.expire(now()); s.Allocations() != 0 {
		t.Error("it outlives its time when the clock was set back")
	}
}

// setClock returns the time at which a clock that was set by so many seconds shows t: the monotonic reading stays.
func setClock(t time.Time, seconds int64) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30 // 33 bits of seconds above 30 of nanoseconds
	return t
}

// Permissions and channels end, and make room.
func TestPermissionLife(t *testing.T) {
	t.Parallel()
	var clock hands
	s := startTURNAt(t, TURNConfig{Allow: loopbackOpen}, clock.now)
	peer, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	a, got := allocateOn(t, s.access("udp", "x"))
	if err := a.Permit(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	send := func(m string) {
		if _, err := peer.WriteToUDPAddrPort([]byte(m), a.Relayed()); err != nil {
			t.Fatal(err)
		}
	}
	send("first")
	receive(t, "a permitted packet", got)
	clock.ahead.Store(int64(permissionLife + time.Second))
	send("late")
	if err := a.Permit(t.Context(), netip.MustParseAddr("127.0.0.2")); err == nil {
		t.Error("127.0.0.2 is open")
	}
	s.mu.RLock()
	for _, x := range s.allocations {
		x.mu.Lock()
		x.permissions[netip.MustParseAddr("127.0.0.1")] = clock.now().Add(time.Minute)
		x.mu.Unlock()
	}
	s.mu.RUnlock()
	send("again")
	if m := receive(t, "a packet that is permitted again", got); m[len(m)-5:] != "again" {
		t.Errorf("got %q, want what came after the new permission", m)
	}
	x := &allocation{permissions: make(map[netip.Addr]time.Time)}
	now := time.Now()
	addr := netip.MustParseAddr("9.0.0.0")
	for range maxPeers {
		addr = addr.Next()
		if !x.permitLocked(addr, now) {
			t.Fatal("no room")
		}
	}
	if x.permitLocked(addr.Next(), now) || !x.permitLocked(addr, now) || !x.permitLocked(addr.Next(), now.Add(permissionLife)) {
		t.Error("one too many, a known one, one after the others ended: want false, true, true")
	}
}

// What is above the rate is dropped, each way, and for all together.
func TestRate(t *testing.T) {
	t.Parallel()
	const packets, size = 1000, 1000
	for name, cfg := range map[string]TURNConfig{"one": {Rate: 1000}, "all": {TotalRate: 1000}} {
		s := startTURN(t, cfg)
		a, _ := allocateOn(t, s.access("tcp", "a"))
		b, _ := allocateOn(t, s.access("tcp", "b"))
		now := time.Now()
		x, y := s.at(a.Relayed()), s.at(b.Relayed())
		y.mu.Lock()
		y.permissions[a.Relayed().Addr()] = now.Add(time.Hour)
		y.mu.Unlock()
		buf := make([]byte, headroom+size, headroom+size+padding)
		for range packets {
			x.toPeer(buf, b.Relayed(), now)
		}
		// The bucket holds 64 KiB: each packet counts where it comes in and where it goes out.
		want := int64(65 * size)
		if name == "all" {
			want = 33 * size
		}
		if got := x.bytes.Load(); got != want {
			t.Errorf("%s: %d bytes of %d taken in, want %d", name, got, packets*size, want)
		}
	}
}

func TestRelayAllocatesNothing(t *testing.T) {
	s := startTURN(t, TURNConfig{Allow: loopbackOpen, Rate: 1 << 30, TotalRate: 1 << 30})
	peer, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	for transport, at := range map[string]netip.AddrPort{"udp": s.udp, "tcp": s.tcp} {
		user := username(transport, time.Hour)
		r := rawAt(t, transport, at, user, Password(secret, user)) // it reads nothing, and so allocates nothing
		m := r.ask(methodAllocate, true, transportUDP)
		var relayed stun.XORMappedAddress
		if err := relayed.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
			t.Fatal(err)
		}
		ip, _ := netip.AddrFromSlice(relayed.IP)
		x := s.at(netip.AddrPortFrom(ip.Unmap(), uint16(relayed.Port)))
		now := time.Now()
		x.mu.Lock()
		c := &channel{number: stunmsg.MinChannel, peer: to, ends: now.Add(time.Hour)}
		x.channels[stunmsg.MinChannel], x.byPeer[to] = c, c
		x.permissions[to.Addr()] = now.Add(time.Hour)
		x.mu.Unlock()
		data := make([]byte, headroom+1204, headroom+1204+padding)
		binary.BigEndian.PutUint16(data[headroom:], stunmsg.MinChannel)
		binary.BigEndian.PutUint16(data[headroom+2:], 1200)
		b := answer(make([]byte, 0, 2000), &message{method: methodSend}, classIndication)
		b.address(attrPeerAddress, to)
		b.attr(attrData, make([]byte, 1000))
		indication := append(make([]byte, headroom, headroom+2000), b.done(nil)...)
		other := netip.AddrPortFrom(to.Addr(), 9) // without a channel
		var out [maxAnswer]byte
		for name, f := range map[string]func(){
			"channel data":    func() { s.packet(&x.client, data, out[:], nil) },
			"send indication": func() { s.packet(&x.client, indication, out[:], nil) },
			"from a peer":     func() { x.fromPeer(data, to, now) },
			"data indication": func() { x.fromPeer(data, other, now) },
		} {
			for range 500 {
				f() // the queue of the stream grows at first
			}
			if n := testing.AllocsPerRun(200, f); n != 0 {
				t.Errorf("%s over %s allocates %v times, want 0", name, transport, n)
			}
		}
	}
}

// A connection that says nothing sensible ends, and so does one that asks too often.
func TestStreamAbuse(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	long := []byte{0, 1, 0xff, 0xfc, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, b := range map[string][]byte{
		"http":              []byte("GET / HTTP/1.1\r\n\r\n"),
		"long stun":         append(long, make([]byte, 5000)...),
		"long channel data": append([]byte{0x40, 0, 0xff, 0xff}, make([]byte, 5000)...),
		"odd length":        {0, 1, 0, 3, 0x21, 0x12, 0xA4, 0x42},
		"too many":          bytes.Repeat(binding, streamAnswers),
	} {
		c, err := net.Dial("tcp", s.tcp.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("%s: the connection lives on", name)
			}
		}
		c.Close()
	}
	c, err := net.Dial("tcp", s.tcp.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(append([]byte{0x40, 0, 0, 1, 0, 0, 0, 0}, binding...)); err != nil { // a channel of nothing
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 32)
	if _, err := io.ReadFull(c, b); err != nil || b[0] != 1 {
		t.Errorf("binding over TCP: %x, %v", b, err)
	}
	var more []net.Conn
	for range DefaultPerSource + streamSpare + 5 {
		c, err := net.Dial("tcp", s.tcp.String())
		if err != nil {
			t.Fatal(err)
		}
		more = append(more, c)
	}
	_ = more[len(more)-1].SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := more[len(more)-1].Read(b); n != 0 || err == nil {
		t.Errorf("one connection too many: %d bytes, %v", n, err)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("one connection too many is kept")
	}
	for _, c := range more {
		c.Close()
	}
}

// Requests of strangers leave nothing behind.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	limit := newLimiter()
	var out [maxAnswer]byte
	answered := 0
	for i := range 20_000 {
		c := client{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), 9), sock: new(socket)}
		r := answer(make([]byte, 0, 200), &message{method: methodAllocate, id: stunmsg.ID{1}}, classRequest)
		b := append(make([]byte, headroom), r.done(nil)...)
		if got := s.packet(&c, b, out[:], limit); got != nil {
			answered++
			if len(got) > 60 {
				t.Fatalf("an answer of %d bytes to a stranger", len(got))
			}
		}
	}
	if answered == 0 || answered > perSecond*2 || len(limit.known) > maxSources {
		t.Errorf("%d answers, %d addresses", answered, len(limit.known))
	}
}
