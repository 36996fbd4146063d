package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxHostBytes = 253 // RFC 1035 section 2.3.4, as text without the final dot
	maxPathBytes = 255 // more than any system's sun_path, less than a header holds

	// abstract is in front of the name of a socket that is in no directory, as Linux has them.
	abstract = "@"
)

// A Target is where a stream goes: a TCP or UDP port of a host, or a unix socket. One with neither Host
// nor Path is the default of whoever serves the stream. A Target that came from ParseTarget is canonical: two of
// them are equal if they are written the same way.
type Target struct {
	Host string // lower-case name, with a final dot if it was written so, or an IP address without brackets; "" with Path
	Port int    // 1 to 65535; 0 with Path
	Path string // absolute and clean, or @name for an abstract socket; "" with Host
	UDP  bool   // datagrams to a UDP port; false with Path
}

// udpSuffix marks what is about datagrams: localhost:53/udp.
const udpSuffix = "/udp"

// ParseTarget reads a target as people write it: 22, :22 and localhost:22 are the same;
// host:port, [::1]:22, unix:/path and /path, unix:@name and @name. With /udp behind a port it is one for datagrams.
// The error is a sentence with an example.
func ParseTarget(s string) (Target, error) {
	if p, ok := cutPath(s); ok {
		return parsePath(p)
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
		if better, ok := withBrackets(s, ParseTarget); ok {
			return Target{}, fmt.Errorf("target %q: an IPv6 address stands in brackets, write %s", s, better)
		}
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

// CheckHere returns why this system can neither connect to t nor listen there, whatever runs, or nil: its socket has a
// path that is too long, or is an abstract one on a system without.
func (t Target) CheckHere() error {
	if t.Path == "" {
		return nil
	}
	return checkSocket(t.Path)
}

// String returns the canonical form, which ParseTarget reads: host:port, [address]:port, either with
// /udp, unix:/path or unix:@name. It is "" or "/udp" for the default target.
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
	return t == o || t.Path == "" && o.Path == "" && t.Port == o.Port && t.UDP == o.UDP &&
		(bare(t.Host) == bare(o.Host) || t.loopback() && o.loopback())
}

// bare returns a name without the dot that says that nothing is to be put behind it when it is looked up: rules do not
// tell the two apart.
func bare(host string) string { return strings.TrimSuffix(host, ".") }

func (t Target) loopback() bool {
	return t.Host == "localhost" || t.Host == "127.0.0.1" || t.Host == "::1"
}

// cutPath returns the path or the abstract name of a socket, if s is one.
func cutPath(s string) (path string, ok bool) {
	path, ok = strings.CutPrefix(s, "unix:")
	return path, ok || bareSocket(s)
}

// bareSocket reports whether s is the path or the abstract name of a socket, without unix: in front.
func bareSocket(s string) bool { return strings.HasPrefix(s, "/") || strings.HasPrefix(s, abstract) }

// withBrackets returns s with brackets around an IPv6 address that has none, if parse takes it then. A port in front
// stays one.
func withBrackets[T any](s string, parse func(string) (T, error)) (string, bool) {
	fields := strings.Split(s, ":")
	if n := len(fields); n < 3 || n > 16 || strings.ContainsAny(s, "[]") {
		return "", false
	}
	first := 0
	if digits(fields[0]) {
		first = 1
	}
	for k := range fields {
		i := (first + k) % len(fields)
		for j := len(fields); j > i+2; j-- {
			a, err := netip.ParseAddr(strings.Join(fields[i:j], ":"))
			if err != nil || a.Zone() != "" && !plainZone(a) {
				continue
			}
			better := strings.Join(append(append(slices.Clone(fields[:i]), "["+strings.Join(fields[i:j], ":")+"]"), fields[j:]...), ":")
			if _, err := parse(better); err == nil {
				return better, true
			}
		}
	}
	return "", false
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
		if !plainZone(a) {
			return "", fmt.Errorf("%q has a zone that is no interface name", s)
		}
		return a.Unmap().String(), nil
	}
	if bracket {
		return "", fmt.Errorf("%q is not an IPv6 address, write [::1]", s)
	}
	name := bare(s)
	ok := name != "" && len(name) <= maxHostBytes && s[0] != '-' && !digits(name)
	for _, c := range []byte(s) {
		ok = ok && nameByte(c)
	}
	if _, err := netip.ParseAddr(name); !ok || err == nil {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	if strings.EqualFold(s, "unix") {
		return "", errors.New("unix: in small letters begins the path of a socket, and no host has that name")
	}
	if strings.EqualFold(name, "localhost") {
		return "localhost", nil // it needs no looking up
	}
	return strings.ToLower(s), nil
}

// plainZone reports whether a's zone, if it has one, can be the name of an interface.
func plainZone(a netip.Addr) bool {
	for _, c := range []byte(a.Zone()) {
		if !nameByte(c) {
			return false
		}
	}
	return true
}

// parsePath reads the path of a unix socket, or the name of an abstract one.
func parsePath(s string) (Target, error) {
	name, isAbstract := strings.CutPrefix(s, abstract)
	switch {
	case isAbstract && name == "":
		return Target{}, errors.New("an abstract socket has a name, for example @app")
	case !isAbstract && (!strings.HasPrefix(s, "/") || path.Clean(s) == "/"):
		return Target{}, fmt.Errorf("the path of a unix socket is absolute, for example /run/app.sock, not %q", s)
	}
	if len(s) > maxPathBytes {
		return Target{}, fmt.Errorf("the path of a unix socket is at most %d bytes, this one has %d", maxPathBytes, len(s))
	}
	// It is shown on terminals, and some of those obey U+009B as they do ESC [.
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return Target{}, fmt.Errorf("the path %q has a character in it that cannot be printed", s)
	}
	if isAbstract {
		return Target{Path: s}, nil
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
