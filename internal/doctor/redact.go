package doctor

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A Redactor puts labels in the place of addresses, always the same label for the same address: private-1,
// shared-1, public-2. Ports stay, and so does what kind of address it is, because that is what a bug is
// about.
type Redactor struct {
	labels map[string]string
	counts map[string]int
}

// Redact puts labels in the place of the names of servers in the report, and returns what does so with the
// addresses in any text made from it.
func (r *Report) Redact() *Redactor {
	x := &Redactor{labels: make(map[string]string), counts: make(map[string]int)}
	var names []string
	add := func(host string) {
		if _, err := netip.ParseAddr(host); err != nil && host != "" && !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	for _, s := range r.STUN {
		add(hostOf(s.Name))
	}
	for _, t := range r.Relays {
		_, rest, _ := strings.Cut(t.URL, ":")
		rest, _, _ = strings.Cut(rest, "?")
		rest = strings.TrimPrefix(rest, "//") // of a rendezvous that did not tell
		rest, _, _ = strings.Cut(rest, "/")
		add(hostOf(rest))
	}
	if v := r.Rendezvous; v != nil {
		for _, s := range []string{v.URL, v.Proxy} {
			if u, err := url.Parse(s); err == nil {
				add(u.Hostname())
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) }) // one may be part of another
	for _, n := range names {
		whole := regexp.MustCompile(`\b` + regexp.QuoteMeta(n) + `\b`)
		for _, t := range r.texts() {
			*t = whole.ReplaceAllStringFunc(*t, func(string) string { return x.label(n, "host") })
		}
	}
	return x
}

// hostOf returns the host of HOST:PORT or HOST.
func hostOf(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && i > 0 {
		s = s[:i]
	}
	return strings.Trim(s, "[]")
}

// addressLike finds what may be an address, with the zone of one.
var addressLike = regexp.MustCompile(`[0-9A-Fa-f:.]{3,}(?:%[0-9A-Za-z._-]+)?`)

// Text returns s without addresses. It takes JSON as well: labels need no quoting.
func (x *Redactor) Text(s string) string {
	return addressLike.ReplaceAllStringFunc(s, x.address)
}

// address replaces the address in a match, which may have a port or punctuation behind it.
func (x *Redactor) address(s string) string {
	if rest, ok := strings.CutPrefix(s, ":"); ok && !strings.HasPrefix(s, "::") {
		return ":" + x.address(rest) // of turn:192.0.2.1
	}
	for end := len(s); end >= 2; end-- {
		if end < len(s) && s[end] != ':' && s[end] != '.' {
			continue // an address ends at the end, or in front of a port or a full stop
		}
		a, err := netip.ParseAddr(s[:end])
		if err != nil || a.IsUnspecified() || a.IsLoopback() {
			continue
		}
		a = a.Unmap()
		kind := "public"
		switch {
		case a.IsLinkLocalUnicast():
			kind = "link-local"
		case a.IsPrivate():
			kind = "private"
		case shared.Contains(a):
			kind = "shared"
		}
		if a.Is6() {
			kind += "6"
		}
		return x.label(a.WithZone("").String(), kind) + s[end:]
	}
	return s
}

func (x *Redactor) label(s, kind string) string {
	l, ok := x.labels[s]
	if !ok {
		x.counts[kind]++
		l = fmt.Sprintf("%s-%d", kind, x.counts[kind])
		x.labels[s] = l
	}
	return l
}
