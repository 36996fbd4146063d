package reach

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// A ProxyError is a proxy that does not let a connection through, or cannot be reached.
type ProxyError struct {
	Proxy  string // its URL without a password
	Status int    // what it answered; 0 if it did not answer in HTTP
	Err    error  // what went wrong; nil if Status says it
}

func (e *ProxyError) Error() string {
	switch {
	case e.Status == http.StatusProxyAuthRequired || e.Status == http.StatusUnauthorized:
		return fmt.Sprintf("the proxy %s wants another name and password (%d)", e.Proxy, e.Status)
	case e.Status == http.StatusForbidden || e.Status == http.StatusMethodNotAllowed:
		return fmt.Sprintf("the proxy %s does not allow this connection (%d)", e.Proxy, e.Status)
	case e.Status != 0:
		return fmt.Sprintf("the proxy %s does not connect (%d)", e.Proxy, e.Status)
	}
	return fmt.Sprintf("the proxy %s: %v", e.Proxy, e.Err)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// ProxyFor returns the proxy that the environment names for a URL: HTTPS_PROXY or HTTP_PROXY, ALL_PROXY where these
// are not set, and none for what NO_PROXY lists and for this machine itself. Schemes are http, https, socks5 and
// socks5h; with both of the last the proxy resolves names.
func ProxyFor(u *url.URL) (*url.URL, error) {
	cfg := httpproxy.FromEnvironment()
	all := os.Getenv("ALL_PROXY")
	if all == "" {
		all = os.Getenv("all_proxy")
	}
	if cfg.HTTPProxy == "" {
		cfg.HTTPProxy = all
	}
	if cfg.HTTPSProxy == "" {
		cfg.HTTPSProxy = all
	}
	p, err := cfg.ProxyFunc()(u)
	if p == nil || err != nil {
		return nil, err
	}
	switch p.Scheme {
	case "http", "https", "socks5", "socks5h":
		return p, nil
	}
	return nil, fmt.Errorf("the proxy %s: only http://, https://, socks5:// and socks5h:// are known", p.Redacted())
}

// ProxyForRequest is ProxyFor as http.Transport.Proxy has it.
func ProxyForRequest(r *http.Request) (*url.URL, error) { return ProxyFor(r.URL) }

// RefusedByProxy is for http.Transport.OnProxyConnectResponse: it names a proxy that refuses.
func RefusedByProxy(_ context.Context, p *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{Proxy: p.Redacted(), Status: resp.StatusCode}
}

// NameProxy returns an error of http.Transport's as that of the SOCKS proxy on the way to u, if it is one.
func NameProxy(u *url.URL, err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "socks connect" {
		return err
	}
	p, perr := ProxyFor(u)
	if p == nil || perr != nil {
		return err
	}
	return &ProxyError{Proxy: p.Redacted(), Err: op.Err}
}

// DialThrough connects to a HOST:PORT, over TCP through the proxy that the environment names for https:// there, by
// CONNECT (RFC 9110 §9.3.6) or SOCKS 5 (RFC 1928). Of other networks proxies know nothing.
func DialThrough(ctx context.Context, network, address string) (net.Conn, error) {
	return DialFor("https")(ctx, network, address)
}

// DialFor returns DialThrough with the proxy for another scheme than https.
func DialFor(scheme string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var d Dialer
		if network != "tcp" {
			return d.DialContext(ctx, network, address)
		}
		p, err := ProxyFor(&url.URL{Scheme: scheme, Host: address})
		if err != nil {
			return nil, err
		}
		if p == nil {
			return d.DialContext(ctx, network, address)
		}
		return through(ctx, p, address)
	}
}

func through(ctx context.Context, p *url.URL, address string) (net.Conn, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	at := net.JoinHostPort(p.Hostname(), ports[p.Scheme])
	if p.Port() != "" {
		at = p.Host
	}
	failed := func(err error) error {
		var known *ProxyError
		if errors.As(err, &known) {
			return err
		}
		return &ProxyError{Proxy: p.Redacted(), Err: err}
	}
	var d Dialer
	if strings.HasPrefix(p.Scheme, "socks5") {
		var auth *proxy.Auth
		if p.User != nil {
			password, _ := p.User.Password()
			auth = &proxy.Auth{User: p.User.Username(), Password: password}
		}
		s, err := proxy.SOCKS5("tcp", at, auth, &d)
		if err != nil {
			return nil, failed(err)
		}
		c, err := s.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) && op.Op == "socks connect" {
				err = op.Err // the addresses around it say nothing more
			}
			return nil, failed(err)
		}
		return c, nil
	}
	conn, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, failed(err)
	}
	if p.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: p.Hostname()})
	}
	if err := connect(ctx, conn, p, address); err != nil {
		conn.Close()
		return nil, failed(err)
	}
	return conn, nil
}

// connect asks the proxy at the other end of conn for an address.
func connect(ctx context.Context, conn net.Conn, p *url.URL, address string) (err error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
	}()
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: make(http.Header)}
	if u := p.User; u != nil {
		password, _ := u.Password()
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := r.Write(conn); err != nil {
		return err
	}
	// What follows the answer is the server's: nothing may be read beyond it. Servers say nothing unasked.
	in := bufio.NewReaderSize(&byteReader{conn}, 16)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &ProxyError{Proxy: p.Redacted(), Status: resp.StatusCode}
	}
	if in.Buffered() > 0 {
		return errors.New("it adds to what the server says")
	}
	return nil
}

// Dial is DialContext without a context, for those who ask for it.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// A byteReader gives one byte at a time.
type byteReader struct{ net.Conn }

func (r *byteReader) Read(b []byte) (int, error) { return r.Conn.Read(b[:min(1, len(b))]) }
