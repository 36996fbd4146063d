package peer

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"adit/internal/reach"
)

// dialRelay connects to a relay: over TCP through the proxy that the environment names (HTTPS_PROXY,
// NO_PROXY), as the rendezvous is reached, by CONNECT (RFC 9110 §9.3.6). TLS, where there is any, is
// between this side and the relay.
func dialRelay(ctx context.Context, network, address string) (net.Conn, error) {
	var d reach.Dialer
	if network != "tcp" {
		return d.DialContext(ctx, network, address)
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", address, err)
	}
	if proxy == nil {
		return d.DialContext(ctx, network, address)
	}
	return connectThrough(ctx, proxy, address)
}

func connectThrough(ctx context.Context, proxy *url.URL, address string) (_ net.Conn, err error) {
	if proxy.Scheme != "http" && proxy.Scheme != "" {
		return nil, fmt.Errorf("reach %s through %s: only proxies with http:// are supported", address, proxy.Redacted())
	}
	at := proxy.Host
	if proxy.Port() == "" {
		at = net.JoinHostPort(proxy.Hostname(), "80")
	}
	var d reach.Dialer
	conn, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("reach the proxy %s: %w", proxy.Redacted(), err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() || err != nil {
			conn.Close()
		}
	}()
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: make(http.Header)}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := r.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the proxy %s for %s: %w", proxy.Redacted(), address, err)
	}
	// What follows the answer is the relay's: nothing may be read beyond it. A relay says nothing unasked.
	in := bufio.NewReaderSize(&byteReader{conn}, 16)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, fmt.Errorf("ask the proxy %s for %s: %w", proxy.Redacted(), address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the proxy %s does not connect to %s: HTTP status %d", proxy.Redacted(), address, resp.StatusCode)
	}
	if in.Buffered() > 0 {
		return nil, fmt.Errorf("the proxy %s adds to what %s says", proxy.Redacted(), address)
	}
	return conn, nil
}

// A byteReader gives one byte at a time.
type byteReader struct{ net.Conn }

func (r *byteReader) Read(b []byte) (int, error) { return r.Conn.Read(b[:min(1, len(b))]) }
