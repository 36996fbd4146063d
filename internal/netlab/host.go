package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"time"
)

// The internet of a lab. Sites and their routers count up from .10, public hosts from .200.
var (
	gateway4 = netip.MustParseAddr("198.51.100.1")
	gateway6 = netip.MustParseAddr("2001:db8::1")
)

// bridgeMAC is the address of every router in its LAN, and of the internet. A bridge that was given none takes
// the lowest of its ports': it changes when a host moves in, and others cannot reach their router until their
// ARP entries have expired, which takes up to a minute.
const bridgeMAC = "02:00:00:00:00:01"

func inet4(host int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(host)}) }
func inet6(host int) netip.Addr { return addr6(0, host) }

// addr6 is 2001:db8:net::host.
func addr6(net, host int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 5: byte(net), 15: byte(host)})
}

func lan4(site, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(site), byte(host)})
}

// HostOptions are the details of a host; the zero value works.
type HostOptions struct {
	Uplink LinkConfig // between the host's router and the internet; the zero value is the lab's
	IPv6   bool       // a global IPv6 address too, behind the router's stateful filter
}

// A Host is one machine of a lab: a namespace with one interface, eth0.
type Host struct {
	lab    *Lab
	name   string
	ns     string
	router string // its router's namespace; empty without
	site   int
	hosts  *int // how many hosts the site has
	mapper *mapper

	addr, addr6, public netip.Addr

	link *emulation // the emulated link next to the host, if any
	side int        // which of its ends is the host's
}

// internet returns the namespace of the internet: a bridge whose own address routes between the
// IPv6 prefixes of the sites.
func (l *Lab) internet() string {
	l.t.Helper()
	if l.inet == "" {
		l.inet = l.router("inet")
		l.sysctl(l.inet, "ipv4/conf/all/send_redirects", "0")
		l.ip("-n", l.inet, "link", "add", "name", "br0", "address", bridgeMAC, "type", "bridge")
		l.up(end{ns: l.inet, dev: "br0", addrs: []netip.Prefix{netip.PrefixFrom(gateway4, 24), netip.PrefixFrom(gateway6, 64)}})
	}
	return l.inet
}

// Public makes a host on the internet itself, with an IPv4 and an IPv6 address.
func (l *Lab) Public(name string) *Host {
	l.t.Helper()
	l.public++
	n := 199 + l.public
	h := &Host{lab: l, name: name, ns: l.space("pub" + fmt.Sprint(l.public)), addr: inet4(n), public: inet4(n)}
	if haveIPv6() {
		h.addr6 = inet6(n)
	}
	l.attach(h, fmt.Sprintf("pub%d", l.public), LinkConfig{}, true)
	return h
}

// attach joins a host to the internet directly.
func (l *Lab) attach(h *Host, port string, uplink LinkConfig, v6 bool) {
	l.t.Helper()
	addrs := []netip.Prefix{netip.PrefixFrom(h.addr, 24)}
	if v6 && h.addr6.IsValid() {
		addrs = append(addrs, netip.PrefixFrom(h.addr6, 64))
	}
	h.link = l.cable(end{ns: h.ns, dev: "eth0", addrs: addrs}, end{ns: l.internet(), dev: port, bridge: "br0"}, uplink)
	l.route(h.ns, gateway4)
	if v6 && h.addr6.IsValid() {
		l.route(h.ns, gateway6)
	}
}

// Host makes a host of the given kind: for None directly on the internet, else behind a router of
// its own.
func (l *Lab) Host(kind NAT, opts HostOptions) *Host {
	l.t.Helper()
	if opts.Uplink == (LinkConfig{}) {
		opts.Uplink = l.uplink
	}
	opts.IPv6 = opts.IPv6 && haveIPv6()
	l.sites++
	site := l.sites
	wan := 10 + site
	port := fmt.Sprintf("site%d", site)
	h := &Host{lab: l, name: fmt.Sprintf("%s%d", kind, site), site: site, public: inet4(wan)}
	if kind == None {
		h.ns, h.addr = l.space(port), h.public
		if opts.IPv6 {
			h.addr6 = inet6(wan)
		}
		l.attach(h, port, opts.Uplink, opts.IPv6)
		return h
	}

	h.router = l.router(fmt.Sprintf("nat%d", site))
	h.hosts = new(int)
	outer := []netip.Prefix{netip.PrefixFrom(h.public, 24)}
	inner := []netip.Prefix{netip.PrefixFrom(lan4(site, 1), 24)}
	if kind == CGNAT {
		l.behindCarrier(h, port, opts.Uplink)
		return h
	}
	if opts.IPv6 {
		outer = append(outer, netip.PrefixFrom(inet6(wan), 64))
		inner = append(inner, netip.PrefixFrom(addr6(site, 1), 64))
	}
	h.link = l.cable(end{ns: h.router, dev: "wan", addrs: outer}, end{ns: l.internet(), dev: port, bridge: "br0"}, opts.Uplink)
	l.route(h.router, gateway4)
	if opts.IPv6 {
		l.route(h.router, gateway6)
		l.ip("-n", l.inet, "-6", "route", "add", netip.PrefixFrom(addr6(site, 0), 64).String(), "via", inet6(wan).String())
	}
	l.lan(h.router, inner)
	l.translate(h.router, kind)
	l.join(h, opts.IPv6)
	return h
}

// lan gives a router its inner side.
func (l *Lab) lan(router string, addrs []netip.Prefix) {
	l.t.Helper()
	l.ip("-n", router, "link", "add", "name", "lan", "address", bridgeMAC, "type", "bridge")
	l.up(end{ns: router, dev: "lan", addrs: addrs})
}

// translate makes a router a NAT.
func (l *Lab) translate(router string, kind NAT) {
	l.t.Helper()
	l.run(rules(kind), "ip", "netns", "exec", router, "nft", "-f", "-")
}

// behindCarrier puts a host behind a home router whose own address is one of a carrier's NAT
// (RFC 6598), IPv4 only.
func (l *Lab) behindCarrier(h *Host, port string, uplink LinkConfig) {
	l.t.Helper()
	carrier := l.router(fmt.Sprintf("cgn%d", h.site))
	shared := func(host int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, byte(h.site), byte(host)}) }
	h.link = l.cable(end{ns: carrier, dev: "wan", addrs: []netip.Prefix{netip.PrefixFrom(h.public, 24)}},
		end{ns: l.internet(), dev: port, bridge: "br0"}, uplink)
	l.route(carrier, gateway4)
	l.lan(carrier, []netip.Prefix{netip.PrefixFrom(shared(1), 24)})
	l.cable(end{ns: h.router, dev: "wan", addrs: []netip.Prefix{netip.PrefixFrom(shared(2), 24)}},
		end{ns: carrier, dev: "home", bridge: "lan"}, LinkConfig{})
	l.route(h.router, shared(1))
	l.lan(h.router, []netip.Prefix{netip.PrefixFrom(lan4(h.site, 1), 24)})
	for _, r := range []string{carrier, h.router} {
		l.translate(r, PortRestricted)
	}
	l.join(h, false)
}

// join puts a host into its site's LAN.
func (l *Lab) join(h *Host, v6 bool) {
	l.t.Helper()
	*h.hosts++
	n := *h.hosts
	h.ns = l.space(fmt.Sprintf("site%d-%d", h.site, n))
	h.addr = lan4(h.site, n+1)
	addrs := []netip.Prefix{netip.PrefixFrom(h.addr, 24)}
	if v6 {
		h.addr6 = addr6(h.site, n+1)
		addrs = append(addrs, netip.PrefixFrom(h.addr6, 64))
	}
	l.cable(end{ns: h.ns, dev: "eth0", addrs: addrs}, end{ns: h.router, dev: fmt.Sprintf("port%d", n), bridge: "lan"}, LinkConfig{})
	l.route(h.ns, lan4(h.site, 1))
	if v6 {
		l.route(h.ns, addr6(h.site, 1))
	}
}

// SameLAN makes a further host in the LAN of h, which must be behind a router. No router here lets
// a host in through its own public address (no hairpin): the two reach each other locally.
func (l *Lab) SameLAN(h *Host) *Host {
	l.t.Helper()
	if h.router == "" {
		l.t.Fatalf("netlab: %s is not behind a router", h.name)
	}
	n := &Host{lab: l, name: h.name + "-neighbour", router: h.router, site: h.site, hosts: h.hosts, public: h.public, link: h.link}
	l.join(n, h.addr6.IsValid())
	return n
}

// Link makes two hosts joined by an emulated link and by nothing else. The zero config is a plain
// cable, as [Lab.Veth] makes it.
func (l *Lab) Link(c LinkConfig) (left, right *Host) {
	l.t.Helper()
	l.pairs++
	make := func(name string, host int) *Host {
		h := &Host{lab: l, name: name, ns: l.space(fmt.Sprintf("%s%d", name, l.pairs))}
		h.addr = netip.AddrFrom4([4]byte{10, 77, byte(l.pairs), byte(host)})
		h.public = h.addr
		// Nothing but the test's own packets: no router solicitations, no multicast reports.
		l.sysctl(h.ns, "ipv6/conf/default/disable_ipv6", "1")
		return h
	}
	left, right = make("left", 1), make("right", 2)
	e := l.cable(
		end{ns: left.ns, dev: "eth0", addrs: []netip.Prefix{netip.PrefixFrom(left.addr, 24)}},
		end{ns: right.ns, dev: "eth0", addrs: []netip.Prefix{netip.PrefixFrom(right.addr, 24)}}, c)
	left.link, right.link, right.side = e, e, 1
	return left, right
}

// Veth makes two hosts joined by a plain veth pair and by nothing else. With a rate, in bits per second,
// the kernel's token bucket shapes what each of them sends; 0 is as fast as the machine.
func (l *Lab) Veth(rateBits int64) (left, right *Host) {
	l.t.Helper()
	left, right = l.Link(LinkConfig{})
	if rateBits > 0 {
		for _, h := range []*Host{left, right} {
			l.run("", "tc", "-n", h.ns, "qdisc", "add", "dev", "eth0", "root",
				"tbf", "rate", fmt.Sprintf("%dbit", rateBits), "burst", "128k", "latency", "50ms")
		}
	}
	return left, right
}

// Addr returns the host's own IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Addr6 returns the host's global IPv6 address, or the zero Addr.
func (h *Host) Addr6() netip.Addr { return h.addr6 }

// PublicAddr returns the IPv4 address under which the internet sees the host: its router's, or its own.
func (h *Host) PublicAddr() netip.Addr { return h.public }

func (h *Host) String() string { return h.name }

// LinkStats returns what left the host's side through the emulated link next to it: the host's own
// or, behind a router, the router's uplink. Without emulation it is zero.
func (h *Host) LinkStats() LinkStats {
	if h.link == nil {
		return LinkStats{}
	}
	return h.link.stats(h.side)
}

// Command returns a command that runs inside the host, without a shell. It is killed when ctx ends,
// and at the latest when the test does or the test's process dies.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes
	dieWithParent(cmd)
	return cmd
}

// RouterCommand is the same inside the router that the host is behind. Its interfaces are wan and lan.
func (h *Host) RouterCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.router == "" {
		h.lab.t.Fatalf("netlab: %s is not behind a router", h.name)
	}
	r := *h
	r.ns = h.router
	return r.Command(ctx, name, args...)
}

// Do calls f on a thread that is inside the host; sockets f opens belong to it, and stay there. What
// f starts in other goroutines is not inside.
func (h *Host) Do(f func() error) error { return inNamespace(h.ns, f) }

// ListenPacket opens a packet socket inside the host, as [net.ListenPacket] does.
func (h *Host) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// Listen opens a listener inside the host, as [net.Listen] does.
func (h *Host) Listen(network, addr string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen(network, addr)
		return err
	})
	return ln, err
}

// Dial connects from inside the host to a numeric address.
func (h *Host) Dial(ctx context.Context, network string, addr netip.AddrPort) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr.String())
		return err
	})
	return c, err
}
