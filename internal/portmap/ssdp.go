package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	ssdpPort     = 1900
	mostXML      = 256 << 10
	maxLocations = 4 // descriptions that are read of one router
)

var ssdpGroup = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), ssdpPort)

// searchRounds are what a router may answer to, the likeliest first. Some know themselves only by the service, or
// as a root device. All at once are too much for some: each answer to ssdp:all is a dozen packets.
var searchRounds = []struct {
	targets []string
	wait    time.Duration
}{
	{[]string{"urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2"}, 250 * time.Millisecond},
	{[]string{"urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
		"urn:schemas-upnp-org:service:WANIPConnection:1", "urn:schemas-upnp-org:service:WANPPPConnection:1", "upnp:rootdevice"}, 500 * time.Millisecond},
	{[]string{"ssdp:all"}, 1500 * time.Millisecond},
}

// discover finds the services of the gateway that map ports. A router may have several descriptions; the
// first that has such a service counts. Where there is none the error says why: nobody answered (ErrNone), in
// time (ErrSlow), or what can be read (ErrUnreadable).
func discover(ctx context.Context, client *http.Client, gateway netip.Addr) ([]service, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		services []service
		err      error
	}
	results := make(chan result, maxLocations+1) // room for all that is started below
	go func() {
		results <- result{err: search(ctx, gateway, func(at *url.URL) {
			go func() {
				s, err := describe(ctx, client, gateway, at)
				results <- result{s, err}
			}()
		})}
	}()
	var worst error = ErrNone
	for read, all := 0, -1; read != all; { // all is not known before the search is over
		r := <-results
		if len(r.services) > 0 {
			return r.services, nil
		}
		if n := new(searched); errors.As(r.err, &n) {
			all = n.locations
			continue
		}
		read++
		if !errors.Is(r.err, ErrNone) {
			worst = r.err
		}
	}
	return nil, worst
}

// A searched says how many descriptions a search has found.
type searched struct{ locations int }

func (s *searched) Error() string { return fmt.Sprintf("%d descriptions", s.locations) }

// search looks for descriptions by SSDP (UPnP Device Architecture §1.3) and calls found with the address of
// each. Only what the gateway says of itself counts. It returns a *searched when it is over.
func search(ctx context.Context, gateway netip.Addr, found func(*url.URL)) error {
	seen := make(map[string]struct{})
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return &searched{} // out of sockets
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	buf := make([]byte, 2048)
	for _, round := range searchRounds {
		for _, to := range []netip.AddrPort{netip.AddrPortFrom(gateway, ssdpPort), ssdpGroup} {
			for _, target := range round.targets {
				// A network without multicast routes refuses; the other way is enough.
				_, _ = c.WriteToUDPAddrPort([]byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n"+
					"MX: 1\r\nST: "+target+"\r\n\r\n"), to)
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(round.wait)) // fails only when closed
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, net.ErrClosed) {
				break
			}
			if err != nil || from.Addr().Unmap() != gateway {
				continue // an error tells of what was sent
			}
			at, ok := location(string(buf[:n]), gateway)
			if _, known := seen[at.String()]; !ok || known || len(seen) == maxLocations {
				continue
			}
			seen[at.String()] = struct{}{}
			found(at)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return &searched{len(seen)}
}

// location reads the LOCATION of an SSDP answer. What it names is taken to be on the gateway.
func location(answer string, gateway netip.Addr) (*url.URL, bool) {
	status, rest, _ := strings.Cut(answer, "\n")
	none := new(url.URL)
	if !strings.HasPrefix(status, "HTTP/1.") || !strings.Contains(status, " 200") {
		return none, false
	}
	for line := range strings.Lines(rest) {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "location") {
			continue
		}
		at, err := url.Parse(strings.TrimSpace(value))
		if err != nil || !toGateway(at, gateway) {
			return none, false
		}
		return at, true
	}
	return none, false
}

// gatewayClient talks to the gateway and nobody else, whatever a description or a redirect says.
func gatewayClient(gateway netip.Addr) *http.Client {
	return &http.Client{
		Timeout: answerFor,
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			return nil
		},
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

// describe fetches a description and looks for the services that map ports. What came before the connection
// broke counts.
func describe(ctx context.Context, client *http.Client, gateway netip.Addr, at *url.URL) ([]service, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, unreadable(at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %v: HTTP status %d", ErrUnreadable, at, resp.StatusCode)
	}
	doc, broken := io.ReadAll(io.LimitReader(resp.Body, mostXML))
	found, readable := services(doc, at, gateway)
	switch {
	case len(found) > 0:
		return found, nil
	case broken != nil:
		return nil, unreadable(at, broken)
	case !readable:
		return nil, fmt.Errorf("%w: %v", ErrUnreadable, at)
	case len(doc) == mostXML:
		return nil, fmt.Errorf("%w: %v has more than %d bytes", ErrUnreadable, at, mostXML)
	}
	return nil, ErrNone
}

// unreadable tells a router that takes its time from one that sends rubbish.
func unreadable(at *url.URL, err error) error {
	if silent(err) {
		return fmt.Errorf("%w: %v: %w", ErrSlow, at, err)
	}
	return fmt.Errorf("%w: %v: %w", ErrUnreadable, at, err)
}
