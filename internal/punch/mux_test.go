package punch

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

const password = "the password of the dispatcher"

// request is a check for a user fragment with the password of dispatcher.
func request(t testing.TB, user string) []byte { return requestWith(t, user, password) }

func requestWith(t testing.TB, user, pwd string) []byte {
	t.Helper()
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(user),
		stun.NewShortTermIntegrity(pwd), stun.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// dispatcher is a host without sockets, with one agent's mux.
func dispatcher(ufrag string) (*Host, *agentMux) {
	h := &Host{table: newTable()}
	m := newAgentMux(h.table, Credentials{ufrag, password}, false)
	m.attach(&socket{port: 1}, netip.MustParseAddr("192.0.2.1"))
	m.attach(&socket{port: 1, v6: true}, netip.MustParseAddr("2001:db8::1"))
	h.table.add(m)
	return h, m
}

func TestDispatch(t *testing.T) {
	t.Parallel()
	const ufrag = "ABCDabcd"
	good := request(t, ufrag+":wxyz")
	answerTo := func(typ uint16, id stunmsg.ID) []byte {
		b := stunmsg.Request(id)
		binary.BigEndian.PutUint16(b, typ)
		return b
	}
	known := stunmsg.ID{1, 2, 3}
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(ufrag+":wxyz"))
	if err != nil {
		t.Fatal(err)
	}
	unsigned := m.Raw
	cut := slices.Clone(good[:len(good)-4])
	odd := append(slices.Clone(good), 0)
	cookie := slices.Clone(good)
	cookie[4] ^= 1
	other := slices.Clone(good)
	binary.BigEndian.PutUint16(other, 0x0003) // allocate
	for _, test := range []struct {
		name          string
		p             []byte
		inbox, handed int
	}{
		{"check", good, 1, 0},
		{"unknown user fragment", request(t, "ABCDabce:wxyz"), 0, 0},
		{"wrong password", requestWith(t, ufrag+":wxyz", "another password"), 0, 0},
		{"no integrity", unsigned, 0, 0},
		{"user name without a colon", request(t, ufrag), 0, 0},
		{"no user name", stunmsg.Request(stunmsg.ID{9}), 0, 0},
		{"length is wrong", cut, 0, 0},
		{"trailing byte", odd, 0, 0},
		{"another method", other, 0, 0},
		{"response", answerTo(stunmsg.BindingSuccess, known), 1, 0},
		{"error response", answerTo(stunmsg.BindingError, known), 1, 0},
		{"response to nothing", answerTo(stunmsg.BindingSuccess, stunmsg.ID{7}), 0, 0},
		{"no cookie", cookie, 0, 1},
		{"short", good[:19], 0, 1},
		{"one byte", []byte{0}, 0, 1},
		{"data", []byte("\x40data"), 0, 1},
		{"first byte above 3", append([]byte{4}, good[1:]...), 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, m := dispatcher(ufrag)
			h.table.expect(known, transaction{conn: m.conns[0]})
			handed := 0
			h.SetHandler(func(b []byte, segment int, _ netip.AddrPort) {
				if !bytes.Equal(b, test.p) || segment != len(b) {
					t.Errorf("got %x in segments of %d, want %x", b, segment, test.p)
				}
				handed++
			})
			h.receive(slices.Clone(test.p), len(test.p), netip.MustParseAddrPort("198.51.100.1:9"))
			if got := len(m.conns[0].inbox); got != test.inbox || handed != test.handed {
				t.Errorf("got %d messages and %d packets, want %d and %d", got, handed, test.inbox, test.handed)
			}
			if len(m.conns[1].inbox) != 0 {
				t.Error("the base of the other family got it")
			}
		})
	}
}

// The kernel merges packets of one size and source, whatever they hold.
func TestDispatchMixedBatch(t *testing.T) {
	t.Parallel()
	check := request(t, "ABCDabcd:wxyz")
	n := len(check)
	data := func(i byte) []byte { return bytes.Repeat([]byte{0x40 + i}, n) }
	h, m := dispatcher("ABCDabcd")
	var got [][]byte
	h.SetHandler(func(b []byte, segment int, _ netip.AddrPort) {
		if segment != min(n, len(b)) {
			t.Errorf("got segments of %d for %d bytes, want %d", segment, len(b), n)
		}
		got = append(got, slices.Clone(b))
	})
	batch := slices.Concat(check, data(1), data(2), check, data(3), check, data(4)[:5])
	h.receive(batch, n, netip.MustParseAddrPort("[2001:db8::9]:9"))
	want := [][]byte{slices.Concat(data(1), data(2)), data(3), data(4)[:5]}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("got %x, want %x", got, want)
	}
	if len(m.conns[1].inbox) != 3 || len(m.conns[0].inbox) != 0 {
		t.Errorf("got %d and %d messages, want 0 and 3", len(m.conns[0].inbox), len(m.conns[1].inbox))
	}
}

func TestTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	h, m := dispatcher("ABCDabcd")
	id := func(i int) (id stunmsg.ID) {
		binary.BigEndian.PutUint32(id[:], uint32(i+1))
		return id
	}
	for i := range 3 * maxTransactions {
		h.table.expect(id(i), transaction{conn: m.conns[0]})
	}
	if got := len(h.table.open); got != maxTransactions {
		t.Errorf("got %d, want %d", got, maxTransactions)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if got := len(h.table.open); got != 0 {
		t.Errorf("after Close: got %d, want 0", got)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	var l limiter
	now := time.Unix(1000, 0)
	one := netip.MustParseAddr("192.0.2.1")
	count := func(from netip.Addr, n int) (ok int) {
		for range n {
			if l.allow(from, now) {
				ok++
			}
		}
		return ok
	}
	if got := count(one, 2*checkBurst); got != checkBurst {
		t.Errorf("burst: got %d, want %d", got, checkBurst)
	}
	if got := count(netip.MustParseAddr("192.0.2.2"), 10); got != 10 {
		t.Errorf("another source: got %d, want 10", got)
	}
	now = now.Add(100 * time.Millisecond)
	if got := count(one, checkBurst); got != checksPerSecond/10 {
		t.Errorf("after 100 ms: got %d, want %d", got, checksPerSecond/10)
	}
	now = now.Add(time.Minute)
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2:3:4:5")
	if got := count(a, 300) + count(b, 300); got != checkBurst {
		t.Errorf("two of one /64: got %d, want %d", got, checkBurst)
	}
	now = now.Add(time.Minute)
	forged := netip.MustParseAddr("10.0.0.0")
	total := 0
	for range 5 * maxSources {
		forged = forged.Next()
		total += count(forged, 1)
	}
	if len(l.sources) > maxSources || total != allPerSecond {
		t.Errorf("forged sources: got %d remembered and %d let through, want %d and %d", len(l.sources), total, maxSources, allPerSecond)
	}
}

// Checks from many addresses make no work for each of them.
func TestForgedSources(t *testing.T) {
	t.Parallel()
	h, m := dispatcher("ABCDabcd")
	expected := netip.MustParseAddrPort("198.51.100.9:9")
	m.expectFrom(expected)
	admitted := 0
	pass := func(from netip.AddrPort) {
		check := request(t, "ABCDabcd:wxyz") // a new one: TestReplayedChecks has those that came before
		h.receive(check, len(check), from)
		for range len(m.conns[0].inbox) {
			<-m.conns[0].inbox
			admitted++
		}
	}
	for i := range uint16(10 * maxPeerAddrs) {
		pass(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), i+1))
	}
	if want := maxPeerAddrs - 1; admitted != want {
		t.Errorf("got checks of %d sources, want %d", admitted, want)
	}
	admitted = 0
	pass(expected)
	if admitted != 1 {
		t.Error("a source that is a remote candidate was refused")
	}
	for i := range uint16(10 * maxPeerAddrs) {
		m.expectFrom(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), i+1))
	}
	if got := len(m.door.sources); got > maxPeerAddrs+maxRemote {
		t.Errorf("got %d sources remembered", got)
	}
}

func TestMuxConn(t *testing.T) {
	t.Parallel()
	h, m := dispatcher("ABCDabcd")
	addrs := m.GetListenAddresses()
	if len(addrs) != 2 {
		t.Fatalf("got bases %v, want two", addrs)
	}
	c, err := m.GetConn("ABCDabcd", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.GetConn("ABCDabcd", addrs[0]); err != nil || again != c {
		t.Errorf("got %v, %v, want the same conn", again, err)
	}
	for _, a := range []net.Addr{&net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 1}, addrs[0]} {
		if got, err := m.GetConn("other", a); err == nil {
			t.Errorf("got conn %v for another user fragment", got)
		}
	}
	check := request(t, "ABCDabcd:wxyz")
	from := netip.MustParseAddrPort("198.51.100.1:9")
	for range 2 * inboxPackets { // more than fit
		h.receive(check, len(check), from)
	}
	b := make([]byte, 1500)
	for range inboxPackets {
		n, addr, err := c.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], check) || addr.String() != from.String() {
			t.Fatalf("got %d bytes from %v, %v", n, addr, err)
		}
	}
	done := make(chan error)
	go func() {
		_, _, err := c.ReadFrom(b)
		done <- err
	}()
	m.RemoveConnByUfrag("other")
	m.RemoveConnByUfrag("ABCDabcd")
	if err := <-done; err != io.EOF {
		t.Errorf("ReadFrom: got %v, want %v", err, io.EOF)
	}
	if _, err := c.WriteTo(check, addrs[0]); err != io.ErrClosedPipe {
		t.Errorf("WriteTo: got %v, want %v", err, io.ErrClosedPipe)
	}
	h.receive(check, len(check), from)
	if got := len(m.conns[0].inbox); got != 0 {
		t.Errorf("got %d messages after the end, want 0", got)
	}
}

// Only the first checks of the answering side are near ones, and none once the peer was heard.
func TestNearChecks(t *testing.T) {
	t.Parallel()
	dst, dst2 := netip.MustParseAddrPort("198.51.100.1:9"), netip.MustParseAddrPort("198.51.100.1:10")
	near := func(m *agentMux, to netip.AddrPort, n int) (count int) {
		for range n {
			if m.conns[0].isNear(to) {
				count++
			}
		}
		return count
	}
	h, m := dispatcher("ABCDabcd")
	if got := near(m, dst, 5); got != 0 {
		t.Errorf("controlling: got %d, want 0", got)
	}
	m.near = true
	if got := near(m, dst, 5); got != nearChecks {
		t.Errorf("got %d, want %d", got, nearChecks)
	}
	check := request(t, "ABCDabcd:wxyz")
	h.receive(check, len(check), dst)
	if got := near(m, dst2, 5); got != 0 {
		t.Errorf("peer was heard: got %d, want 0", got)
	}
}

func TestDispatchAllocates(t *testing.T) {
	h, _ := dispatcher("ABCDabcd")
	h.SetHandler(func([]byte, int, netip.AddrPort) {})
	from := netip.MustParseAddrPort("198.51.100.1:9")
	for name, p := range map[string][]byte{
		"data":                  bytes.Repeat([]byte{0x40}, 1200),
		"unknown user fragment": request(t, "unknown:wxyz"),
		"stray response":        append([]byte{1, 1}, stunmsg.Request(stunmsg.ID{5})[2:]...),
	} {
		if got := testing.AllocsPerRun(100, func() { h.receive(p, len(p), from) }); got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
	}
}

func FuzzDispatch(f *testing.F) {
	const ufrag = "ABCDabcd"
	check := request(f, ufrag+":wxyz")
	answered := stunmsg.Request(stunmsg.ID{1})
	binary.BigEndian.PutUint16(answered, stunmsg.BindingSuccess)
	f.Add(check, uint16(len(check)))
	f.Add(answered, uint16(20))
	f.Add(slices.Concat(check, answered), uint16(20))
	f.Add(bytes.Repeat(answered, 4), uint16(20))
	f.Add([]byte("\x40 some data"), uint16(3))
	f.Add(success(stunmsg.ID{1}, netip.MustParseAddrPort("192.0.2.7:1234")), uint16(32))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		if len(b) == 0 || size == 0 {
			return
		}
		segment := min(int(size), len(b))
		h, m := dispatcher(ufrag)
		reply := make(chan answer, 1)
		h.table.expect(stunmsg.ID{1}, transaction{answer: reply})
		var want, got int
		for i := 0; i < len(b); i += segment {
			if p := b[i:min(i+segment, len(b))]; !stunmsg.Is(p) {
				want += len(p)
			}
		}
		h.SetHandler(func(p []byte, s int, _ netip.AddrPort) {
			if len(p) == 0 || s <= 0 || s > len(p) {
				t.Errorf("got %d bytes in segments of %d", len(p), s)
			}
			got += len(p)
		})
		h.receive(b, segment, netip.MustParseAddrPort("198.51.100.1:9"))
		if got != want {
			t.Errorf("handler got %d bytes, want %d", got, want)
		}
		for range len(m.conns[0].inbox) {
			p := <-m.conns[0].inbox
			if !stunmsg.Is(p.b) {
				t.Errorf("agent got %x", p.b)
			}
		}
		select {
		case r := <-reply:
			if r.mapped.Addr().Is4In6() {
				t.Errorf("got mapped address %v", r.mapped)
			}
		default:
		}
	})
}
