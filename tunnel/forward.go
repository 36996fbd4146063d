package tunnel

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const forwardExample = "write port, port:host:hostport or bind:port:host:hostport, for example 8080:localhost:80"

// A Forward is a place to listen at and where its connections go, as in ssh's -L.
type Forward struct {
	// Bind is "localhost" (127.0.0.1, and ::1 too if that is free), "*" (all interfaces), an IP address
	// without brackets, or a host name. It is "" with Path.
	Bind string
	Port int    // 0 to 65535; 0 takes any free port
	Path string // a unix socket to listen at instead of a port; absolute, or @name

	Target Target // the zero Target is the peer's default; with UDP set, datagrams are listened for
}

// ParseForward reads ssh's grammar:
//
//	port                          to the peer's default target
//	bind:port                     the same
//	port:host:hostport
//	bind:port:host:hostport
//	port:/path, bind:port:/path   to a unix socket
//	/path, /path:host:hostport, /path:/path
//	@name in the place of any path: an abstract socket
//	port/udp, port:host:hostport/udp, bind:port:host:hostport/udp
//
// IPv6 addresses stand in brackets. An empty bind or * is all interfaces, no bind is the loopback.
// A socket path to listen at has no colon in it. The error is a sentence with an example.
func ParseForward(s string) (Forward, error) {
	f, err := parseForward(s)
	if err != nil {
		if better, ok := withBrackets(s, parseForward); ok {
			return Forward{}, fmt.Errorf("forward %q: an IPv6 address stands in brackets, write %s", s, better)
		}
		return Forward{}, err
	}
	return f, nil
}

func parseForward(s string) (Forward, error) {
	var f Forward
	var rest string
	var more bool
	if p, ok := cutPath(s); ok {
		p, rest, more = strings.Cut(p, ":")
		t, err := parsePath(p)
		if err != nil {
			return Forward{}, fmt.Errorf("forward %q: %v", s, err)
		}
		f.Path = t.Path
	} else {
		text := s
		if !strings.Contains(s, ":/") && !strings.Contains(s, ":"+abstract) && !strings.Contains(s, ":unix:") { // the path of a socket may end like that
			text, f.Target.UDP = strings.CutSuffix(s, udpSuffix)
		}
		first, after, found := cutPort(text)
		port := first
		rest, more = after, found
		f.Bind = "localhost"
		if !digits(first) {
			if !found {
				return Forward{}, fmt.Errorf("forward %q has no port: %s", s, forwardExample)
			}
			var err error
			if f.Bind, err = parseBind(first); err != nil {
				return Forward{}, fmt.Errorf("forward %q: %v; %s", s, err, forwardExample)
			}
			port, rest, more = strings.Cut(after, ":")
		}
		var err error
		if f.Port, err = parsePort(port); err != nil {
			return Forward{}, fmt.Errorf("forward %q: %v, which is a number from 0 to 65535; %s", s, err, forwardExample)
		}
	}
	if !more {
		return f, nil
	}
	if digits(rest) {
		return Forward{}, fmt.Errorf("forward %q has a port and no host for its target: write %s:localhost:%s", s, strings.TrimSuffix(s, ":"+rest), rest)
	}
	t, err := ParseTarget(rest)
	if err != nil {
		return Forward{}, fmt.Errorf("forward %q: %v; %s", s, err, forwardExample)
	}
	if t.UDP && f.Path != "" {
		return Forward{}, fmt.Errorf("forward %q: datagrams are listened for at a port, not at a unix socket; write 5353:%s", s, t)
	}
	t.UDP = t.UDP || f.Target.UDP
	f.Target = t
	return f, nil
}

// Place returns where f listens in canonical form, as policies know it: host:port, host:port/udp or
// unix:/path or unix:@name. The host may be *, and the port 0.
func (f Forward) Place() string {
	return Target{Host: f.Bind, Port: f.Port, Path: f.Path, UDP: f.Target.UDP}.String()
}

// String returns the canonical form, which ParseForward reads.
func (f Forward) String() string {
	s := f.Path
	if s == "" {
		if s = strconv.Itoa(f.Port); f.Bind != "localhost" {
			s = bracketed(f.Bind) + ":" + s
		}
	}
	switch {
	case f.Target.IsDefault() && f.Target.UDP:
		return s + udpSuffix
	case f.Target.IsDefault():
		return s
	case f.Target.Path != "":
		return s + ":" + f.Target.Path
	}
	return s + ":" + f.Target.String()
}

// parseBind returns the canonical form of an address to listen at.
func parseBind(s string) (string, error) {
	if s == "" || s == "*" {
		return "*", nil
	}
	host, err := parseHost(s)
	if err != nil {
		return "", err
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsMulticast() {
		return "", fmt.Errorf("%s is a multicast address", host)
	}
	return host, nil
}
