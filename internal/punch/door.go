package punch

import (
	"net/netip"
	"sync"

	"adit/internal/stunmsg"
)

const (
	maxPeerAddrs = 64   // sources of checks that an agent learns of
	maxSeen      = 4096 // checks remembered: minutes of them
)

// A door decides which authentic checks an agent gets to see. The agent answers the source of each,
// sends checks of its own there and never forgets it. Whoever overheard a check can send it again
// from a thousand addresses, forged or its own (RFC 8445 §19.3), so
//
//   - sources are counted, and
//   - a check that came before is dropped when it comes from another source: an agent makes a new
//     transaction for each address that it checks and for each time it does. From the same source it
//     is a datagram that the network doubled.
//
// Remote candidates pass always: whoever is faster than the peer's own checks must not shut them out.
//
// The zero value is ready. Its methods may be called from any goroutine.
type door struct {
	mu      sync.Mutex
	sources map[netip.AddrPort]bool       // true: a remote candidate; at most maxPeerAddrs+maxRemote
	seen    map[stunmsg.ID]netip.AddrPort // authentic checks and where they came from first
	ring    []stunmsg.ID                  // of seen, at most maxSeen; the oldest at next
	next    int
}

// expect makes a remote candidate welcome, as far as there is room.
func (d *door) expect(from netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.sources[from]; known || len(d.sources) < maxPeerAddrs+maxRemote {
		d.addLocked(from, true)
	}
}

func (d *door) addLocked(from netip.AddrPort, candidate bool) {
	if d.sources == nil {
		d.sources = make(map[netip.AddrPort]bool)
	}
	d.sources[from] = candidate
}

// mayPass reports whether a check would pass if it were authentic. It spares the work to find out.
func (d *door) mayPass(id stunmsg.ID, from netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mayPassLocked(id, from)
}

func (d *door) mayPassLocked(id stunmsg.ID, from netip.AddrPort) bool {
	candidate, known := d.sources[from]
	if !known && len(d.sources) >= maxPeerAddrs {
		return false
	}
	first, again := d.seen[id]
	return candidate || !again || first == from
}

// pass reports whether an authentic check passes, and remembers it.
func (d *door) pass(id stunmsg.ID, from netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.mayPassLocked(id, from) {
		return false
	}
	if _, known := d.sources[from]; !known {
		d.addLocked(from, false)
	}
	if _, again := d.seen[id]; again {
		return true
	}
	if d.seen == nil {
		d.seen = make(map[stunmsg.ID]netip.AddrPort)
	}
	d.seen[id] = from
	if len(d.ring) < maxSeen {
		d.ring = append(d.ring, id)
		return true
	}
	delete(d.seen, d.ring[d.next])
	d.ring[d.next] = id
	d.next = (d.next + 1) % maxSeen
	return true
}
