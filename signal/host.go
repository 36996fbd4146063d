package signal

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// HostHeader tells the rendezvous the host of the URL that the client was given. A reverse proxy that does not pass
// Host on passes this.
const HostHeader = "Adit-Host"

// Reachable reports whether a host name or address may mean the same machine elsewhere: it is no loopback address, and
// no name without a domain.
func Reachable(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return !a.IsLoopback() && !a.IsUnspecified() && !a.Unmap().IsLoopback()
	}
	return strings.Contains(strings.Trim(host, "."), ".") && !strings.HasSuffix(strings.TrimSuffix(host, "."), ".localhost")
}

// ownHost returns the host of the client's URL in the place of one that only means something on the server: a
// reverse proxy has hidden what the client asked for.
func (c *Client) ownHost(host string) string {
	u, err := url.Parse(strings.TrimSpace(c.URL))
	if err != nil || Reachable(host) || !Reachable(u.Hostname()) {
		return host
	}
	return u.Hostname()
}

// atOwnHost is ownHost for the host in a TURN URL (RFC 7065).
func (c *Client) atOwnHost(turn string) string {
	scheme, rest, _ := strings.Cut(turn, ":")
	rest, query, asked := strings.Cut(rest, "?")
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		host, port = strings.Trim(rest, "[]"), ""
	}
	own := c.ownHost(host)
	if own == host {
		return turn
	}
	if port != "" {
		own = net.JoinHostPort(own, port)
	} else if strings.Contains(own, ":") {
		own = "[" + own + "]"
	}
	if asked {
		own += "?" + query
	}
	return scheme + ":" + own
}
