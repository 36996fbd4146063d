package portmap

import (
	"bytes"
	"html"
	"iter"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxServices bounds what one description may name.
const maxServices = 8

// elements yields each start tag of a document with the text that follows it, and each end tag, as "/name",
// with none. Names are in lower case and without a prefix. It is a reader of tags and not of XML: routers
// send documents that declare one charset and use another, hold bytes of none, open what they do not close,
// have bare ampersands, and end in the middle. What those break is not what is looked for.
func elements(doc []byte) iter.Seq2[string, string] {
	doc = bytes.ReplaceAll(doc, []byte{0}, nil) // what of UTF-16 is ASCII is left
	return func(yield func(name, text string) bool) {
		for {
			at := bytes.IndexByte(doc, '<')
			if at < 0 {
				return
			}
			doc = doc[at+1:]
			if rest, ok := bytes.CutPrefix(doc, []byte("!--")); ok {
				_, doc, _ = bytes.Cut(rest, []byte("-->"))
				continue
			}
			tag, rest, ok := bytes.Cut(doc, []byte(">"))
			if !ok || bytes.IndexByte(tag, '<') >= 0 {
				continue // no tag; the next one begins at that '<'
			}
			doc = rest
			name := tagName(tag)
			if name == "" {
				continue
			}
			text := ""
			if name[0] != '/' && !bytes.HasSuffix(tag, []byte("/")) {
				text = textOf(doc)
			}
			if !yield(name, text) {
				return
			}
		}
	}
}

// tagName returns the name in a tag, "" if it is no element's.
func tagName(tag []byte) string {
	s := strings.TrimSpace(string(tag))
	s, end := strings.CutPrefix(s, "/")
	if i := strings.IndexAny(s, " \t\r\n/"); i >= 0 {
		s = s[:i]
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		s = s[i+1:]
	}
	if s == "" || s[0] == '?' || s[0] == '!' {
		return ""
	}
	s = strings.ToLower(s)
	if end {
		return "/" + s
	}
	return s
}

// textOf returns the text at the head of doc, up to the next tag.
func textOf(doc []byte) string {
	trimmed := bytes.TrimLeft(doc, " \t\r\n")
	if rest, ok := bytes.CutPrefix(trimmed, []byte("<![CDATA[")); ok {
		inside, _, _ := bytes.Cut(rest, []byte("]]>"))
		return clean(string(inside))
	}
	text, _, _ := bytes.Cut(doc, []byte("<"))
	return clean(html.UnescapeString(string(text)))
}

// clean leaves out what is no text.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r == '\uFEFF' || r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s))
}

// A service is one that maps ports: a connection of the router's to the outside.
type service struct {
	kind    string // the service type, as the router writes it
	control *url.URL
}

// services finds those in a description that was fetched from at, WANIPConnection:2 before others. readable
// reports whether it is a description at all.
func services(doc []byte, at *url.URL, gateway netip.Addr) (found []service, readable bool) {
	base, kind, control := at, "", ""
	for name, text := range elements(doc) {
		switch name {
		case "urlbase":
			if b, err := url.Parse(text); err == nil && b.IsAbs() && toGateway(b, gateway) {
				base = b
			}
		case "device", "devicetype":
			readable = true
		case "service":
			kind, control = "", ""
		case "servicetype":
			kind = text
		case "controlurl":
			control = text
		}
		if kind == "" || control == "" {
			continue
		}
		s := service{kind, nil}
		ref, err := url.Parse(control)
		if kind, control = "", ""; err != nil || s.rank() < 0 {
			continue
		}
		if s.control = base.ResolveReference(ref); toGateway(s.control, gateway) && len(found) < maxServices {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b service) int { return a.rank() - b.rank() })
	return found, readable
}

// rank orders the types of services that map ports; it is negative for all others.
func (s service) rank() int {
	kind := strings.ToLower(s.kind)
	if strings.ContainsAny(kind, "\"<>&") {
		return -1 // it goes into a request as it is
	}
	switch {
	case strings.Contains(kind, ":wanipconnection:2"):
		return 0
	case strings.Contains(kind, ":wanipconnection:"):
		return 1
	case strings.Contains(kind, ":wanpppconnection:"):
		return 2
	}
	return -1
}

// toGateway makes u a URL of the gateway: routers name themselves by addresses of other interfaces, and by
// names that only they resolve. false means that u is none for HTTP.
func toGateway(u *url.URL, gateway netip.Addr) bool {
	if !strings.EqualFold(u.Scheme, "http") || u.Opaque != "" || u.Hostname() == "" {
		return false
	}
	u.Scheme, u.User = "http", nil
	port := u.Port()
	if u.Host = gateway.String(); port != "" {
		u.Host += ":" + port
	}
	return true
}
