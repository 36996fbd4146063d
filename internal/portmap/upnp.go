package portmap

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	ssdpPort = 1900
	mostXML  = 256 << 10

	errorConflict  = 718 // ConflictInMappingEntry
	errorSamePorts = 724 // SamePortValuesRequired
	errorPermanent = 725 // OnlyPermanentLeasesSupported
)

var ssdpGroup = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), ssdpPort)

// upnp maps by a WANIPConnection or WANPPPConnection service of UPnP IGD. Many routers let anybody remove
// anybody's mapping, so it remembers which ones are its own.
type upnp struct {
	local   netip.Addr
	client  *http.Client
	service string // its type
	control *url.URL
	lease   time.Duration
	own     map[int]struct{} // external ports that are mapped, or may be: there was no answer
}

func (u *upnp) protocol() Protocol { return UPnP }

func probeUPnP(ctx context.Context, gateway, local netip.Addr) (method, error) {
	at, err := search(ctx, gateway)
	if err != nil {
		return nil, err
	}
	u := &upnp{local: local, client: gatewayClient(gateway), lease: wantLifetime}
	if err := u.describe(ctx, gateway, at); err != nil {
		return nil, fmt.Errorf("UPnP description of %v: %w", gateway, err)
	}
	return u, nil
}

// search finds the address of the gateway's description by SSDP (UPnP Device Architecture §1.3). Only
// what the gateway says of itself counts.
func search(ctx context.Context, gateway netip.Addr) (*url.URL, error) {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	wait := 250 * time.Millisecond
	buf := make([]byte, 2048)
	for range 3 {
		for _, to := range []netip.AddrPort{netip.AddrPortFrom(gateway, ssdpPort), ssdpGroup} {
			for _, target := range []string{"InternetGatewayDevice:1", "InternetGatewayDevice:2"} {
				// A network without multicast routes refuses; the other way is enough.
				_, _ = c.WriteToUDPAddrPort([]byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n"+
					"MX: 1\r\nST: urn:schemas-upnp-org:device:"+target+"\r\n\r\n"), to)
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		wait *= 2
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			if from.Addr().Unmap() != gateway {
				continue
			}
			if at, ok := location(string(buf[:n]), gateway); ok {
				return at, nil
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, ErrNone
}

// location reads the LOCATION of an SSDP answer, which must be on the gateway itself.
func location(answer string, gateway netip.Addr) (*url.URL, bool) {
	status, rest, _ := strings.Cut(answer, "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.") || !strings.Contains(status, " 200") {
		return nil, false
	}
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !strings.EqualFold(name, "location") {
			continue
		}
		at, err := url.Parse(strings.TrimSpace(value))
		return at, err == nil && onGateway(at, gateway)
	}
	return nil, false
}

func onGateway(u *url.URL, gateway netip.Addr) bool {
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a == gateway && u.Scheme == "http" && u.User == nil
}

// gatewayClient talks to the gateway and nobody else, whatever a description or a redirect says.
func gatewayClient(gateway netip.Addr) *http.Client {
	return &http.Client{
		Timeout:       probeFor,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a redirect is not followed") },
		Transport: &http.Transport{
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 16 << 10,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(addr)
				if err != nil || to.Addr() != gateway {
					return nil, fmt.Errorf("%s is not the gateway", addr)
				}
				var d net.Dialer
				return d.DialContext(ctx, network, addr)
			},
		},
	}
}

type device struct {
	Services []struct {
		Type    string `xml:"serviceType"`
		Control string `xml:"controlURL"`
	} `xml:"serviceList>service"`
	Devices []device `xml:"deviceList>device"`
}

// describe fetches the description and looks for the service that maps ports.
func (u *upnp) describe(ctx context.Context, gateway netip.Addr, at *url.URL) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	resp, err := u.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	var root struct {
		Base   string `xml:"URLBase"`
		Device device `xml:"device"`
	}
	if err := xml.NewDecoder(http.MaxBytesReader(nil, resp.Body, mostXML)).Decode(&root); err != nil {
		return err
	}
	base := at
	if b, err := url.Parse(root.Base); root.Base != "" && err == nil && onGateway(b, gateway) {
		base = b
	}
	return u.pick(root.Device, base, gateway)
}

// pick takes the first service that maps ports, WANIPConnection:2 before others.
func (u *upnp) pick(d device, base *url.URL, gateway netip.Addr) error {
	for _, want := range []string{"WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1"} {
		want = "urn:schemas-upnp-org:service:" + want
		if control := find(d, want, 0); control != "" {
			ref, err := url.Parse(control)
			if err != nil {
				continue
			}
			if ref = base.ResolveReference(ref); !onGateway(ref, gateway) {
				continue
			}
			u.service, u.control = want, ref
			return nil
		}
	}
	return ErrNone
}

func find(d device, service string, depth int) string {
	for _, s := range d.Services {
		if s.Type == service && s.Control != "" {
			return s.Control
		}
	}
	if depth < 4 {
		for _, sub := range d.Devices {
			if c := find(sub, service, depth+1); c != "" {
				return c
			}
		}
	}
	return ""
}

func (u *upnp) add(ctx context.Context, port, external int) (netip.AddrPort, time.Duration, error) {
	ip, err := u.externalIP(ctx)
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	for try := range portTries {
		err = u.addPort(ctx, port, external)
		var soap *soapError
		if errors.As(err, &soap) && soap.code == errorPermanent && u.lease > 0 {
			u.lease = 0
			err = u.addPort(ctx, port, external)
		}
		if err == nil {
			life := u.lease
			if life == 0 {
				life = wantLifetime // it stays; renewed all the same, for routers that restart
			}
			return netip.AddrPortFrom(ip, uint16(external)), life, nil
		}
		if !errors.As(err, &soap) || soap.code != errorConflict && soap.code != errorSamePorts || try == portTries-1 {
			break
		}
		if external = randomPort(); soap.code == errorSamePorts {
			external = port
		}
	}
	return netip.AddrPort{}, 0, fmt.Errorf("%w: %w", ErrRefused, err)
}

func (u *upnp) addPort(ctx context.Context, port, external int) error {
	_, before := u.own[external]
	if u.own == nil {
		u.own = make(map[int]struct{})
	}
	u.own[external] = struct{}{} // even if the answer is lost
	_, err := u.call(ctx, "AddPortMapping", [][2]string{
		{"NewRemoteHost", ""}, {"NewExternalPort", strconv.Itoa(external)}, {"NewProtocol", "UDP"},
		{"NewInternalPort", strconv.Itoa(port)}, {"NewInternalClient", u.local.String()}, {"NewEnabled", "1"},
		{"NewPortMappingDescription", "adit"}, {"NewLeaseDuration", strconv.Itoa(int(u.lease / time.Second))},
	})
	var soap *soapError
	if errors.As(err, &soap) && (!before || soap.code == errorConflict) {
		delete(u.own, external) // it was not mapped, or is somebody else's by now
	}
	return err
}

// remove removes all that is its own, whatever external is.
func (u *upnp) remove(ctx context.Context, _, _ int) error {
	var first error
	for external := range u.own {
		_, err := u.call(ctx, "DeletePortMapping", [][2]string{
			{"NewRemoteHost", ""}, {"NewExternalPort", strconv.Itoa(external)}, {"NewProtocol", "UDP"},
		})
		if first == nil {
			first = err
		}
	}
	clear(u.own)
	return first
}

func (u *upnp) externalIP(ctx context.Context) (netip.Addr, error) {
	r, err := u.call(ctx, "GetExternalIPAddress", nil)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(strings.TrimSpace(r.External))
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}, fmt.Errorf("the router knows no external address: %w", ErrRefused)
	}
	return a, nil
}

// A soapError is what a service says of a call that failed.
type soapError struct {
	code   int
	reason string
}

func (e *soapError) Error() string { return fmt.Sprintf("UPnP error %d %.80q", e.code, e.reason) }

type soapResponse struct {
	External string `xml:"Body>GetExternalIPAddressResponse>NewExternalIPAddress"`
	Code     int    `xml:"Body>Fault>detail>UPnPError>errorCode"`
	Reason   string `xml:"Body>Fault>detail>UPnPError>errorDescription"`
}

// call does a SOAP action (UPnP Device Architecture §3.2).
func (u *upnp) call(ctx context.Context, action string, args [][2]string) (*soapResponse, error) {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:` + action + ` xmlns:u="` + u.service + `">`)
	for _, a := range args {
		b.WriteString("<" + a[0] + ">" + a[1] + "</" + a[0] + ">") // names, numbers and addresses: nothing to escape
	}
	b.WriteString(`</u:` + action + `></s:Body></s:Envelope>`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.control.String(), strings.NewReader(b.String()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
	r.Header["SOAPAction"] = []string{`"` + u.service + `#` + action + `"`} // some routers mind the case
	resp, err := u.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out soapResponse
	err = xml.NewDecoder(http.MaxBytesReader(nil, resp.Body, mostXML)).Decode(&out)
	switch {
	case err == nil && out.Code != 0:
		return nil, &soapError{out.Code, out.Reason}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: HTTP status %d", action, resp.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	return &out, nil
}
