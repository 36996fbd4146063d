package punch

import (
	"net/netip"
	"slices"
	"sync"
)

// refusals is who of a Host watches which address. Of a Host without any the sockets are as they ever were.
type refusals struct {
	mu  sync.Mutex
	all []*Refusals
}

// Refusals count what the kernel at an address says of datagrams sent there: that nobody has the port (ICMP
// destination unreachable, code 3 over IPv4 and 4 over IPv6, RFC 1122 section 3.2.2.1 and RFC 4443 section 3.1).
type Refusals struct {
	h    *Host
	sock *socket
	to   netip.AddrPort
	ours func(head []byte) bool
	n    int // guarded by refusals.mu
}

// WatchRefusals begins to count for an address; nil where the system does not tell, which it does on Linux alone.
// Only messages count whose sender is that very address, and whose copy of the datagram ours takes for one
// of its own; head is as much of that as came back, valid during the call. The caller closes what is returned. ICMP
// is not authenticated: ours is what keeps strangers out who have not seen a datagram.
func (h *Host) WatchRefusals(to netip.AddrPort, ours func(head []byte) bool) *Refusals {
	s := h.socks[family(to.Addr())]
	if s == nil {
		return nil
	}
	h.refusals.mu.Lock()
	defer h.refusals.mu.Unlock()
	if !s.batch.watchErrors(true) {
		return nil
	}
	r := &Refusals{h: h, sock: s, to: to, ours: ours}
	h.refusals.all = append(h.refusals.all, r)
	return r
}

// Count returns how many came so far. It never waits.
func (r *Refusals) Count() int {
	if r == nil {
		return 0
	}
	r.h.refusals.mu.Lock()
	defer r.h.refusals.mu.Unlock()
	r.sock.batch.errors(func(to netip.AddrPort, head []byte) {
		for _, o := range r.h.refusals.all {
			if o.to == to && o.ours(head) {
				o.n++
			}
		}
	})
	return r.n
}

// Close ends the counting. It may be called more than once.
func (r *Refusals) Close() {
	if r == nil {
		return
	}
	r.h.refusals.mu.Lock()
	defer r.h.refusals.mu.Unlock()
	if i := slices.Index(r.h.refusals.all, r); i >= 0 {
		r.h.refusals.all = slices.Delete(r.h.refusals.all, i, i+1)
		r.sock.batch.watchErrors(false)
	}
}
