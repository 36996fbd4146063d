package doctor

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"adit/internal/reach"
	"adit/internal/turn"
	"adit/signal"
)

// rendezvous asks for the STUN servers, twice: the second time the connection is there, so that the time
// it takes is a round trip. It sets offer.
func (r *run) rendezvous(ctx context.Context) {
	if r.cfg.Signal == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rendezvousFor)
	defer cancel()
	out := &Rendezvous{URL: r.cfg.Signal}
	r.report.Rendezvous = out
	if u, err := url.Parse(r.cfg.Signal); err == nil {
		out.URL = u.Redacted()
		if p, err := reach.ProxyFor(u); err == nil && p != nil {
			out.Proxy = p.Scheme + "://" + p.Host // without a password
		}
	}
	t := newTransport()
	defer t.CloseIdleConnections()
	watch := &watch{next: t}
	client := &signal.Client{URL: r.cfg.Signal, HTTP: &http.Client{
		Transport:     watch,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	ice, err := client.ICE(ctx)
	if err == nil {
		_, err = client.ICE(ctx)
	}
	if err != nil {
		out.Error = err.Error()
		return
	}
	out.OK, out.TLS, out.Clock, out.RTT = true, watch.tls, watch.ahead, milliseconds(watch.took)
	r.offer = ice.STUN
}

// newTransport is one like that of a session's rendezvous client.
func newTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  reach.ProxyForRequest,
		OnProxyConnectResponse: reach.RefusedByProxy,
		DialContext:            (&reach.Dialer{Dialer: net.Dialer{Timeout: rendezvousFor}}).DialContext,
		Protocols:              protocols,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}
}

// A watch notes how requests go. They come one after the other.
type watch struct {
	next  http.RoundTripper
	took  time.Duration // of the last one
	tls   string
	ahead int // seconds of this machine's clock
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	end := time.Now()
	w.took = end.Sub(began)
	if resp.TLS != nil {
		w.tls = tls.VersionName(resp.TLS.Version)
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		w.ahead = clockAhead(began, end, date)
	}
	return resp, nil
}

// clockAhead returns by how many seconds this machine's clock must be ahead of one that showed date at
// some time between began and end. The date leaves out what is below the second.
func clockAhead(began, end, date time.Time) int {
	switch {
	case began.After(date.Add(time.Second)):
		return int((began.Sub(date.Add(time.Second)) + time.Second - 1) / time.Second)
	case end.Before(date):
		return -int((date.Sub(end) + time.Second - 1) / time.Second)
	}
	return 0
}

// relays gets an address on each relay and gives it back. The rendezvous tells its relays to two who have
// met; both are us.
func (r *run) relays(ctx context.Context) {
	servers := r.cfg.TURN
	if v := r.report.Rendezvous; v != nil && v.OK {
		more, err := r.offeredRelays(ctx)
		if err != nil {
			r.report.Relays = append(r.report.Relays, Relay{URL: v.URL, Error: err.Error()})
		}
		servers = append(servers[:len(servers):len(servers)], more...)
	}
	ctx, cancel := context.WithTimeout(ctx, relayFor)
	defer cancel()
	out := make([]Relay, min(len(servers), maxServers))
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			out[i].URL = servers[i].URL
			began := time.Now()
			dial := r.cfg.DialRelay
			if dial == nil {
				dial = reach.DialThrough
			}
			a, err := turn.Allocate(ctx, turn.Config{Server: turn.Server(servers[i]), Dial: dial, TLS: r.cfg.TLS, Logger: r.cfg.Logger})
			if err != nil {
				if ctx.Err() != nil {
					err = errSilent
				}
				out[i].Error = err.Error()
				return
			}
			out[i].OK, out[i].Relayed, out[i].Took = true, a.Relayed(), milliseconds(time.Since(began))
			_ = a.Close() // the server's lifetime ends what this does not
		})
	}
	wg.Wait()
	r.report.Relays = append(r.report.Relays, out...)
}

// offeredRelays meets itself in a room.
func (r *run) offeredRelays(ctx context.Context) ([]signal.TURNServer, error) {
	client := &signal.Client{URL: r.cfg.Signal}
	defer client.CloseIdle()
	left, err := client.Create(ctx)
	if err != nil {
		return nil, err
	}
	defer left.Close()
	right, err := client.Join(ctx, left.Nameplate())
	if err != nil {
		return nil, err
	}
	defer right.Close()
	return right.TURN(ctx)
}
