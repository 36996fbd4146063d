package netlab

import (
	"fmt"
	"os"
	"strings"
)

// Hairpin makes the router that h is behind a full cone that lets its hosts in through its own public
// address too, as RFC 4787 §6 asks: to what they have mapped, and with their own mapped address as the source.
// Call it before a host sends anything.
func (h *Host) Hairpin() {
	h.lab.t.Helper()
	text := strings.NewReplacer(
		`iifname "wan" meta l4proto udp dnat`, fmt.Sprintf(`ip daddr %v meta l4proto udp dnat`, h.public),
		`oifname "wan" masquerade`, fmt.Sprintf("oifname \"wan\" masquerade\n\t\tiifname \"lan\" oifname \"lan\" ct status dnat snat ip to %v", h.public),
	).Replace(rules(FullCone))
	h.lab.run("flush ruleset\n"+text, "ip", "netns", "exec", h.router, "nft", "-f", "-")
	// What it forwards back into the LAN is no reason to tell its hosts of a shorter way.
	h.lab.sysctl(h.router, "ipv4/conf/all/send_redirects", "0")
	h.lab.sysctl(h.router, "ipv4/conf/lan/send_redirects", "0")
	// With br_netfilter in the system its own packets would be bridged instead of routed, and not pass.
	_ = inNamespace(h.router, func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0) })
}

// Isolate keeps h from the other isolated hosts of its LAN, as access points do with their stations: they all
// reach the router alone.
func (h *Host) Isolate() {
	h.lab.t.Helper()
	n := h.addr.As4()[3] - 1 // see join
	h.lab.ip("-n", h.router, "link", "set", "dev", fmt.Sprintf("port%d", n), "type", "bridge_slave", "isolated", "on")
}
