package signal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"syscall"
	"time"

	"adit/internal/reach"
)

const (
	// resolveFor is how long DNS may take to answer for a rendezvous. Its servers are asked again meanwhile.
	resolveFor = 2500 * time.Millisecond

	// probeFor bounds the look whether a server that refuses HTTP speaks TLS.
	probeFor = 2 * time.Second
)

// A Fault is a failure to talk to a rendezvous whose cause is known. Nothing that the peer does can mend it.
type Fault struct {
	Problem string // one sentence without a capital and a period; it names the server
	Hint    string // what to do about it
	Err     error  // what was seen on the way; may be nil

	lasting bool // another try sees the same
}

func (f *Fault) Error() string { return f.Problem }
func (f *Fault) Unwrap() error { return f.Err }

// RetryAfter returns how long the rendezvous asked to wait before another request, at most an hour; 0 if it did not.
func RetryAfter(err error) time.Duration {
	var re *replyError
	if errors.As(err, &re) {
		return re.retry
	}
	return 0
}

// notRendezvous is the fault of a server that answers, and not as adit serve does.
func (c *Client) notRendezvous(err error) error {
	return &Fault{
		Problem: fmt.Sprintf("the server at %s is not a rendezvous of adit: %v", c.name(), err),
		Hint:    `check the host, the port and the path of --signal: they are those that "adit serve" printed`,
		Err:     err, lasting: true,
	}
}

// explain names the cause of a request's error where it is known.
func (c *Client) explain(ctx context.Context, err error) error {
	var re *replyError
	var fault *Fault
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var proxy *reach.ProxyError
	switch {
	case err == nil, errors.As(err, &fault):
		return err
	case errors.As(err, &proxy):
		return &Fault{
			Problem: proxy.Error(),
			Hint:    "see HTTP_PROXY, HTTPS_PROXY and ALL_PROXY: http://USER:PASSWORD@HOST:PORT; NO_PROXY names hosts that need no proxy",
			Err:     err, lasting: proxy.Status != 0 && proxy.Status < 500,
		}
	case errors.As(err, &re):
		if re.json || re.status >= 500 && re.status != http.StatusNotImplemented || re.status == http.StatusTooManyRequests || re.status < 400 {
			return err
		}
		if re.status == http.StatusProxyAuthRequired {
			return proxyWants(err)
		}
		if re.status == http.StatusBadRequest && c.speaksTLS(ctx) {
			return &Fault{Problem: fmt.Sprintf("the server at %s speaks https, not http", c.name()), Hint: "write https:// in --signal", Err: err, lasting: true}
		}
		return c.notRendezvous(err)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return &Fault{Problem: fmt.Sprintf("the server at %s does not speak https", c.name()), Hint: "write http:// in --signal, or see whether it is the right port", Err: err, lasting: true}
	case errors.As(err, &dns) && dns.IsNotFound:
		return &Fault{Problem: fmt.Sprintf("DNS knows no host %q", printable(dns.Name, maxSaid)), Hint: "check the name in --signal, and the network", Err: err, lasting: true}
	case errors.As(err, &dns):
		return noDNS(dns.Name, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Fault{Problem: fmt.Sprintf("nothing listens at %s: %v", c.name(), err), Hint: `see whether "adit serve" runs there, and whether the port is right`, Err: err}
	}
	return err
}

func noDNS(host string, err error) *Fault {
	return &Fault{Problem: fmt.Sprintf("DNS does not answer for %q", printable(host, maxSaid)), Hint: "check the network and its DNS server; an IP address in --signal needs no DNS", Err: err}
}

func proxyWants(err error) *Fault {
	return &Fault{
		Problem: "the HTTP proxy on the way to the rendezvous wants a password",
		Hint:    "put it into HTTP_PROXY and HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT; NO_PROXY names hosts that need no proxy",
		Err:     err, lasting: true,
	}
}

// speaksTLS reports whether the server of a URL with http:// takes a TLS handshake. No request is made over it.
func (c *Client) speaksTLS(ctx context.Context) bool {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" || c.HTTP != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	port := u.Port()
	if port == "" {
		port = "80"
	}
	// The certificate does not matter: it is not for trust.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// watchDNS returns a context that ends with a Fault when DNS has not answered for resolveFor. stop ends the watch.
func watchDNS(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var mu sync.Mutex
	var limit *time.Timer // since the first question
	halt := func() {
		mu.Lock()
		defer mu.Unlock()
		if limit != nil {
			limit.Stop()
		}
	}
	trace := &httptrace.ClientTrace{
		DNSStart: func(i httptrace.DNSStartInfo) {
			mu.Lock()
			defer mu.Unlock()
			if limit == nil {
				limit = time.AfterFunc(resolveFor, func() { cancel(noDNS(i.Host, nil)) })
			}
		},
		DNSDone: func(httptrace.DNSDoneInfo) { halt() },
	}
	return httptrace.WithClientTrace(ctx, trace), func() {
		halt()
		cancel(nil)
	}
}
