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
	"adit/internal/metrics"
	"adit/internal/relay"
	"adit/signal/rendezvous"

	"github.com/urfave/cli/v2"
)

// serveGrace is how long requests at work may take when the server ends.
const serveGrace = 3 * time.Second

func serveCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a rendezvous, a STUN server and a relay for others",
		Description: `Run what peers meet at, on a host that both can reach: an HTTP rendezvous, which passes on
sealed messages and can read none, and a STUN server, which tells a peer its public address. With
--turn also a relay, which carries the encrypted packets of peers that find no path of their own.

  adit serve --http :8080 --stun :3478
  adit serve --http :443 --tls-cert cert.pem --tls-key key.pem
  adit serve --external-ip 203.0.113.7              behind a NAT of its own
  adit serve --http :443 --tls-cert cert.pem --tls-key key.pem --turn`,
		Flags: append(append(ownFlags("serve",
			&cli.StringFlag{Name: "http", Usage: "`ADDR` the rendezvous listens at, or systemd for the socket that it passes", Value: ":8080"},
			&cli.StringFlag{Name: "stun", Usage: "`ADDR` the STUN server listens at, or none", Value: ":3478"},
			&cli.StringFlag{Name: "external-ip", Usage: "public `IP` of this host, if peers reach it at another than they ask for; IPv4,IPv6 if it has both"},
			&cli.StringFlag{Name: "tls-cert", Usage: "serve HTTPS with the certificate chain in `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "tls-key", Usage: "its private key in `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "access", Usage: "serve only those whose tokens or keys are in `FILE`", DefaultText: "everybody", TakesFile: true},
			&cli.StringFlag{Name: "access-hook", Usage: "serve only those whom the HTTP server at `URL` allows", Hidden: true},
			&cli.DurationFlag{Name: "drain", Usage: "at the end refuse new meetings for `D`, so that a load balancer notices", Hidden: true},
			&cli.StringSliceFlag{Name: "trusted-proxy", Usage: "believe X-Forwarded-For of reverse proxies in `CIDR`, several times if you like"},
		), append(append(turnFlags(), limitFlags()...), ownFlags("serve", attendFlags()...)...)...), commonFlags(outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("for example: adit serve --http :8080 --stun :3478", "serve takes no arguments, only flags")
			}
			proxies, err := prefixes(c.StringSlice("trusted-proxy"))
			if err != nil {
				return err
			}
			turn := turnSettings(c)
			limits, err := limitsOf(c, relayAllocations(turn))
			if err != nil {
				return err
			}
			return serve(ctx, u, serveConfig{
				access: c.String("access"), hook: c.String("access-hook"),
				limits: limits, drain: c.Duration("drain"),
				http: c.String("http"), stun: c.String("stun"), externalIP: c.String("external-ip"),
				carry: c.Bool("carry"), carryRate: c.String("carry-rate"),
				cert: c.String("tls-cert"), key: c.String("tls-key"), turn: turn, proxies: proxies,
				again: func() (cert, key string, err error) { return serveAgain(u, c) },
			})
		}),
	}
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
func serveAgain(u *ui, c *cli.Context) (cert, key string, err error) {
	file, err := loadConfig(u, c)
	if err != nil {
		return "", "", err
	}
	now := func(flag string) string {
		if v := valuesNow(c, file, flag); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	keys := slices.DeleteFunc(changedSettings(configOf(c), file, "serve"), func(k string) bool { return k == "serve.tls_cert" || k == "serve.tls_key" })
	if len(keys) > 0 {
		u.say("restart adit serve for what has changed in %s: %s", file.path, list(keys))
	}
	return now("tls-cert"), now("tls-key"), nil
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
			return nil, usagef("for example --trusted-proxy 10.0.0.0/8", "--trusted-proxy %q is no network", s)
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
		return usagef("both files are to be PEM, and belong to each other", "read the certificate: %v", err)
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
		return nil, nil, usagef("give both, or neither for plain HTTP behind a proxy", "--tls-cert and --tls-key belong together")
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
		return usagef("an address is HOST:PORT, or :PORT for all of this machine's", "%v", err)
	}
	return &failure{code: exitListen, message: err.Error(), hint: hint}
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
