package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"adit/internal/testtier"
)

// faults are what routers do wrong and a port can be mapped all the same.
var faults = []struct {
	name string
	make func(*igd)
}{
	{"declares ISO-8859-1", doc(declared("ISO-8859-1"))},
	{"declares windows-1252", doc(declared("windows-1252"), replace("router", "R\x80uter \x99"))},
	{"declares a charset of its own", doc(declared("x-router-9"))},
	{"declares XML 1.1", doc(replace(`version="1.0"`, `version="1.1"`))},
	{"UTF-16", func(r *igd) { r.encode = utf16le }},
	{"bytes that are no UTF-8", doc(replace("router", "Mod\xe8le \xff\xfe"))},
	{"control characters", doc(replace("router", "a\x00b\x01c\x1f"))},
	{"a byte order mark and blank lines", doc(func(s string) string { return "\ufeff\n\r\n" + s })},
	{"a bare ampersand", doc(replace("router", "Smith & Sons &co; <3"))},
	{"tags that do not match", doc(replace("</specVersion>", "</spec>"), replace("</friendlyName>", ""))},
	{"tags in capitals, with spaces", doc(replace("<serviceType>", "<ServiceType >"), replace("</serviceType>", "</ServiceType >"))},
	{"prefixed tags", doc(replace("<service>", "<d:service>"), replace("<controlURL>", "<d:controlURL>"), replace("</controlURL>", "</d:controlURL>"))},
	{"spaces around values", doc(replace("<controlURL>", "<controlURL>\r\n\t "), replace("</controlURL>", " \n</controlURL>"))},
	{"a CDATA section", doc(func(s string) string {
		return regexp.MustCompile("(controlURL>)([^<]*)<").ReplaceAllString(s, "$1 <![CDATA[$2]]><")
	})},
	{"cut", doc(func(s string) string { return s[:strings.LastIndex(s, "<eventSubURL>")] })},
	{"rubbish at the end", doc(func(s string) string { return s + "</root></root>\x00\x00<" })},
	{"a service commented out", doc(replace("<serviceList>", "<serviceList><!-- <service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:2</serviceType><controlURL>/no</controlURL></service> -->"))},
	{"a longer body announced than sent", func(r *igd) { r.length = 400 }},
	{"a redirect", func(r *igd) { r.redirects = true }},
	{"slow", func(r *igd) { r.slow = 30 * time.Millisecond }},
	{"a location with another address of its own", func(r *igd) {
		r.location = func(s string) string { return strings.Replace(s, r.addr.String(), "192.168.100.1", 1) }
	}},
	{"a location with a name", func(r *igd) {
		r.location = func(s string) string { return strings.Replace(s, r.addr.String(), "my.router", 1) }
	}},
	{"a base elsewhere", func(r *igd) {
		r.control = func(s string) string { return "http://192.168.100.1:" + port(r) + s }
		r.base = "http://192.168.100.1:" + port(r) + "/"
	}},
	{"a base that is none", func(r *igd) { r.base = "/igd" }},
	{"a control URL without a slash", func(r *igd) { r.control = func(s string) string { return s[1:] } }},
	{"other descriptions first", func(r *igd) { r.others = 2 }},
	{"answers as a root device only", func(r *igd) { r.targets = "rootdevice" }},
	{"answers as a service only", func(r *igd) { r.targets = "service:WAN" }},
	{"answers to ssdp:all only", func(r *igd) { r.targets = "ssdp:all" }},
	{"answers as IGD 2 only", func(r *igd) { r.targets = "GatewayDevice:2" }},
	{"answers from another port", func(r *igd) { r.otherPort = true }},
	{"bare line feeds", func(r *igd) {
		r.ssdp = func(l string) string { return "HTTP/1.0 200 ok\nlocation :" + l + "\nST: x\n\n" }
	}},
	{"a PPP service", func(r *igd) { r.services = []string{"WANPPPConnection:1"} }},
	{"a service of version 2", func(r *igd) { r.services = []string{"WANIPConnection:2"} }},
	{"a service that is not connected", func(r *igd) { r.services = []string{"WANIPConnection:2", "WANPPPConnection:1"} }},
	{"three services, and none knows its state", func(r *igd) {
		r.services, r.status = []string{"WANIPConnection:1", "WANIPConnection:1", "WANPPPConnection:1"}, false
	}},
	{"725 for leases", leased(725, 0, 0)},
	{"402 for leases", leased(402, 0, 0)},
	{"501 for leases", leased(501, 0, 0)},
	{"an error of its own for leases", leased(899, 0, 0)},
	{"402 above an hour", leased(402, 1, 3600)},
	{"501 but for minutes", leased(501, 1, 900)},
	{"718 for the port", func(r *igd) { r.port = portIs(718) }},
	{"501 for the port", func(r *igd) { r.port = portIs(501) }},
	{"729 for the port", func(r *igd) { r.port = portIs(729) }},
	{"718 for its own mapping", func(r *igd) { r.renew718 = true }},
	{"does not tell of mappings", func(r *igd) { r.amnesia = true }},
	{"no address", func(r *igd) { r.address = "" }},
	{"0.0.0.0", func(r *igd) { r.address = "0.0.0.0" }},
	{"a fault in place of the address", func(r *igd) { r.address = "fault" }},
	{"a private address", func(r *igd) { r.address = "10.77.1.2" }},
	{"faults with status 200", func(r *igd) { r.status200 = true }},
	{"faults without a code", func(r *igd) {
		r.fault = "<s:Envelope><s:Body><s:Fault><faultstring>no</faultstring></s:Fault></s:Body></s:Envelope>"
	}},
	{"faults without a body", func(r *igd) { r.fault = "" }},
	{"answers that are cut", func(r *igd) {
		r.reply = func(s string) string { return strings.TrimSuffix(s, "</s:Body></s:Envelope>") }
	}},
	{"answers with bytes that are no UTF-8", func(r *igd) { r.reply = func(s string) string { return "<!-- \xff\x00 & -->" + s } }},
}

func doc(change ...func(string) string) func(*igd) {
	return func(r *igd) { r.document = append(r.document, change...) }
}

func replace(old, by string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, old, by) }
}

func declared(charset string) func(string) string {
	return replace(`<?xml version="1.0"?>`, `<?xml version="1.0" encoding="`+charset+`"?>`)
}

func utf16le(s string) string {
	b := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return string(b)
}

func port(r *igd) string {
	u := "http://" + r.web.Addr().String()
	return u[strings.LastIndexByte(u, ':')+1:]
}

// leased refuses leases outside of the bounds, in seconds.
func leased(code, least, most int) func(*igd) {
	return func(r *igd) {
		r.lease = func(s int) int {
			if s < least || s > most {
				return code
			}
			return 0
		}
	}
}

// portIs refuses the port that the test wants.
func portIs(code int) func(port, internal int) int {
	return func(port, internal int) int {
		if port == internal {
			return code
		}
		return 0
	}
}

// impossible is a pair that leaves no way: such a router's own mapping looks like another host's.
func impossible(a, b string) bool {
	return strings.Contains(a, "718 for its own") && strings.Contains(b, "does not tell")
}

// mapsAndRemoves has the router map a port, again, and give it back.
func mapsAndRemoves(t *testing.T, r *igd) {
	t.Helper()
	local := netip.MustParseAddr("127.0.0.1")
	x, err := probeUPnP(t.Context(), r.addr, local)
	if err != nil {
		t.Fatalf("probe: %v", err)
	}
	external := 4000
	for range 2 {
		addr, life, err := x.add(t.Context(), 4000, external)
		if err != nil {
			t.Fatalf("add: %v; asked %q", err, r.requests)
		}
		external = int(addr.Port())
		if got := r.mapped[external]; !strings.HasPrefix(got, "127.0.0.1:4000 ") || life <= 0 {
			t.Fatalf("told %v for %v, mapped %v; asked %q", addr, life, r.mapped, r.requests)
		}
		if _, err := netip.ParseAddr(r.address); (err != nil || r.address == "0.0.0.0") != (Mapping{External: addr}).Unnamed() {
			t.Errorf("told %v of a router at %q", addr, r.address)
		}
	}
	if !x.check(t.Context(), 4000, external) {
		t.Error("forgotten")
	}
	if len(r.requests) > 60 {
		t.Errorf("asked %d times", len(r.requests))
	}
	if err := x.remove(t.Context(), 4000, external); err != nil || len(r.mapped) > 0 {
		t.Errorf("removed: %v; still %v", err, r.mapped)
	}
}

// TestSloppyRouters: a router with any of the faults, and with any two of them, maps the port. All pairs are
// tried in the long tier, else one in 16, others each time.
func TestSloppyRouters(t *testing.T) {
	long := testtier.IsLong()
	for i, a := range faults {
		for j, b := range faults[i:] {
			if impossible(a.name, b.name) || j > 0 && !long && rand.N(16) > 0 {
				continue
			}
			name := a.name + " and " + b.name
			if j == 0 {
				name = a.name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := newIGD()
				r.start(t, fmt.Sprintf("127.9.%d.%d", i+1, j+1))
				a.make(r)
				if j > 0 {
					b.make(r)
				}
				mapsAndRemoves(t, r)
			})
		}
	}
}

// TestRouterErrors: what keeps a port from being mapped is told apart.
func TestRouterErrors(t *testing.T) {
	for i, c := range []struct {
		name string
		make func(*igd)
		want error
	}{
		{"silent", func(r *igd) { r.targets = "nothing" }, ErrNone},
		{"no service", func(r *igd) { r.services = nil }, ErrNone},
		{"no description", doc(func(string) string { return "<html><body>Log in</body></html>" }), ErrUnreadable},
		{"slow", func(r *igd) { r.slow = time.Minute }, ErrSlow},
		{"refuses", func(r *igd) { r.lease = func(int) int { return 606 } }, ErrRefused},
		{"refuses all", func(r *igd) { r.lease = func(int) int { return 501 } }, ErrRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := newIGD()
			c.make(r)
			slow := r.slow
			r.slow = 0
			r.start(t, fmt.Sprintf("127.9.100.%d", i+1))
			client := gatewayClient(r.addr)
			if slow > 0 {
				client.Timeout = time.Millisecond
				r.slow = 2 * time.Second
			}
			found, err := discover(ctx, client, r.addr)
			if err == nil {
				u := &upnp{gateway: r.addr, local: here, client: client, services: found, lease: leases[0], own: make(map[int]service)}
				_, _, err = u.add(ctx, 4000, 4000)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if len(r.requests) > 20 {
				t.Errorf("asked %d times", len(r.requests))
			}
		})
	}
}

// TestForgetful: a router that has lost its mappings is found out, and one that has its services elsewhere too.
func TestForgetful(t *testing.T) {
	r := newIGD()
	r.start(t, "127.9.101.1")
	x, err := probeUPnP(t.Context(), r.addr, here)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.add(t.Context(), 4000, 4000); err != nil {
		t.Fatal(err)
	}
	clear(r.mapped)
	if x.check(t.Context(), 4000, 4000) {
		t.Error("not noticed")
	}
	r.mapped[4000] = "192.168.1.9:4000 7200"
	if x.check(t.Context(), 4000, 4000) {
		t.Error("not noticed that another host has it")
	}
	clear(r.mapped)
	r.mu.Lock()
	r.services = []string{"WANIPConnection:1", "WANIPConnection:1"}
	r.mu.Unlock()
	x.(*upnp).services[0].control, _ = url.Parse("http://127.9.101.1:1/ctl/0") // where nobody listens any more
	if addr, _, err := x.add(t.Context(), 4000, 4000); err != nil || r.mapped[int(addr.Port())] == "" {
		t.Errorf("%v, %v: mapped %v", addr, err, r.mapped)
	}
}

func FuzzDescription(f *testing.F) {
	r := newIGD()
	f.Add([]byte(r.description()))
	f.Add([]byte(utf16le(r.description())))
	f.Add([]byte("<a><![CDATA[x]]></a><!-- <b> --><c d='>'>&amp;&#0;</c"))
	at, _ := url.Parse("http://127.0.0.1/d.xml")
	f.Fuzz(func(t *testing.T, b []byte) {
		found, _ := services(b, at, here)
		for _, s := range found {
			if s.control.Hostname() != here.String() || s.control.Scheme != "http" || strings.ContainsAny(s.kind, "\"<>&") {
				t.Errorf("took %q at %v", s.kind, s.control)
			}
		}
		if len(found) > maxServices {
			t.Errorf("%d services", len(found))
		}
		for name, text := range elements(b) {
			if name == "" || strings.ContainsAny(name, "<>") || strings.ContainsAny(text, "\x00\n") {
				t.Errorf("%q: %q", name, text)
			}
		}
	})
}
