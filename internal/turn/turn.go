// Package turn is a TURN client (RFC 8656) over UDP, TCP and TLS.
//
//	Dial ── Allocate ──> Allocation: a UDP address on the relay
//	Send(b, segment, to) ── channel of the peer, bound on first use ──> relay ──> peer
//	handler(b, segment, from) <── ChannelData, Data indications <── relay <── peer
//
// The relay passes on only what comes from addresses that were permitted: by Permit, or by sending to
// them. What the relay says is taken for what it is, the word of a stranger: every message is checked
// for its source, size and transaction, and none ends the allocation but an authenticated error or the
// end of the transport. It ends too when the time is over that the relay has granted, with no answer to
// the requests for more that are made from half of it on.
//
// Errors: [ErrURL], [ErrClosed] (a net.ErrClosed), [ErrUnauthorized], [ErrForbidden], [ErrQuota],
// [*ResponseError] for the other error codes, [ErrTimeout].
package turn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrURL is a server URL that is not one of RFC 7065, or of a kind that is not supported.
	ErrURL = errors.New("not a TURN URL")
	// ErrClosed is returned after Close. It unwraps to net.ErrClosed.
	ErrClosed = fmt.Errorf("allocation closed: %w", net.ErrClosed)
	// ErrUnauthorized is a server that does not accept the credentials (401).
	ErrUnauthorized = errors.New("the relay does not accept the credentials")
	// ErrForbidden is a server that does not relay to the peer, or at all (403).
	ErrForbidden = errors.New("the relay refuses")
	// ErrQuota is a server that has no room for another allocation of this user, or at all (486, 508).
	ErrQuota = errors.New("the relay has no room")
	// ErrTimeout is a server that does not answer.
	ErrTimeout = errors.New("the relay does not answer")
	// ErrPeers is a peer too many: 64 are known.
	ErrPeers = errors.New("too many peers on one allocation")
)

// A ResponseError is an error response of a kind without a sentinel of its own.
type ResponseError struct {
	Code   int
	Reason string // the server's, printable
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("the relay answered %d %s", e.Code, e.Reason)
}

// A Server is a TURN server with the credentials for it.
type Server struct {
	URL      string // RFC 7065: turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT][?transport=tcp]
	Username string
	Password string
}

// A transport is how the client talks to its server.
type transport struct {
	network string // "udp" or "tcp"
	tls     bool
	host    string
	port    string
}

func (t transport) addr() string { return net.JoinHostPort(t.host, t.port) }

// String names the transport as status lines do: udp, tcp or tls.
func (t transport) String() string {
	if t.tls {
		return "tls"
	}
	return t.network
}

// parseURL reads a URL of RFC 7065 §3.1. TLS over UDP (DTLS) is refused.
func parseURL(s string) (transport, error) {
	bad := func(why string) (transport, error) {
		return transport{}, fmt.Errorf("%q: %w: %s", s, ErrURL, why)
	}
	scheme, rest, ok := strings.Cut(s, ":")
	t := transport{network: "udp", port: "3478"}
	switch {
	case ok && strings.EqualFold(scheme, "turn"):
	case ok && strings.EqualFold(scheme, "turns"):
		t = transport{network: "tcp", port: "5349", tls: true}
	default:
		return bad("it begins with neither turn: nor turns:")
	}
	rest, query, asked := strings.Cut(rest, "?")
	if asked {
		switch strings.ToLower(query) {
		case "transport=udp":
			if t.tls {
				return bad("TLS goes over TCP only")
			}
		case "transport=tcp":
			t.network = "tcp"
		default:
			return bad("the transport must be udp or tcp")
		}
	}
	host, port := rest, ""
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]")
		if end < 0 {
			return bad("a bracket is missing")
		}
		host, port = rest[1:end], rest[end+1:]
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() || port != "" && port[0] != ':' {
			return bad("no IPv6 address in brackets")
		}
		port = strings.TrimPrefix(port, ":")
	} else if h, p, found := strings.Cut(rest, ":"); found {
		if host, port = h, p; port == "" || strings.Contains(p, ":") {
			return bad("an IPv6 address must be in brackets, and a port a number")
		}
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, "/@% \t\r\n") {
		return bad("there is no host in it")
	}
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("a port is a number from 1 to 65535")
		}
		t.port = port
	}
	t.host = host
	return t, nil
}

// CheckURL returns an error that wraps ErrURL if s is not the URL of a server that Dial can use.
func CheckURL(s string) error {
	_, err := parseURL(s)
	return err
}

const (
	lifetime       = 10 * time.Minute // of the allocation, asked for
	permissionEach = 4 * time.Minute  // permissions live five minutes (RFC 8656 §9); binding a channel renews them
	maxPeers       = 64
	maxWaiting     = 16 // datagrams that wait for a channel
	maxDatagram    = 1600
	maxMessage     = 2048 // of the server's STUN messages that matter, a datagram in a Data indication included
	firstRTO       = 250 * time.Millisecond
	maxTries       = 6 // 250 ms doubling: 15.75 s
	allowance      = 10 * time.Second
)
