package punch

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// success builds a response with a mapped address, plain or XORed.
func success(id transactionID, mapped netip.AddrPort, xored bool) []byte {
	b := bindingRequestFor(id)
	binary.BigEndian.PutUint16(b, bindingSuccess)
	ip := mapped.Addr().AsSlice()
	typ, fam := uint16(attrMappedAddress), byte(1)
	if len(ip) == 16 {
		fam = 2
	}
	port := mapped.Port()
	if xored {
		typ = attrXORMappedAddress
		port ^= stunCookie >> 16
		key := append(binary.BigEndian.AppendUint32(nil, stunCookie), id[:]...)
		for i := range ip {
			ip[i] ^= key[i]
		}
	}
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(ip)))
	b = append(b, 0, fam)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, ip...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stunHeader))
	return b
}

// server answers each request with what reply makes of it; nil is silence.
func server(t *testing.T, reply func(id transactionID, from netip.AddrPort) []byte) string {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c, reply)
	return c.LocalAddr().String()
}

func serve(t *testing.T, c *net.UDPConn, reply func(id transactionID, from netip.AddrPort) []byte) {
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if typ, id, _, ok := parseSTUN(b[:n]); ok && typ == bindingRequest {
				if r := reply(id, from); r != nil {
					_, _ = c.WriteToUDPAddrPort(r, from)
				}
			}
		}
	}()
}

func says(mapped string) func(transactionID, netip.AddrPort) []byte {
	return func(id transactionID, _ netip.AddrPort) []byte {
		return success(id, netip.MustParseAddrPort(mapped), true)
	}
}

func gather(t *testing.T, h *Host) (out []Candidate, took time.Duration) {
	t.Helper()
	start := time.Now()
	if err := h.Gather(t.Context(), func(c Candidate) { out = append(out, c) }); err != nil {
		t.Fatal(err)
	}
	return out, time.Since(start)
}

func reflexive(cs []Candidate) (out []string) {
	for _, c := range cs {
		if c.Type == ServerReflexive {
			out = append(out, c.Addr.String())
		}
	}
	slices.Sort(out)
	return out
}

func TestMappedAddr(t *testing.T) {
	t.Parallel()
	id := transactionID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, s := range []string{"192.0.2.1:4000", "[2001:db8::7]:65535"} {
		for _, xored := range []bool{false, true} {
			b := success(id, netip.MustParseAddrPort(s), xored)
			_, _, attrs, ok := parseSTUN(b)
			if !ok {
				t.Fatalf("%s: not STUN", s)
			}
			if a, ok := mappedAddr(attrs, id); !ok || a.String() != s {
				t.Errorf("xored %v: got %v, %v, want %s", xored, a, ok, s)
			}
			for n := range attrs {
				if a, ok := mappedAddr(attrs[:n], id); ok {
					t.Errorf("%d bytes: got %v", n, a)
				}
			}
		}
	}
	// RFC 5769 §2.2
	id = transactionID{0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae}
	vector := []byte{0x80, 0x22, 0, 1, 'x', 0x20, 0x20, 0x20, 0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43}
	if a, ok := mappedAddr(vector, id); !ok || a.String() != "192.0.2.1:32853" {
		t.Errorf("RFC 5769: got %v, %v", a, ok)
	}
}

func TestGatherRace(t *testing.T) {
	t.Parallel()
	silent := func(transactionID, netip.AddrPort) []byte { return nil }
	n := 0 // of one server goroutine
	lossy := func(id transactionID, _ netip.AddrPort) []byte {
		if n++; n < 2 {
			return nil
		}
		return success(id, netip.MustParseAddrPort("203.0.113.1:1"), true)
	}
	echo := func(id transactionID, from netip.AddrPort) []byte { return success(id, from, true) }
	garbage := func(id transactionID, _ netip.AddrPort) []byte {
		return append([]byte{1, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42}, append(id[:], 0, 0x20, 0xff, 0xff)...)
	}
	refuses := func(id transactionID, _ netip.AddrPort) []byte {
		b := bindingRequestFor(id)
		binary.BigEndian.PutUint16(b, bindingError)
		return b
	}
	for _, test := range []struct {
		name    string
		servers []func(transactionID, netip.AddrPort) []byte
		more    []string
		want    []string
		within  time.Duration
	}{
		{"no servers", nil, nil, nil, time.Second},
		{"one", []func(transactionID, netip.AddrPort) []byte{says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"dead one first", []func(transactionID, netip.AddrPort) []byte{silent, says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"nonsense first", []func(transactionID, netip.AddrPort) []byte{says("203.0.113.1:1")}, []string{"", "x", "127.0.0.1:0", "127.0.0.1:99999", "[::1"}, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"all equal", []func(transactionID, netip.AddrPort) []byte{says("203.0.113.1:1"), says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"symmetric", []func(transactionID, netip.AddrPort) []byte{says("203.0.113.1:1"), says("203.0.113.1:2")}, nil, []string{"203.0.113.1:1", "203.0.113.1:2"}, 2 * time.Second},
		{"lost request", []func(transactionID, netip.AddrPort) []byte{lossy}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"no NAT", []func(transactionID, netip.AddrPort) []byte{echo}, nil, nil, 2 * time.Second},
		{"garbage", []func(transactionID, netip.AddrPort) []byte{garbage, refuses, says("0.0.0.0:1"), says("224.0.0.1:5"), says("192.0.2.1:0"), says("[2001:db8::1]:5")}, nil, nil, 2 * time.Second},
		{"all dead", []func(transactionID, netip.AddrPort) []byte{silent, silent}, nil, nil, gatherLimit + time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{STUN: test.more}
			for _, s := range test.servers {
				cfg.STUN = append(cfg.STUN, server(t, s))
			}
			h := listen(t, cfg)
			got, took := gather(t, h)
			if r := reflexive(got); !slices.Equal(r, test.want) {
				t.Errorf("got %v, want %v", r, test.want)
			}
			if took > test.within {
				t.Errorf("took %v, want less than %v", took, test.within)
			}
			priorities := map[uint32]bool{}
			for _, c := range got {
				if priorities[c.Priority] {
					t.Errorf("two candidates have priority %d: %v", c.Priority, got)
				}
				priorities[c.Priority] = true
			}
			if len(h.table.open) != 0 {
				t.Errorf("%d transactions left", len(h.table.open))
			}
		})
	}
}

func TestGatherUnblocks(t *testing.T) {
	t.Parallel()
	because := errors.New("because")
	for _, test := range []struct {
		name string
		do   func(*Host, context.CancelCauseFunc)
		want error
	}{
		{"context", func(_ *Host, cancel context.CancelCauseFunc) { cancel(because) }, because},
		{"close", func(h *Host, _ context.CancelCauseFunc) { h.Close() }, net.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{}, 8)
			h := listen(t, Config{STUN: []string{server(t, func(transactionID, netip.AddrPort) []byte {
				asked <- struct{}{}
				return nil
			})}})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			done := make(chan error)
			go func() { done <- h.Gather(ctx, func(Candidate) {}) }()
			<-asked
			test.do(h, cancel)
			if err := <-done; !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	mapped := make(chan string, 8)
	changing := server(t, func(id transactionID, _ netip.AddrPort) []byte {
		return success(id, netip.MustParseAddrPort(<-mapped), true)
	})
	h := listen(t, Config{STUN: []string{changing}})
	mapped <- "203.0.113.1:1"
	gather(t, h)
	if h.stopRefresh == nil {
		t.Fatal("nothing refreshes the mapping")
	}
	found := []mapping{{h.socks[0], netip.MustParseAddrPort(changing), netip.MustParseAddrPort("203.0.113.1:1")}}
	mapped <- "203.0.113.1:2"
	h.refreshOnce(t.Context(), found)
	if now := netip.MustParseAddrPort("203.0.113.1:2"); found[0].mapped != now || !h.isOwn(now) {
		t.Errorf("got mapping %v, want %v", found[0].mapped, now)
	}
	h.StopRefresh()
	h.StopRefresh()
	if h.stopRefresh != nil {
		t.Error("refresh goes on")
	}
}
