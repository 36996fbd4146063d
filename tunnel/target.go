package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxHostBytes = 253 // RFC 1035 section 2.3.4, as text without the final dot
	maxPathBytes = 255 // more than any system's sun_path, less than a header holds
)

// A Target is where a stream goes: a TCP or UDP port of a host, or a unix socket. One with neither Host
// nor Path is the default of whoever serves the stream. A Target that came from ParseTarget is canonical: two of
// them are equal if they are written the same way.
type Target struct {
	Host string // lower-case name, or an IP address without brackets; "" with Path
	Port int    // 1 to 65535; 0 with Path
	Path string // absolute and clean; "" with Host
	UDP  bool   // datagrams to a UDP port; false with Path
}

// udpSuffix marks what is about datagrams: localhost:53/udp.
const udpSuffix = "/udp"

// ParseTarget reads a target as people write it: 22, :22 and localhost:22 are the same;
// host:port, [::1]:22, unix:/path and /path. With /udp behind a port it is one for datagrams. The error
// is a sentence with an example.
func ParseTarget(s string) (Target, error) {
	if p, ok := strings.CutPrefix(s, "unix:"); ok || strings.HasPrefix(s, "/") {
		return parsePath(p) // CutPrefix leaves a bare path as it is
	}
	if s == "" {
		return Target{}, fmt.Errorf("the target is empty: write a port, host:port or /path, for example localhost:22")
	}
	text, udp := strings.CutSuffix(s, udpSuffix)
	host, port, found := cutPort(text)
	if !found {
		if host != "" && !digits(host) {
			return Target{}, fmt.Errorf("target %q has no port: write %s:22, for example", s, bracketed(strings.Trim(host, "[]")))
		}
		host, port = "", host
	}
	n, err := parsePort(port)
	if err != nil || n == 0 {
		return Target{}, fmt.Errorf("target %q has no valid port: a port is a number from 1 to 65535, for example localhost:22", s)
	}
	if host == "" {
		host = "localhost"
	}
	if host, err = parseHost(host); err != nil {
		return Target{}, fmt.Errorf("target %q: %v", s, err)
	}
	return Target{Host: host, Port: n, UDP: udp}, nil
}

// IsDefault reports whether t leaves the choice to whoever serves it.
func (t Target) IsDefault() bool { return t.Host == "" && t.Path == "" }

// String returns the canonical form, which ParseTarget reads: host:port, [address]:port, either with
// /udp, or unix:/path. It is "" or "/udp" for the default target.
func (t Target) String() string {
	s := ""
	switch {
	case t.Path != "":
		return "unix:" + t.Path
	case t.Host != "":
		s = net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	}
	if t.UDP {
		s += udpSuffix
	}
	return s
}

// matches reports whether t and o name the same service. The three names of the loopback are one.
func (t Target) matches(o Target) bool {
	return t == o || t.Path == "" && o.Path == "" && t.Port == o.Port && t.UDP == o.UDP && t.loopback() && o.loopback()
}

func (t Target) loopback() bool {
	return t.Host == "localhost" || t.Host == "127.0.0.1" || t.Host == "::1"
}

// cutPort cuts s at the colon before a port. Brackets, if any, stay with the host.
func cutPort(s string) (host, port string, found bool) {
	end := 0
	if strings.HasPrefix(s, "[") {
		if end = strings.IndexByte(s, ']'); end < 0 {
			return s, "", false
		}
	}
	i := strings.IndexByte(s[end:], ':')
	if i < 0 {
		return s, "", false
	}
	return s[:end+i], s[end+i+1:], true
}

// parsePort reads a port from 0 to 65535. Signs, spaces and leading zeros are not taken.
func parsePort(s string) (int, error) {
	if !digits(s) || len(s) > 5 || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	n, err := strconv.Atoi(s)
	if err != nil || n > 65535 {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return n, nil
}

// parseHost returns the canonical form of a host name, an IPv4 address or an IPv6 address in brackets.
func parseHost(s string) (string, error) {
	inner, bracket := strings.CutPrefix(s, "[")
	if bracket {
		var ok bool
		if inner, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", fmt.Errorf("%q has no closing bracket, write [::1]", s)
		}
	}
	if a, err := netip.ParseAddr(inner); err == nil {
		if a.Is6() && !bracket {
			return "", fmt.Errorf("an IPv6 address stands in brackets, write [%s]", inner)
		}
		for _, c := range []byte(a.Zone()) {
			if !nameByte(c) {
				return "", fmt.Errorf("%q has a zone that is no interface name", s)
			}
		}
		return a.Unmap().String(), nil
	}
	if bracket {
		return "", fmt.Errorf("%q is not an IPv6 address, write [::1]", s)
	}
	ok := s != "" && len(s) <= maxHostBytes && s[0] != '-' && !digits(s)
	for _, c := range []byte(s) {
		ok = ok && nameByte(c)
	}
	if !ok {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	if strings.EqualFold(s, "unix") {
		return "", errors.New("unix: in small letters begins the path of a socket, and no host has that name")
	}
	return strings.ToLower(s), nil
}

func parsePath(s string) (Target, error) {
	if !strings.HasPrefix(s, "/") || path.Clean(s) == "/" {
		return Target{}, fmt.Errorf("the path of a unix socket is absolute, for example /run/app.sock, not %q", s)
	}
	if len(s) > maxPathBytes {
		return Target{}, fmt.Errorf("the path of a unix socket is at most %d bytes, this one has %d", maxPathBytes, len(s))
	}
	// It is shown on terminals, and some of those obey U+009B as they do ESC [.
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return Target{}, fmt.Errorf("the path %q has a character in it that cannot be printed", s)
	}
	return Target{Path: path.Clean(s)}, nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// bracketed puts an IPv6 address in brackets.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
