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

// Move takes a host from its LAN to that of another one. Both must be behind routers. It has another
// interface address, another default route and another public address from then on. IPv4 only.
func (h *Host) Move(to *Host) {
	h.lab.t.Helper()
	if h.router == "" || to.router == "" {
		h.lab.t.Fatalf("netlab: %s or %s is not behind a router", h.name, to.name)
	}
	h.lab.ip("-n", h.ns, "link", "del", "eth0")
	*to.hosts++
	n := *to.hosts
	h.router, h.site, h.hosts, h.public, h.link = to.router, to.site, to.hosts, to.public, to.link
	h.addr, h.addr6 = lan4(h.site, n+1), netip.Addr{}
	h.lab.cable(end{ns: h.ns, dev: "eth0", addrs: []netip.Prefix{netip.PrefixFrom(h.addr, 24)}},
		end{ns: h.router, dev: fmt.Sprintf("port%d", n), bridge: "lan"}, LinkConfig{})
	h.lab.route(h.ns, lan4(h.site, 1))
}
