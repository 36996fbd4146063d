package reach

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A relay is reached through a proxy that wants a password; one that refuses says why.
func TestConnectThrough(t *testing.T) {
	relay, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	go func() {
		for {
			c, err := relay.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic dTpw" { // u:p
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer out.Close()
		// The answer goes out after the connection has been taken over, and what the server read of it
		// by then counts: else the first byte behind the answer may be lost.
		in, early, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(out, early)
			out.Close()
		}()
		_, _ = io.Copy(in, out)
	})}
	go func() { _ = proxy.Serve(l) }()
	defer proxy.Close()

	at := &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "p")}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := through(ctx, at, relay.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()

	at.User = url.UserPassword("u", "wrong")
	var refused *ProxyError
	if _, err := through(ctx, at, relay.Addr().String()); !errors.As(err, &refused) || refused.Status != 407 {
		t.Errorf("a wrong password: %v, want the proxy's 407", err)
	}
	if _, err := through(ctx, at, relay.Addr().String()); err == nil || !strings.Contains(err.Error(), "407") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
}

// ALL_PROXY counts where nothing else is said, and a scheme that is not known is no reason to go past the proxy.
func TestProxyFor(t *testing.T) {
	for _, c := range []struct{ all, https, no, target, want string }{
		{"socks5h://s:1", "", "", "http://example.com/", "socks5h://s:1"},
		{"socks5://s:1", "", "", "https://example.com/", "socks5://s:1"},
		{"socks5://s:1", "http://p:2", "", "https://example.com/", "http://p:2"},
		{"socks5://s:1", "http://p:2", "", "http://example.com/", "socks5://s:1"},
		{"socks5://s:1", "", "example.com", "http://example.com/", ""},
		{"socks5://s:1", "", "", "http://127.0.0.1:8/", ""},
		{"socks4://s:1", "", "", "http://example.com/", "an error"},
	} {
		for _, k := range []string{"HTTP_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"} {
			t.Setenv(k, "")
		}
		t.Setenv("ALL_PROXY", c.all)
		t.Setenv("HTTPS_PROXY", c.https)
		t.Setenv("NO_PROXY", c.no)
		u, _ := url.Parse(c.target)
		p, err := ProxyFor(u)
		got := ""
		switch {
		case err != nil:
			got = "an error"
		case p != nil:
			got = p.String()
		}
		if got != c.want {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}
