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

	"adit/internal/stunmsg"
)

// success builds a response with a mapped address.
func success(id stunmsg.ID, mapped netip.AddrPort) []byte {
	return stunmsg.Finish(stunmsg.AppendXORAddress(stunmsg.AppendHeader(nil, stunmsg.BindingSuccess, id), stunmsg.XORMappedAddress, mapped, id))
}

// server answers each request with what reply makes of it; nil is silence.
func server(t *testing.T, reply func(id stunmsg.ID, from netip.AddrPort) []byte) string {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c, reply)
	return c.LocalAddr().String()
}

func serve(t *testing.T, c *net.UDPConn, reply func(id stunmsg.ID, from netip.AddrPort) []byte) {
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
			if typ, id, ok := stunmsg.Parse(b[:n]); ok && typ == stunmsg.BindingRequest {
				if r := reply(id, from); r != nil {
					_, _ = c.WriteToUDPAddrPort(r, from)
				}
			}
		}
	}()
}

func says(mapped string) func(stunmsg.ID, netip.AddrPort) []byte {
	return func(id stunmsg.ID, _ netip.AddrPort) []byte {
		return success(id, netip.MustParseAddrPort(mapped))
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

func TestGatherRace(t *testing.T) {
	t.Parallel()
	silent := func(stunmsg.ID, netip.AddrPort) []byte { return nil }
	n := 0 // of one server goroutine
	lossy := func(id stunmsg.ID, _ netip.AddrPort) []byte {
		if n++; n < 2 {
			return nil
		}
		return success(id, netip.MustParseAddrPort("203.0.113.1:1"))
	}
	echo := func(id stunmsg.ID, from netip.AddrPort) []byte { return success(id, from) }
	garbage := func(id stunmsg.ID, _ netip.AddrPort) []byte {
		return stunmsg.Finish(stunmsg.AppendUint32(stunmsg.AppendHeader(nil, stunmsg.BindingSuccess, id), stunmsg.XORMappedAddress, 7))
	}
	cut := func(id stunmsg.ID, from netip.AddrPort) []byte { // as good as no answer (RFC 8489 §6.3)
		b := success(id, from)
		return stunmsg.Finish(b[:len(b)-4])
	}
	refuses := func(id stunmsg.ID, _ netip.AddrPort) []byte {
		b := stunmsg.Request(id)
		binary.BigEndian.PutUint16(b, stunmsg.BindingError)
		return b
	}
	for _, test := range []struct {
		name    string
		servers []func(stunmsg.ID, netip.AddrPort) []byte
		more    []string
		want    []string
		within  time.Duration
	}{
		{"no servers", nil, nil, nil, time.Second},
		{"one", []func(stunmsg.ID, netip.AddrPort) []byte{says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"dead one first", []func(stunmsg.ID, netip.AddrPort) []byte{silent, says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"nonsense first", []func(stunmsg.ID, netip.AddrPort) []byte{says("203.0.113.1:1")}, []string{"", "x", "127.0.0.1:0", "127.0.0.1:99999", "[::1"}, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"all equal", []func(stunmsg.ID, netip.AddrPort) []byte{says("203.0.113.1:1"), says("203.0.113.1:1")}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"symmetric", []func(stunmsg.ID, netip.AddrPort) []byte{says("203.0.113.1:1"), says("203.0.113.1:2")}, nil, []string{"203.0.113.1:1", "203.0.113.1:2"}, 2 * time.Second},
		{"lost request", []func(stunmsg.ID, netip.AddrPort) []byte{lossy}, nil, []string{"203.0.113.1:1"}, 2 * time.Second},
		{"no NAT", []func(stunmsg.ID, netip.AddrPort) []byte{echo}, nil, nil, 2 * time.Second},
		{"garbage", []func(stunmsg.ID, netip.AddrPort) []byte{garbage, refuses, says("0.0.0.0:1"), says("224.0.0.1:5"), says("192.0.2.1:0"), says("[2001:db8::1]:5")}, nil, nil, 2 * time.Second},
		{"all dead", []func(stunmsg.ID, netip.AddrPort) []byte{silent, cut}, nil, nil, gatherLimit + time.Second},
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
			h := listen(t, Config{STUN: []string{server(t, func(stunmsg.ID, netip.AddrPort) []byte {
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
	changing := server(t, func(id stunmsg.ID, _ netip.AddrPort) []byte {
		return success(id, netip.MustParseAddrPort(<-mapped))
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
