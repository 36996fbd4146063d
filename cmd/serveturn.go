package cmd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/relay"
	"adit/internal/turn"
	"adit/signal/rendezvous"
)

// secretBytes bounds the file with the secret: a wrong path must not fill the memory.
const secretBytes = 4096

type turnConfig struct {
	on                                     bool
	tcp, tls, ports, rate, totalRate, file string
	addressRate                            string
	volumes                                [3]string // of a peer, of an address, of all
	allocations, allocationsOfOne          int
	allow, urls                            []string
}

// defaultTURN is a relay as it is where nothing is said.
func defaultTURN() turnConfig {
	return turnConfig{ports: fmt.Sprintf("%d-%d", relay.DefaultMinPort, relay.DefaultMaxPort), rate: "300M", totalRate: "1G", addressRate: "600M",
		volumes: [3]string{"none", "none", "none"}, allocations: relay.DefaultAllocations, allocationsOfOne: relay.DefaultPerSource}
}

// list returns the options of serve that are about relays.
func (t *turnConfig) list() []option {
	return own("serve",
		option{name: "turn", to: &t.on, usage: "relay for peers that find no path: TURN at the STUN server's port, over UDP and TCP, and over TLS at that of HTTPS"},
		option{name: "turn-tcp", to: &t.tcp, usage: "`ADDR` for TURN over TCP, or none", none: "the STUN server's"},
		option{name: "turn-tls", to: &t.tls, usage: "one more `ADDR` for TURN over TLS", none: "that of HTTPS alone"},
		option{name: "turn-ports", to: &t.ports, usage: "`RANGE` of UDP ports for relayed addresses"},
		option{name: "turn-rate", to: &t.rate, usage: "what a peer may relay each way, in `BITS` a second, say 50M, or none"},
		option{name: "turn-total-rate", to: &t.totalRate, usage: "what all may relay together, in `BITS` a second, or none"},
		option{name: "turn-address-rate", to: &t.addressRate, usage: "what the peers at one address may relay each way, in `BITS` a second, or none", hidden: true},
		option{name: "turn-volume", to: &t.volumes[0], usage: "what a peer may relay in a day, in `BYTES`, say 50G", hidden: true},
		option{name: "turn-address-volume", to: &t.volumes[1], usage: "what the peers at one address may relay in a day, in `BYTES`", hidden: true},
		option{name: "turn-total-volume", to: &t.volumes[2], usage: "what all may relay in a day, in `BYTES`", hidden: true},
		option{name: "turn-allocations-of-one", to: &t.allocationsOfOne, usage: "how many relayed addresses the peers at one address may have, `N`", hidden: true},
		option{name: "turn-allocations", to: &t.allocations, usage: "how many relayed addresses there may be, `N`"},
		option{name: "turn-allow", to: &t.allow, usage: "relay to `CIDR` too, a private network say; several times if you like"},
		option{name: "turn-url", to: &t.urls, usage: "hand out another relay's `URL`, say turn:relay.example.org:3478?transport=udp; several times if you like"},
		option{name: "turn-secret", to: &t.file, usage: "the relays' common secret in `FILE`", none: "a new one at each start", path: true},
	)
}

// relays is the TURN server of this process, if any, and what peers are told of it and of others.
type relays struct {
	turn   *relay.TURN // nil if there is none here
	secret []byte
	urls   []string
	served []<-chan error // of the listeners
	stop   func()         // ends follow; nil if nothing is followed
}

const (
	followEvery = 10 * time.Minute // how often the addresses of other relays are looked up
	followWait  = 5 * time.Second
)

// relayHost returns the host of a TURN URL that was checked, empty if it has none.
func relayHost(s string) string {
	_, rest, _ := strings.Cut(s, ":")
	rest, _, _ = strings.Cut(rest, "?")
	if host, _, err := net.SplitHostPort(rest); err == nil {
		return host
	}
	return strings.Trim(rest, "[]")
}

// follow tells the relay where the others are: what a peer has there it may reach from here.
func (r *relays) follow(urls []string) {
	var hosts []string
	for _, s := range urls {
		if host := relayHost(s); host != "" {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.stop = func() { cancel(); <-ended }
	go func() {
		defer close(ended)
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			var addrs []netip.Addr
			for _, host := range hosts {
				look, done := context.WithTimeout(ctx, followWait)
				found, err := net.DefaultResolver.LookupNetIP(look, "ip", host)
				done()
				if err == nil { // else the peers reach it on their own
					addrs = append(addrs, found...)
				}
			}
			if len(addrs) > 0 { // the last ones count while names cannot be looked up
				r.turn.SetRelays(addrs)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
}

// startRelay reads the settings and starts the TURN server, which listens nowhere yet.
func startRelay(cfg serveConfig, external []netip.Addr, secure *tls.Config, u *ui) (*relays, error) {
	r := &relays{}
	t := cfg.turn
	for _, s := range t.urls {
		if err := turn.CheckURL(s); err != nil {
			return nil, fail.Usagef("for example --turn-url turn:relay.example.org:3478?transport=udp", "--turn-url: %v", err)
		}
		r.urls = append(r.urls, s)
	}
	switch {
	case t.file != "":
		var err error
		if r.secret, err = readSecret(t.file); err != nil {
			return nil, fail.Usagef("one line, the same as the relay's static-auth-secret", "read --turn-secret: %v", err)
		}
	case len(t.urls) > 0:
		return nil, fail.Usagef("put what its operator set as static-auth-secret into a file", "--turn-url needs --turn-secret")
	default:
		r.secret = make([]byte, 32)
		rand.Read(r.secret)
	}
	low, high, err := portRange(t.ports)
	if err != nil {
		return nil, err
	}
	rate, err := bitRate("--turn-rate", t.rate)
	if err != nil {
		return nil, err
	}
	total, err := bitRate("--turn-total-rate", t.totalRate)
	if err != nil {
		return nil, err
	}
	addressRate, err := bitRate("--turn-address-rate", t.addressRate)
	if err != nil {
		return nil, err
	}
	var volumes [3]int
	for i, flag := range []string{"--turn-volume", "--turn-address-volume", "--turn-total-volume"} {
		if volumes[i], err = volume(flag, t.volumes[i]); err != nil {
			return nil, err
		}
	}
	if t.allocationsOfOne < 1 {
		return nil, fail.Usagef("a number of at least 1", "--turn-allocations-of-one %d leaves no room", t.allocationsOfOne)
	}
	if t.allocations < 1 {
		return nil, fail.Usagef("a number of at least 1", "--turn-allocations %d leaves no room", t.allocations)
	}
	var allow []netip.Prefix
	for _, s := range t.allow {
		p, err := relay.ParsePrefix(s)
		if err != nil {
			return nil, fail.Usagef("for example --turn-allow 10.0.0.0/8", "--turn-allow: %v", err)
		}
		allow = append(allow, p)
	}
	if !t.on {
		if t.tcp != "" || t.tls != "" || len(t.allow) > 0 {
			return nil, fail.Usagef("give --turn as well", "there is no relay to configure")
		}
		return r, nil
	}
	if cfg.stun == "none" {
		return nil, fail.Usagef("leave out --stun none", "--turn shares the port of the STUN server")
	}
	if t.tls != "" && secure == nil {
		return nil, fail.Usagef("give --tls-cert and --tls-key", "--turn-tls needs a certificate")
	}
	r.turn, err = relay.NewTURN(relay.TURNConfig{
		Secret: r.secret, Addrs: external, MinPort: low, MaxPort: high, Allow: allow,
		Allocations: t.allocations, PerSource: t.allocationsOfOne, Rate: rate, SourceRate: addressRate, TotalRate: total,
		Volume: volumes[0], SourceVolume: volumes[1], TotalVolume: volumes[2], Logger: u.logger(),
	})
	if err != nil {
		return nil, fail.Usagef("", "%v", err)
	}
	r.follow(t.urls)
	return r, nil
}

// listen starts TURN over TCP, at the STUN server's address if nothing else is said, and over TLS.
func (r *relays) listen(stun netip.AddrPort, tcp, secureAddr, host string, secure *tls.Config, u *ui) error {
	if tcp == "" {
		tcp = stun.String()
		if stun.Addr().IsUnspecified() {
			tcp = net.JoinHostPort("", strconv.Itoa(int(stun.Port())))
		}
	}
	if tcp != "none" {
		l, err := net.Listen("tcp", tcp)
		if err != nil {
			return cannotListen(err, "stop what else uses the port, or choose another with --turn-tcp, or none")
		}
		u.event(event.Event{Name: event.Listening, Addr: l.Addr().String(), Target: "turn-tcp"})
		r.advertise("turn", host, l.Addr().(*net.TCPAddr).Port, "tcp")
		r.serve(l)
	}
	if secureAddr != "" {
		l, err := net.Listen("tcp", secureAddr)
		if err != nil {
			return cannotListen(err, "stop what else uses the port, or choose another with --turn-tls")
		}
		u.event(event.Event{Name: event.Listening, Addr: l.Addr().String(), Target: "turn-tls"})
		r.advertise("turns", "", l.Addr().(*net.TCPAddr).Port, "tcp")
		plain := secure.Clone()
		plain.NextProtos = nil
		r.serve(tls.NewListener(l, plain))
	}
	return nil
}

func (r *relays) serve(l net.Listener) {
	done := make(chan error, 1)
	r.served = append(r.served, done)
	go func() { done <- r.turn.Serve(l) }()
}

// advertise adds a URL. For TLS the host is left out: the one that the client asked for, which the
// certificate is for.
func (r *relays) advertise(scheme, host string, port int, transport string) {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	r.urls = append(r.urls, fmt.Sprintf("%s:%s:%d?transport=%s", scheme, host, port, transport))
}

// handOut returns what the rendezvous tells its peers.
func (r *relays) handOut() rendezvous.TURN {
	t := rendezvous.TURN{URLs: r.urls, Secret: r.secret}
	if r.turn != nil {
		t.Seen = r.turn.Seen
	}
	return t
}

func (r *relays) close() {
	if r.turn == nil {
		return
	}
	if r.stop != nil {
		r.stop()
	}
	_ = r.turn.Close() // the process ends
	for _, done := range r.served {
		<-done
	}
}

// externalIPs reads --external-ip: one address, or one of each family.
func externalIPs(s string) ([]netip.Addr, error) {
	var out []netip.Addr
	for f := range strings.SplitSeq(s, ",") {
		if f = strings.TrimSpace(f); f == "" && s == "" {
			continue
		}
		ip, err := netip.ParseAddr(f)
		if err != nil {
			return nil, fail.Usagef("for example --external-ip 203.0.113.7", "--external-ip %q is no IP address", f)
		}
		if ip = ip.Unmap(); len(out) > 1 || len(out) == 1 && out[0].Is4() == ip.Is4() {
			return nil, fail.Usagef("for example --external-ip 203.0.113.7,2001:db8::7", "--external-ip %q has more than one address of a family", s)
		}
		out = append(out, ip)
	}
	return out, nil
}

func portRange(s string) (low, high uint16, err error) {
	a, b, ok := strings.Cut(s, "-")
	l, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
	h, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
	if !ok || err1 != nil || err2 != nil || l == 0 || l > h {
		return 0, 0, fail.Usagef("for example --turn-ports 49152-65535", "--turn-ports %q is no range of ports", s)
	}
	return uint16(l), uint16(h), nil
}

// bitRate reads bits a second with k, M or G, and returns bytes a second; 0 for none.
func bitRate(flag, s string) (int, error) {
	if s == "" || s == "none" {
		return 0, nil
	}
	unit := 1
	number := s
	switch s[len(s)-1] {
	case 'k', 'K':
		unit, number = 1e3, s[:len(s)-1]
	case 'm', 'M':
		unit, number = 1e6, s[:len(s)-1]
	case 'g', 'G':
		unit, number = 1e9, s[:len(s)-1]
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n == 0 || n > uint64(1e12)/uint64(unit) {
		return 0, fail.Usagef("for example "+flag+" 50M", "%s %q is no rate", flag, s)
	}
	return max(1, int(min(n*uint64(unit)/8, 1<<31-1))), nil
}

// volume reads bytes a day with k, M, G or T; 0 for none.
func volume(flag, s string) (int, error) {
	if s == "" || s == "none" {
		return 0, nil
	}
	unit, number := uint64(1), s
	switch s[len(s)-1] {
	case 'k', 'K':
		unit, number = 1e3, s[:len(s)-1]
	case 'm', 'M':
		unit, number = 1e6, s[:len(s)-1]
	case 'g', 'G':
		unit, number = 1e9, s[:len(s)-1]
	case 't', 'T':
		unit, number = 1e12, s[:len(s)-1]
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n == 0 || n > 1e15/unit {
		return 0, fail.Usagef("for example "+flag+" 50G", "%s %q is no volume", flag, s)
	}
	return int(min(n*unit, math.MaxInt)), nil
}

// readSecret reads one line.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, secretBytes+1))
	if err != nil {
		return nil, err
	}
	b = bytes.TrimRight(b, "\r\n")
	switch {
	case len(b) > secretBytes || bytes.ContainsAny(b, "\r\n"):
		return nil, fmt.Errorf("%s is more than one line", path)
	case len(b) < 16:
		return nil, fmt.Errorf("%s: %w", path, relay.ErrSecret)
	}
	return b, nil
}
