package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/internal/punch"
	"adit/internal/turn"
)

// TestRelayFaults: a relay that was named and cannot be had is named in the verdict, with what is wrong with it.
func TestRelayFaults(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	mute, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, c := range []struct {
		name, url    string
		tls          *tls.Config
		want, advice string
	}{
		{"unknown authority", "turns:" + addr, nil, "nobody known here has signed", "public authority"},
		{"another name", "turns:localhost:" + port, &tls.Config{RootCAs: roots}, "for another name", "name that stands"},
		{"expired", "turns:" + addr, &tls.Config{RootCAs: roots, Time: func() time.Time { return time.Now().AddDate(200, 0, 0) }}, "expired", "clock"},
		{"clock behind", "turns:" + addr, &tls.Config{RootCAs: roots, Time: func() time.Time { return time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC) }}, "not valid yet", "clock"},
		{"down", "turn:" + gone.Addr().String() + "?transport=tcp", nil, "nothing listens", "start it"},
		{"mute", "turn:" + mute.Addr().String() + "?transport=tcp", nil, "does not answer", "firewall"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if c.name == "mute" {
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			defer cancel()
			_, err := turn.Allocate(ctx, turn.Config{Server: turn.Server{URL: c.url, Username: "u", Password: "p"}, TLS: c.tls})
			if err == nil {
				t.Fatal("an allocation")
			}
			e := &endpoint{cfg: Config{Logger: discard}, nat: newNATTalk()}
			e.candidates = []punch.Candidate{{Type: punch.HostCandidate}}
			e.relayFailed(c.url, err)
			e.relayFailed(c.url, err)
			if len(e.relays.faults) != 1 {
				t.Errorf("noted %d times", len(e.relays.faults))
			}
			var got *Error
			if !errors.As(e.noPath(nil), &got) || !strings.Contains(got.Message, c.want) || !strings.Contains(got.Message, c.url) || !strings.Contains(got.Hint, c.advice) {
				t.Errorf("got %q (%q) of %v, want %q (%q)", got.Message, got.Hint, err, c.want, c.advice)
			}
			if strings.Contains(got.Message, "there is no relay") {
				t.Errorf("%q, though one was named", got.Message)
			}
		})
	}
	for _, c := range []struct {
		err  error
		want string
	}{{turn.ErrUnauthorized, "name and password"}, {turn.ErrQuota, "no room"}, {turn.ErrTimeout, "does not answer"}, {turn.ErrForbidden, "refuses"}} {
		if f := relayFaultOf("turn:x", c.err); !strings.Contains(f.reason, c.want) || f.advice == "" {
			t.Errorf("%v: %+v", c.err, f)
		}
	}
}
