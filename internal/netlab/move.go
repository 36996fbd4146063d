package netlab

import (
	"context"
	"fmt"
	"net/netip"
)

// Readdress gives a host that is behind a router the next address of its LAN in the place of its own, as
// a new DHCP lease does. Its connections lose their source address.
func (h *Host) Readdress() {
	h.lab.t.Helper()
	old := h.addr
	*h.hosts++
	h.addr = lan4(h.site, *h.hosts+1)
	h.lab.ip("-n", h.ns, "addr", "add", netip.PrefixFrom(h.addr, 24).String(), "dev", "eth0")
	h.lab.ip("-n", h.ns, "addr", "del", netip.PrefixFrom(old, 24).String(), "dev", "eth0")
	if len(h.run("ip", "addr", "show", "to", h.addr.String())) == 0 { // it was secondary to the old one
		h.lab.ip("-n", h.ns, "addr", "add", netip.PrefixFrom(h.addr, 24).String(), "dev", "eth0")
	}
	if len(h.run("ip", "route", "show", "default")) == 0 {
		h.lab.route(h.ns, lan4(h.site, 1))
	}
}

// run runs a command inside the host and returns what it wrote; the test ends if it fails.
func (h *Host) run(name string, args ...string) string {
	h.lab.t.Helper()
	out, err := h.Command(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		h.lab.t.Fatalf("netlab: %s in %s: %v: %s", name, h.name, err, out)
	}
	return string(out)
}

// plug gives a host another interface in the LAN of to, and returns its address there.
func (h *Host) plug(dev string, to *Host) netip.Addr {
	h.lab.t.Helper()
	if h.router == "" || to.router == "" {
		h.lab.t.Fatalf("netlab: %s or %s is not behind a router", h.name, to.name)
	}
	*to.hosts++
	n := *to.hosts
	addr := lan4(to.site, n+1)
	h.lab.cable(end{ns: h.ns, dev: dev, addrs: []netip.Prefix{netip.PrefixFrom(addr, 24)}},
		end{ns: to.router, dev: fmt.Sprintf("port%d", n), bridge: "lan"}, LinkConfig{})
	return addr
}

// Move takes a host from its LAN to that of another one. Both must be behind routers. It has another
// interface address, another default route and another public address from then on. IPv4 only.
func (h *Host) Move(to *Host) {
	h.lab.t.Helper()
	h.lab.ip("-n", h.ns, "link", "del", "eth0")
	h.addr, h.addr6 = h.plug("eth0", to), netip.Addr{}
	h.router, h.site, h.hosts, h.public, h.link = to.router, to.site, to.hosts, to.public, to.link
	h.lab.route(h.ns, lan4(h.site, 1))
}

// Join gives a host a second interface, eth1, in the LAN of another one. The default route stays.
func (h *Host) Join(to *Host) {
	h.lab.t.Helper()
	h.plug("eth1", to)
}

// RouteBy makes the router of another host the default one, or its own again. [Host.Join] comes first.
func (h *Host) RouteBy(to *Host) {
	h.lab.t.Helper()
	h.lab.ip("-n", h.ns, "route", "replace", "default", "via", lan4(to.site, 1).String())
}

// JoinByRule gives a host a second interface, eth1, in the LAN of another one, with a way out of its own: only what
// is sent from its address there leaves there. The main route stays. It returns that address.
func (h *Host) JoinByRule(to *Host) netip.Addr {
	h.lab.t.Helper()
	addr := h.plug("eth1", to)
	h.lab.ip("-n", h.ns, "route", "add", "default", "via", lan4(to.site, 1).String(), "dev", "eth1", "table", "100")
	h.lab.ip("-n", h.ns, "rule", "add", "from", addr.String(), "lookup", "100")
	return addr
}
