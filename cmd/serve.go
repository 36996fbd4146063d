package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"adit/internal/carry"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/metrics"
	"adit/internal/relay"
	"adit/signal/rendezvous"

	"github.com/urfave/cli/v2"
)

// serveGrace is how long requests at work may take when the server ends.
const serveGrace = 3 * time.Second

// serveOptions are those of "adit serve".
type serveOptions struct {
	given
	outputOptions
	attendOptions
	serveConfig
	trusted []string
}

func newServeOptions() *serveOptions {
	return &serveOptions{serveConfig: serveConfig{http: ":8080", stun: ":3478", carryRate: "20M", turn: defaultTURN(), limits: rendezvous.DefaultLimits()}}
}

func (o *serveOptions) list() []option {
	return slices.Concat(own("serve",
		option{name: "http", to: &o.http, usage: "`ADDR` the rendezvous listens at, or systemd for the socket that it passes", values: []string{"systemd"}},
		option{name: "stun", to: &o.stun, usage: "`ADDR` the STUN server listens at, or none", values: []string{"none"}},
		option{name: "external-ip", to: &o.externalIP, usage: "public `IP` of this host, if peers reach it at another than they ask for; IPv4,IPv6 if it has both"},
		option{name: "tls-cert", to: &o.cert, usage: "serve HTTPS with the certificate chain in `FILE`", path: true},
		option{name: "tls-key", to: &o.key, usage: "its private key in `FILE`", path: true},
		option{name: "access", to: &o.access, usage: "serve only those whose tokens or keys are in `FILE`", none: "everybody", path: true},
		option{name: "access-hook", to: &o.hook, usage: "serve only those whom the HTTP server at `URL` allows", hidden: true},
		option{name: "drain", to: &o.drain, usage: "at the end refuse new meetings for `D`, so that a load balancer notices", hidden: true},
		option{name: "trusted-proxy", to: &o.trusted, usage: "believe X-Forwarded-For of reverse proxies in `CIDR`, several times if you like"},
	), o.turn.list(), own("serve",
		option{name: "carry", to: &o.carry, usage: "carry the packets of peers that reach nothing but this server, over HTTP: the last resort where UDP, TCP and TLS to a relay are blocked"},
		option{name: "carry-rate", to: &o.carryRate, usage: "what one side may send that way, in `BITS` a second"},
	), limitOptions(&o.limits), o.attendOptions.list("serve"), o.outputOptions.list())
}

func (o *serveOptions) check(bad *complaints) {
	o.outputOptions.check(bad)
	var err error
	if o.proxies, err = prefixes(o.trusted); err != nil {
		bad.add(failureOf(err))
	}
	checkLimits(&o.limits, bad)
}

func serveCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:  "serve",
		Usage: "run a rendezvous, a STUN server and a relay for others",
		Description: `Run what peers meet at, on a host that both can reach: an HTTP rendezvous, which passes on
sealed messages and can read none, and a STUN server, which tells a peer its public address. With
--turn also a relay, which carries the encrypted packets of peers that find no path of their own.

  adit serve --http :8080 --stun :3478
  adit serve --http :443 --tls-cert cert.pem --tls-key key.pem
  adit serve --external-ip 203.0.113.7              behind a NAT of its own
  adit serve --http :443 --tls-cert cert.pem --tls-key key.pem --turn`,
	}, newServeOptions, func(ctx context.Context, u *ui, o *serveOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit serve --http :8080 --stun :3478", "serve takes no arguments, only flags")
		}
		cfg := o.serveConfig
		if !o.set("limit-connections") && !o.fromFile("limit-connections") {
			cfg.limits.Connections = connectionsFor(cfg.limits.Connections, relayAllocations(cfg.turn))
		}
		cfg.again = func() (cert, key string, err error) { return serveAgain(u, o) }
		return serve(ctx, u, cfg)
	})
}

type serveConfig struct {
	http, stun, externalIP, cert, key string
	carry                             bool
	carryRate                         string
	turn                              turnConfig
	proxies                           []netip.Prefix
	limits                            rendezvous.Limits
	drain                             time.Duration
	access, hook                      string // a file, and a URL

	// again reads the config file again, and returns the certificate's files. It may be nil.
	again func() (cert, key string, err error)
}

// serveAgain reads the config file of a running server again, and returns the files of its certificate.
// What else has changed takes a restart, and is told.
func serveAgain(u *ui, o *serveOptions) (cert, key string, err error) {
	file, err := load(u, "serve", o)
	if err != nil {
		return "", "", err
	}
	now, err := reread(o, file)
	if err != nil {
		return "", "", err
	}
	keys := slices.DeleteFunc(changedSettings(o.file, file, "serve"), func(k string) bool { return k == "serve.tls_cert" || k == "serve.tls_key" })
	if len(keys) > 0 {
		u.say("restart adit serve for what has changed in %s: %s", file.Path, list(keys))
	}
	return now.cert, now.key, nil
}

// prefixes parses --trusted-proxy. An address alone is itself.
func prefixes(given []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range given {
		p, err := netip.ParsePrefix(s)
		if a, errAddr := netip.ParseAddr(s); err != nil && errAddr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() { // clients are compared as IPv4
			return nil, fail.Usagef("for example --trusted-proxy 10.0.0.0/8", "--trusted-proxy %q is no network", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// serve listens until ctx ends, which is how a server is meant to end: it returns errInterrupted.
func serve(ctx context.Context, u *ui, cfg serveConfig) error {
	external, err := externalIPs(cfg.externalIP)
	if err != nil {
		return err
	}
	secure, certificates, err := certificate(cfg.cert, cfg.key)
	if err != nil {
		return err
	}
	access, err := accessOf(cfg)
	if err != nil {
		return err
	}
	carryRate, err := bitRate("--carry-rate", cfg.carryRate)
	if err != nil {
		return err
	}
	relays, err := startRelay(cfg, external, secure, u)
	if err != nil {
		return err
	}
	defer relays.close()
	host := "" // the one that the client asked for
	var first netip.Addr
	if len(external) > 0 {
		first = external[0]
		host = first.String()
	}
	var advertised []string
	if cfg.stun != "none" {
		stun, err := relay.ListenSTUN(cfg.stun, relay.Config{ExternalIP: first, TURN: relays.turn, Logger: u.logger()})
		if err != nil {
			return cannotListen(err, "stop what else uses the port, or choose another with --stun")
		}
		defer stun.Close()
		u.event(event.Event{Name: event.Listening, Addr: stun.Addr().String(), Target: "stun"})
		port := int(stun.Addr().Port())
		advertised = append(advertised, net.JoinHostPort(host, strconv.Itoa(port)))
		// What a peer sees from two ports tells it whether its NAT gives each destination another mapping.
		// One is enough for everything else.
		other, err := relay.ListenSTUN(nextPort(cfg.stun, port), relay.Config{ExternalIP: first, Logger: u.logger()})
		if err != nil {
			u.logger().Info("one stun port only", "err", err)
		} else {
			defer other.Close()
			relay.Pair(stun, other) // from the other port it tells how the NAT filters
			advertised = append(advertised, net.JoinHostPort(host, strconv.Itoa(int(other.Addr().Port()))))
		}
		if relays.turn != nil {
			u.event(event.Event{Name: event.Listening, Addr: stun.Addr().String(), Target: "turn"})
			relays.advertise("turn", host, port, "udp")
			if err := relays.listen(stun.Addr(), cfg.turn.tcp, cfg.turn.tls, host, secure, u); err != nil {
				return err
			}
		}
	}

	l, err := listenHTTP(cfg.http)
	if err != nil {
		return err
	}
	httpPort := l.Addr().(*net.TCPAddr).Port
	if relays.turn != nil && secure != nil {
		relays.advertise("turns", "", httpPort, "tcp")
	}
	var hub *carry.Hub
	if cfg.carry {
		hub = carry.NewHub(carry.Limits{Rate: carryRate})
		defer hub.Close()
	}
	meet := rendezvous.New(rendezvous.Config{Carry: hub, STUN: advertised, TURN: relays.handOut(), TrustedProxies: cfg.proxies, Access: access, Limits: cfg.limits, Logger: u.logger()})
	defer meet.Close()
	defer u.onReload(func() error {
		if access, err := accessOf(cfg); err != nil {
			return err
		} else if access != nil {
			meet.SetAccess(access)
		}
		if cfg.again == nil {
			return certificates.load(cfg.cert, cfg.key)
		}
		cert, key, err := cfg.again()
		if err != nil {
			return err
		}
		return certificates.load(cert, key)
	})()
	server := meet.HTTPServer(cfg.http)
	var answered requests
	server.Handler = answered.counted(server.Handler)
	u.run.measure(func(p *metrics.Page) { serveFigures(p, &answered, meet, relays.turn) })
	scheme := "http"
	l = meet.Listener(l)
	switch {
	case secure != nil && relays.turn != nil:
		shared := relay.Share(l, secure, relays.turn)
		defer shared.Close()
		l, scheme = shared, "https"
	case secure != nil:
		l, scheme = tls.NewListener(l, secure), "https"
	}
	u.event(event.Event{Name: event.Listening, Addr: l.Addr().String(), Target: scheme})
	if host == "" {
		host = "HOST"
	}
	u.say("peers use --signal %s://%s; Ctrl-C to stop", scheme, net.JoinHostPort(host, strconv.Itoa(httpPort)))
	served := make(chan error, 1) // the one result of Serve
	go func() { served <- server.Serve(l) }()
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
	}
	if cfg.drain > 0 {
		meet.Drain() // what goes on here goes on, and what begins goes elsewhere
		u.say("draining for %v", cfg.drain)
		select {
		case err = <-served:
			return err
		case <-time.After(cfg.drain):
		}
	}
	meet.Close() // ends the polls, which Shutdown would wait for
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close() // what is still at work has had its time
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	u.event(event.Event{Name: event.Closed})
	return context.Cause(ctx)
}

// certificates is the certificate of a server, which may be replaced by its successor.
type certificates struct {
	now atomic.Pointer[tls.Certificate]
}

// load reads the certificate and its key; after an error the one before stays. On a nil *certificates,
// that of a server without TLS, it does nothing.
func (c *certificates) load(cert, key string) error {
	if c == nil {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fail.Usagef("both files are to be PEM, and belong to each other", "read the certificate: %v", err)
	}
	c.now.Store(&pair)
	return nil
}

// certificate returns the TLS configuration of a server, nil if none is asked for, and what its
// certificate comes from.
func certificate(cert, key string) (*tls.Config, *certificates, error) {
	if cert == "" && key == "" {
		return nil, nil, nil
	}
	if cert == "" || key == "" {
		return nil, nil, fail.Usagef("give both, or neither for plain HTTP behind a proxy", "--tls-cert and --tls-key belong together")
	}
	from := new(certificates)
	if err := from.load(cert, key); err != nil {
		return nil, nil, err
	}
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return from.now.Load(), nil },
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
	}, from, nil
}

// cannotListen is the failure of a flag's listener. An address that is none is a wrong command line.
func cannotListen(err error, hint string) error {
	var form *net.AddrError
	var name *net.DNSError
	if errors.As(err, &form) || errors.As(err, &name) && strings.HasPrefix(name.Name, "tcp/") { // a port that is no number
		return fail.Usagef("an address is HOST:PORT, or :PORT for all of this machine's", "%v", err)
	}
	return &fail.Failure{Code: fail.Listen, Message: err.Error(), Hint: hint}
}

// nextPort is the address of the second STUN server: the same, one port up, as RFC 5780 suggests. Beside a
// port that the system chose it is one that the system chooses.
func nextPort(addr string, port int) string {
	host, asked, _ := net.SplitHostPort(addr) // it was listened at
	if asked == "0" || port == 1<<16-1 {
		port = -1
	}
	return net.JoinHostPort(host, strconv.Itoa(port+1))
}
