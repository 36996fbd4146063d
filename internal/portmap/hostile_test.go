package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var here = netip.MustParseAddr("127.0.0.1")

// gatewayAt answers on the port of PCP and NAT-PMP of a loopback address with what reply makes of
// each request.
func gatewayAt(t *testing.T, addr string, reply func(b []byte) [][]byte) netip.Addr {
	t.Helper()
	a := netip.MustParseAddr(addr)
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, pcpPort)))
	if err != nil {
		t.Skipf("no such address here: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, r := range reply(b[:n]) {
				_, _ = c.WriteToUDPAddrPort(r, from)
			}
		}
	}()
	return a
}

// goodPCP answers a request as a server does, from external port 7777.
func goodPCP(b []byte) []byte {
	r := append([]byte(nil), b...)
	r[1] |= pcpResponse
	r[2], r[3] = 0, 0
	if b[1] == pcpMap {
		binary.BigEndian.PutUint16(r[pcpHeader+18:], 7777)
		a := netip.MustParseAddr("20.0.0.1").As16()
		copy(r[pcpHeader+20:], a[:])
	}
	return r
}

func TestPCPAnswersThatDoNotFit(t *testing.T) {
	g := gatewayAt(t, "127.0.5.1", func(b []byte) [][]byte {
		if b[0] != pcpVersion {
			return nil
		}
		good := goodPCP(b)
		if b[1] != pcpMap {
			return [][]byte{{}, {2}, good[:20], good}
		}
		nonce, port, proto := append([]byte(nil), good...), append([]byte(nil), good...), append([]byte(nil), good...)
		nonce[pcpHeader]++
		port[pcpHeader+17]++
		proto[pcpHeader+12] = 6
		return [][]byte{nonce, port, proto, good[:pcpHeader], good[:58], good}
	})
	x, err := probePCP(t.Context(), g, here)
	if err != nil {
		t.Fatal(err)
	}
	addr, life, err := x.add(t.Context(), 4000, 4000)
	if err != nil || addr != netip.MustParseAddrPort("20.0.0.1:7777") || life != wantLifetime {
		t.Errorf("%v for %v, %v", addr, life, err)
	}
}

func TestRefusals(t *testing.T) {
	g := gatewayAt(t, "127.0.5.2", func(b []byte) [][]byte {
		switch {
		case b[0] == pcpVersion && b[1] == pcpMap:
			r := goodPCP(b)
			r[3] = 2
			return [][]byte{r}
		case b[0] == pcpVersion:
			return [][]byte{goodPCP(b)}
		case b[1] == pmpAddress:
			return [][]byte{{0, 0x80, 0, 0, 0, 0, 0, 1, 20, 0, 0, 1}}
		}
		return [][]byte{{0, 0x81, 0, 2, 0, 0, 0, 1}}
	})
	for _, p := range []func(context.Context, netip.Addr, netip.Addr) (method, error){probePCP, probePMP} {
		x, err := p(t.Context(), g, here)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.add(t.Context(), 4000, 4000); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", x.protocol(), err)
		}
	}
}

// A server of NAT-PMP alone says so to PCP.
func TestPCPOfOldServer(t *testing.T) {
	g := gatewayAt(t, "127.0.5.3", func(b []byte) [][]byte { return [][]byte{{0, b[1] | 0x80, 0, 1, 0, 0, 0, 1}} })
	began := time.Now()
	if _, err := probePCP(t.Context(), g, here); !errors.Is(err, ErrNone) || time.Since(began) > time.Second {
		t.Errorf("%v after %v, want ErrNone at once", err, time.Since(began))
	}
}

// A gateway without anything is noticed, and what the Mapper does meanwhile ends with Close.
func TestNothing(t *testing.T) {
	g := netip.MustParseAddr("127.0.5.4")
	if _, err := Survey(t.Context(), g); !errors.Is(err, ErrNone) {
		t.Errorf("%v, want ErrNone", err)
	}
	m := Open(Config{Port: 4000, Gateway: g}, func(m Mapping) { t.Errorf("found %+v", m) })
	m.Close()
}

// Whatever an answer names, the gateway is asked.
func TestLocation(t *testing.T) {
	g := netip.MustParseAddr("192.168.1.1")
	answer := func(at string) string { return "HTTP/1.1 200 OK\r\nST: x\r\nLocation: " + at + "\r\n\r\n" }
	for in, want := range map[string]string{
		"http://192.168.1.1:5000/desc.xml": "http://192.168.1.1:5000/desc.xml", "http://192.168.1.2/": "http://192.168.1.1/",
		"http://localhost:80/": "http://192.168.1.1:80/", "http://192.168.1.1@169.254.169.254/": "http://192.168.1.1/",
		"http://user@[fe80::1%25eth0]:1/x": "http://192.168.1.1:1/x",
	} {
		if u, ok := location(answer(in), g); !ok || u.String() != want {
			t.Errorf("%s: %v, %v, want %s", in, u, ok, want)
		}
	}
	for _, bad := range []string{
		"", "HTTP/1.1 200 OK", "NOTIFY * HTTP/1.1\r\nLocation: http://192.168.1.1/\r\n", "HTTP/1.1 404 no\r\nLocation: http://192.168.1.1/\r\n",
		answer("https://192.168.1.1/"), answer("file:///etc/passwd"), answer("http:192.168.1.1"), answer("/desc.xml"), answer(":"), answer(""),
	} {
		if u, ok := location(bad, g); ok {
			t.Errorf("%q: took %v", bad, u)
		}
	}
}

const description = `<root xmlns="urn:schemas-upnp-org:device-1-0">%s<device><deviceList><device><deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>%s</controlURL></service>
</serviceList></device></deviceList></device></deviceList></device></root>`

// A description cannot send us anywhere else, nor keep us, nor fill the memory.
func TestDescription(t *testing.T) {
	var elsewhere atomic.Int32
	other, err := net.Listen("tcp4", "127.0.5.6:0")
	if err != nil {
		t.Skip("no such address here")
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	srv.Listener.Close()
	srv.Listener = other
	srv.Start()
	defer srv.Close()
	for name, c := range map[string]struct {
		reply func(w http.ResponseWriter)
		ok    bool
	}{
		"good":         {func(w http.ResponseWriter) { fmt.Fprintf(w, description, "", "/ctl") }, true},
		"redirect":     {func(w http.ResponseWriter) { w.Header().Set("Location", srv.URL); w.WriteHeader(302) }, false},
		"control":      {func(w http.ResponseWriter) { fmt.Fprintf(w, description, "", srv.URL+"/ctl") }, true},
		"base ignored": {func(w http.ResponseWriter) { fmt.Fprintf(w, description, "<URLBase>"+srv.URL+"</URLBase>", "/ctl") }, true},
		"endless":      {func(w http.ResponseWriter) { endless(w) }, false},
		"deep":         {func(w http.ResponseWriter) { fmt.Fprint(w, "<root>"+strings.Repeat("<device><deviceList>", 3000)) }, false},
		"not xml":      {func(w http.ResponseWriter) { fmt.Fprint(w, "hello") }, false},
		"error":        {func(w http.ResponseWriter) { w.WriteHeader(500) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			router := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.reply(w) }))
			defer router.Close()
			at, _ := url.Parse(router.URL)
			found, err := describe(t.Context(), gatewayClient(here), here, at)
			if (err == nil) != c.ok {
				t.Fatalf("%v", err)
			}
			if c.ok && found[0].control.Hostname() != here.String() {
				t.Errorf("control at %v", found[0].control)
			}
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("somebody else was asked")
	}
}

func endless(w http.ResponseWriter) {
	fmt.Fprint(w, "<root>")
	for range 100 {
		if _, err := fmt.Fprint(w, strings.Repeat("<x/>", 4096)); err != nil {
			return
		}
	}
}

func TestPublic(t *testing.T) {
	for a, want := range map[string]bool{"20.0.0.1:1": true, "192.168.1.1:1": false, "100.64.1.1:1": false, "0.0.0.0:1": false, "127.0.0.1:1": false} {
		if got := (Mapping{External: netip.MustParseAddrPort(a)}).Public(); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(goodPCP((&pcp{local: here}).mapRequest(1, 2, time.Hour)))
	f.Add([]byte{0, 0x81, 0, 0, 0, 0, 0, 1, 0, 1, 0, 2, 0, 0, 0, 9})
	f.Add([]byte("HTTP/1.1 200 OK\r\nLOCATION: http://127.0.0.1/\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &pcp{local: here}
		parsePCP(b, pcpMap)
		p.parseMap(b, 1)
		if code, ok := parsePMP(b, pmpMapUDP, 16); ok && code == 0 && len(b) < 16 {
			t.Error("short and taken")
		}
		if u, ok := location(string(b), here); ok && u.Hostname() != here.String() {
			t.Errorf("took %v", u)
		}
	})
}
