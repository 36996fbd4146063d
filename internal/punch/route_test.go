package punch

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// routesTo makes routes of a host to ports from 1 on of one address, in simulated time a second apart.
func routesTo(t *testing.T, h *Host, n int) []*route {
	t.Helper()
	var out []*route
	for i := range n {
		s, err := listenSocket(false, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := newRoute(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(i+1)), s)
		if !h.table.routes.add(r) {
			t.Fatal("refused")
		}
		out = append(out, r)
		time.Sleep(time.Second)
	}
	t.Cleanup(h.table.routes.close)
	return out
}

// open returns the ports of the routes whose sockets are open, and checks that those are in use and no others.
func open(t *testing.T, h *Host, all []*route) (ports []uint16) {
	t.Helper()
	for _, r := range all {
		_, err := r.sock.conn.WriteToUDPAddrPort([]byte("x"), r.to)
		isOpen := !errors.Is(err, net.ErrClosed)
		if isOpen {
			ports = append(ports, r.to.Port())
		}
		if used := h.table.routes.to(r.to) == r; used != isOpen {
			t.Errorf("route %v: in use %v, open %v", r.to, used, isOpen)
		}
	}
	return ports
}

// TestRoutesBounded: the one that heard nothing for longest makes room.
func TestRoutesBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{table: newTable()}
		routes := routesTo(t, h, maxRoutes)
		for _, i := range []int{0, 1, 4} {
			h.receiveBy(routes[i], []byte("\x40data"), 5, routes[i].to)
		}
		h.receiveBy(routes[3], []byte("\x40data"), 5, routes[2].to) // from elsewhere
		// Each in the place of the quietest: 3, 4, 6, 7, 8 and then the oldest that heard something.
		for i := range uint16(6) {
			s, err := listenSocket(false, 0)
			if err != nil {
				t.Fatal(err)
			}
			h.table.routes.add(newRoute(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 100+i), s))
			if n := len(h.table.routes.all()); n != maxRoutes {
				t.Fatalf("got %d routes, want %d", n, maxRoutes)
			}
			want := slices.DeleteFunc([]uint16{1, 2, 3, 4, 5, 6, 7, 8}, func(p uint16) bool {
				return slices.Contains([]uint16{3, 4, 6, 7, 8}[:min(i+1, 5)], p)
			})
			got := open(t, h, routes)
			if i < 5 && !slices.Equal(got, want) {
				t.Fatalf("after %d more: got %d, want %d", i+1, got, want)
			}
			if i == 5 && len(got) != 2 {
				t.Fatalf("got %d, want two of 1, 2 and 5", got)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// TestRouteReplaced: a newer hole takes the place of the older one to the same address.
func TestRouteReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{table: newTable()}
		old, fresh := routesTo(t, h, 1), routesTo(t, h, 1)
		if got := open(t, h, old); len(got) > 0 {
			t.Error("the older one is open")
		}
		if got := open(t, h, fresh); len(got) != 1 {
			t.Error("the newer one is closed")
		}
	})
}

// TestRoutesOfOldNetwork: holes end with their network, and those that may be there still when they are silent.
func TestRoutesOfOldNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{table: newTable()}
		routes := routesTo(t, h, 4)
		routes[0].source = netip.MustParseAddr("192.0.2.9") // where packets left from then
		h.NetworkChanged()
		if got, want := open(t, h, routes), []uint16{2, 3, 4}; !slices.Equal(got, want) {
			t.Fatalf("at once: got %d, want %d", got, want)
		}
		time.Sleep(time.Millisecond)
		h.receiveBy(routes[2], []byte("\x40data"), 5, routes[2].to)
		time.Sleep(routeQuiet - 2*time.Millisecond)
		synctest.Wait()
		if got, want := open(t, h, routes), []uint16{2, 3, 4}; !slices.Equal(got, want) {
			t.Fatalf("meanwhile: got %d, want %d", got, want)
		}
		fresh := routesTo(t, h, 1) // port 1 again, and a second goes by
		synctest.Wait()
		if got, want := open(t, h, routes), []uint16{3}; !slices.Equal(got, want) {
			t.Errorf("later: got %d, want %d", got, want)
		}
		if got := open(t, h, fresh); len(got) != 1 {
			t.Error("one of the new network was closed")
		}
		time.Sleep(time.Hour)
		if got, want := open(t, h, routes), []uint16{3}; !slices.Equal(got, want) {
			t.Errorf("in the end: got %d, want %d", got, want)
		}
	})
}

// TestRoutePassed: an authentic check that comes to the host's own socket ends a hole that is silent, and no
// other packet does.
func TestRoutePassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := dispatcher("ABCDabcd")
		all := routesTo(t, h, 1)
		r := all[0]
		forged := requestWith(t, "ABCDabcd:wxyz", "another password")
		receive := func(by *route, b []byte) { h.receiveBy(by, b, len(b), r.to) }
		receive(r, request(t, "ABCDabcd:wxyz"))
		receive(nil, request(t, "ABCDabcd:wxyz"))
		if len(open(t, h, all)) == 0 {
			t.Fatal("a hole that works was closed")
		}
		time.Sleep(routeQuiet)
		receive(nil, forged)
		receive(nil, []byte("\x40data"))
		h.receive(request(t, "ABCDabcd:wxyz"), len(forged), netip.AddrPortFrom(r.to.Addr(), 99))
		if len(open(t, h, all)) == 0 {
			t.Fatal("closed without a check from there")
		}
		receive(nil, request(t, "ABCDabcd:wxyz"))
		if len(open(t, h, all)) > 0 {
			t.Error("still open")
		}
	})
}

// TestRoutesClosed: a host that is closed has none and takes none.
func TestRoutesClosed(t *testing.T) {
	t.Parallel()
	h := listen(t, Config{})
	s, err := listenSocket(false, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := newRoute(netip.MustParseAddrPort("192.0.2.2:5"), s)
	if !h.table.routes.add(r) {
		t.Fatal("refused")
	}
	h.Close()
	if len(open(t, h, []*route{r})) > 0 {
		t.Error("open after Close")
	}
	if s, err = listenSocket(false, 0); err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	if h.table.routes.add(newRoute(r.to, s)) {
		t.Error("a closed host takes a socket")
	}
}
