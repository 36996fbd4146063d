package relay

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// forbidden are the ranges that no relay passes anything to, unless the operator opens them: what is not
// on the public Internet, and what another address is wrapped in (IANA special-purpose registries, RFC 6890).
var forbidden = prefixes(`
	10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10
	127.0.0.0/8 ::1/128
	169.254.0.0/16 fe80::/10
	100.64.0.0/10
	192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 2001:2::/48
	192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20
	240.0.0.0/4 100::/64 5f00::/16
	::/96 64:ff9b::/96 64:ff9b:1::/48 ::ffff:0:0:0/96 2002::/16 2001::/32 2001:10::/28 2001:20::/28`)

// never are those that nobody can open: a packet to them goes to this host, or to many. The broadcast addresses of
// this host's own networks are no less closed.
var never = prefixes(`0.0.0.0/8 ::/128 224.0.0.0/4 ff00::/8 255.255.255.255/32`)

var loopback = prefixes(`127.0.0.0/8 ::1/128`)

func prefixes(s string) []netip.Prefix {
	var out []netip.Prefix
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(f))
	}
	return out
}

func within(ip netip.Addr, in []netip.Prefix) bool {
	for _, p := range in {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// ownFor is how long the list of this machine's addresses is believed.
const ownFor = 10 * time.Second

// A peerPolicy says which addresses the relay passes packets to. Its methods may be called from any
// goroutine.
type peerPolicy struct {
	allow []netip.Prefix
	fixed map[netip.Addr]bool // addresses of ours that no interface has
	list  func() (local, error)

	mu    sync.Mutex
	own   local
	until time.Time // when own is looked up again
}

func newPeerPolicy(allow []netip.Prefix, external []netip.Addr) *peerPolicy {
	p := &peerPolicy{fixed: make(map[netip.Addr]bool), list: listLocal}
	for _, a := range allow {
		p.allow = append(p.allow, a.Masked())
	}
	for _, ip := range external {
		p.fixed[ip.Unmap()] = true
	}
	return p
}

// allows says whether packets may go to ip, which is not one of the relay's own relayed addresses:
// those have rules of their own, for two clients of one relay must reach each other.
//
// What has been opened counts more than what is forbidden, except for this machine: its own addresses
// are opened one by one, or as a loopback range, and never with a network that they happen to be in.
func (p *peerPolicy) allows(ip netip.Addr, now time.Time) bool {
	if !ip.IsValid() || ip.Zone() != "" {
		return false
	}
	ip = ip.Unmap()
	if within(ip, never) {
		return false
	}
	own := p.current(now)
	if own.addrs == nil || own.broadcasts[ip] { // what is not known is not opened
		return false
	}
	ours := ip.IsLoopback() || p.fixed[ip] || own.addrs[ip]
	for _, a := range p.allow {
		if a.Contains(ip) && (!ours || a.IsSingleIP() || isLoopbackRange(a)) {
			return true
		}
	}
	return !ours && !within(ip, forbidden)
}

func isLoopbackRange(p netip.Prefix) bool {
	for _, l := range loopback {
		if l.Contains(p.Addr()) && p.Bits() >= l.Bits() {
			return true
		}
	}
	return false
}

// current returns this machine's addresses: the last ones that were found, if they cannot be listed now.
func (p *peerPolicy) current(now time.Time) local {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.After(p.until) {
		_ = p.lookLocked(now) // what was true a moment ago will do
	}
	return p.own
}

// look looks up this machine's addresses. Until it has succeeded once the policy allows nothing.
func (p *peerPolicy) look(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lookLocked(now)
}

func (p *peerPolicy) lookLocked(now time.Time) error {
	p.until = now.Add(ownFor)
	own, err := p.list()
	if err == nil {
		p.own = own
	}
	return err
}

// ParsePrefix reads a range of addresses, or one address, as --turn-allow takes it.
func ParsePrefix(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses", s)
	}
	return p.Masked(), nil
}
