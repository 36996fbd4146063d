package tunnel

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// rules reads rules that are right.
func rules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	r, err := ParseRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// offering offers these targets, to a peer without a name.
func offering(targets ...Target) Offer {
	var p Policy
	for _, t := range targets {
		p.Targets = append(p.Targets, RuleOf(t))
	}
	return Offer{Gate: NewGate("", p, nil)}
}

// offeringAll offers what this machine reaches.
func offeringAll() Offer { return Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil)} }

// TestRules has every kind of rule allow what it names and refuse what is next to it.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		rule string
		dir  Direction
		yes  string // separated by spaces
		no   string
	}{
		{"22", Local, "localhost:22 127.0.0.1:22 [::1]:22", "localhost:23 127.0.0.2:22 db.lan:22 10.0.0.1:22 0.0.0.0:22 unix:/22 localhost:22/udp"},
		{"db.lan:1", Local, "db.lan:1 db.lan.:1", "db.lan..:1 xdb.lan:1"},
		{"db.lan.:1", Local, "db.lan:1 db.lan.:1", "lan.:1"},
		{"*.lan.:1", Local, "db.lan:1 db.lan.:1", "lan:1 .lan.:1"},
		{"22", Local, "localhost.:22", "localhost..:22"},
		{"@app", Local, "unix:@app @app", "unix:/app unix:@app2"},
		{"8000-8010", Local, "localhost:8000 localhost:8005 [::1]:8010", "localhost:7999 localhost:8011 db.lan:8005"},
		{":22", Local, "", ""},
		{"db.lan:5432", Local, "db.lan:5432", "db.lan:5433 lan:5432 xdb.lan:5432 db.lan.evil.example:5432 10.0.0.5:5432"},
		{"DB.lan:5432", Local, "db.lan:5432", "db:5432"},
		{"db.lan:*", Local, "db.lan:1 db.lan:65535", "other.lan:1"},
		{"*.lan:443", Local, "db.lan:443 a.b.lan:443", "lan:443 evillan:443 db.lan:80 db.lan.example:443 10.0.0.1:443"},
		{"*:80-81", Local, "db.lan:80 10.0.0.1:81 [2001:db8::1]:80 localhost:80", "db.lan:82 db.lan:79 unix:/80"},
		{"*", Local, "db.lan:1 [2001:db8::1]:65535 unix:/run/x db.lan:53/udp", ""},
		{"10.0.0.1:22", Local, "10.0.0.1:22 [::ffff:10.0.0.1]:22", "10.0.0.2:22 10.0.0.1:2 db.lan:22"},
		{"10.0.0.0/8:22-80", Local, "10.0.0.1:22 10.255.255.255:80", "11.0.0.0:22 9.255.255.255:22 10.0.0.1:81 localhost:22 [2001:db8::1]:22"},
		{"127.0.0.0/8:22", Local, "127.0.0.1:22 127.3.2.1:22", "[::1]:22 10.0.0.1:22"},
		{"0.0.0.0/0:22", Local, "1.2.3.4:22 127.0.0.1:22", "[2001:db8::1]:22"},
		{"[2001:db8::/32]:*", Local, "[2001:db8::1]:1 [2001:db8:ffff::]:65535", "[2001:db9::]:1 10.0.0.1:1"},
		{"[fd00::/8]:22", Local, "[fd12::1]:22", "[fe80::1%eth0]:22 [fe80::1]:22"},
		{"[fe80::1%eth0]:22", Local, "[fe80::1%eth0]:22", "[fe80::1]:22 [fe80::1%eth1]:22"},
		{"dns.lan:53/udp", Local, "dns.lan:53/udp", "dns.lan:53 dns.lan:54/udp"},
		{"10.0.0.0/8:53/udp", Local, "10.0.0.1:53/udp", "10.0.0.1:53"},
		{"unix:/run/app.sock", Local, "unix:/run/app.sock /run/app.sock", "unix:/run/app.sock2 unix:/run localhost:1"},
		{"/run/../run/app.sock", Local, "unix:/run/app.sock", "unix:/app.sock"},

		{"8080", Remote, "localhost:8080 127.0.0.1:8080 [::1]:8080", "*:8080 0.0.0.0:8080 [::]:8080 10.0.0.1:8080 localhost:8081 localhost:0 localhost:8080/udp"},
		{"9000-9100", Remote, "localhost:9000 localhost:9100", "localhost:8999 localhost:9101 localhost:0"},
		{"0", Remote, "localhost:0", "localhost:1 *:0"},
		{"*:8080", Remote, "*:8080 0.0.0.0:8080 [::]:8080 localhost:8080 10.0.0.1:8080", "*:8081 unix:/x"},
		{"localhost:*", Remote, "localhost:0 localhost:65535", "*:80 10.0.0.1:80"},
		{"0.0.0.0/0:80", Remote, "10.0.0.1:80 127.0.0.1:80", "*:80 0.0.0.0:80 [::]:80 host.lan:80"},
		{"0.0.0.0:80", Remote, "0.0.0.0:80", "*:80 10.0.0.1:80"},
		{"10.0.0.1:80", Remote, "10.0.0.1:80", "localhost:80 *:80"},
		{"*", Remote, "*:0 localhost:1 unix:/tmp/s *:53/udp", ""},
		{"/tmp/s", Remote, "unix:/tmp/s", "unix:/tmp/t localhost:1"},
		{"53/udp", Remote, "localhost:53/udp", "localhost:53"},

		{"10.0.0.0/8:80", Dynamic, "10.0.0.1:80", "11.0.0.1:80 10.0.0.1:81 localhost:80"},
		{"*.lan:443", Dynamic, "db.lan:443", "db.example:443"},
		{"*", Dynamic, "example.org:443 127.0.0.1:22", ""},
	} {
		t.Run(string(test.dir)+" "+test.rule, func(t *testing.T) {
			r, err := ParseRule(test.rule)
			if err != nil {
				if test.yes+test.no != "" {
					t.Fatal(err)
				}
				return
			}
			p := Policy{}
			switch test.dir {
			case Local:
				p.Targets = []Rule{r}
			case Remote:
				p.Remote = []Rule{r}
			case Dynamic:
				p.Dynamic = []Rule{r}
			}
			for _, target := range strings.Fields(test.yes) {
				if err := p.Allows(test.dir, target); err != nil {
					t.Errorf("%s: %v, want it allowed", target, err)
				}
			}
			for _, target := range strings.Fields(test.no) {
				var refused *RefusedError
				if err := p.Allows(test.dir, target); !errors.As(err, &refused) {
					t.Errorf("%s: %v, want it refused", target, err)
				} else if refused.Code != CodeRefused || !strings.Contains(refused.Reason, r.String()) {
					t.Errorf("%s: %d %q, want the rule %s in it", target, refused.Code, refused.Reason, r)
				}
			}
		})
	}
}

// TestDirections has each key of a policy refuse and allow.
func TestDirections(t *testing.T) {
	targets, remote, dynamic := rules(t, "22"), rules(t, "8080"), rules(t, "10.0.0.0/8:80")
	for _, test := range []struct {
		name   string
		policy Policy
		dir    Direction
		target string
		want   string // the reason; "" is allowed
	}{
		{"local", Policy{Targets: targets}, Local, "localhost:22", ""},
		{"local, nothing allowed", Policy{}, Local, "localhost:22", `localhost:22 is not offered: the rule "allow" is empty`},
		{"local, something else", Policy{Targets: targets}, Local, "localhost:23", `localhost:23 is not offered: the rule "allow" has localhost:22`},
		{"local switched off", Policy{Targets: targets, NoLocal: true}, Local, "localhost:22", `localhost:22 is not offered: the rule "local" is false`},
		{"local to what SOCKS reaches", Policy{Dynamic: dynamic}, Local, "10.0.0.1:80", ""},
		{"remote", Policy{Remote: remote}, Remote, "localhost:8080", ""},
		{"remote, nothing allowed", Policy{Targets: targets}, Remote, "localhost:22", `listening on localhost:22 for the peer (-R) is not allowed: the rule "remote" is empty`},
		{"remote, something else", Policy{Remote: remote}, Remote, "*:8080", `listening on *:8080 for the peer (-R) is not allowed: the rule "remote" has localhost:8080`},
		{"remote where local is off", Policy{Remote: remote, NoLocal: true}, Remote, "localhost:8080", ""},
		{"dynamic", Policy{Dynamic: dynamic}, Dynamic, "10.0.0.1:80", ""},
		{"dynamic to what is offered", Policy{Dynamic: dynamic, Targets: targets}, Dynamic, "localhost:22", ""},
		{"dynamic, nothing allowed", Policy{Targets: targets}, Dynamic, "localhost:22", `localhost:22 is not offered by SOCKS (-D): the rule "dynamic" is empty`},
		{"dynamic, something else", Policy{Dynamic: dynamic}, Dynamic, "11.0.0.1:80", `11.0.0.1:80 is not offered by SOCKS (-D): the rule "dynamic" has 10.0.0.0/8:80`},
		{"dynamic where local is off", Policy{Dynamic: dynamic, NoLocal: true}, Dynamic, "10.0.0.1:80", `10.0.0.1:80 is not offered: the rule "local" is false`},
		{"dynamic to a target where local is off", Policy{Targets: targets, Dynamic: dynamic, NoLocal: true}, Dynamic, "localhost:22", `localhost:22 is not offered: the rule "local" is false`},
		{"a direction that is none", Policy{Targets: targets}, "sideways", "localhost:22", `localhost:22 is not offered: the rule "allow" has localhost:22`},
		{"a target that is none", Policy{Targets: targets}, Local, "localhost", `target "localhost" has no port: write localhost:22, for example`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.policy.Allows(test.dir, test.target)
			var refused *RefusedError
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v, want it allowed", err)
			case test.want != "" && (!errors.As(err, &refused) || refused.Reason != test.want):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestRuleErrors(t *testing.T) {
	for _, s := range []string{
		"", ":", ":22", "db.lan", "db.lan:", "db.lan:x", "db.lan:70000", "db.lan:80-", "db.lan:-80", "db.lan:90-80", "db.lan:080",
		"10.0.0.1/8:22", "10.0.0.0/33:22", "10.0.0.0/8", "2001:db8::/32:22", "[2001:db8::1/32]:22", "[::ffff:10.0.0.0/104]:22",
		"*.10.0.0.1:22", "*.:22", "a*:22", "**:22", "db.lan:22/tcp", "unix:run/x", "/", "unix:", "[fd00::/8:22", "-:22", "*/udp",
	} {
		if r, err := ParseRule(s); err == nil {
			t.Errorf("%q is read as %s", s, r)
		} else if !strings.Contains(err.Error(), "for example") {
			t.Errorf("%q: %v; want an example", s, err)
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{"22", "*:80", "*", "10.0.0.0/8:22-80", "[fd00::/8]:*", "*.lan:443/udp", "unix:/run/x"} {
		f.Add(s, "10.0.0.1:80")
	}
	f.Fuzz(func(t *testing.T, s, target string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %q, which is %v, %v", s, r, again, err)
		}
		p := Policy{Targets: []Rule{r}, Remote: []Rule{r}}
		_ = p.Allows(Local, target)
		_ = p.Allows(Remote, target)
		_, _ = p.Default(false)
	})
}

func TestDefaultAndOffers(t *testing.T) {
	for _, test := range []struct {
		name         string
		policy       Policy
		def, offered string
	}{
		{"nothing", Policy{}, "", ""},
		{"one", Policy{Targets: rules(t, "22")}, "localhost:22", "localhost:22"},
		{"several", Policy{Targets: rules(t, "/run/s", "22", "22", "10.0.0.0/8:1", "80-81", "*:1", "53/udp")}, "unix:/run/s", "unix:/run/s localhost:22 localhost:53/udp"},
		{"a network first", Policy{Targets: rules(t, "10.0.0.0/8:1", "22")}, "", "localhost:22"},
		{"switched off", Policy{Targets: rules(t, "22"), NoLocal: true}, "", ""},
		{"everything", Policy{Targets: []Rule{Any}}, "", ""},
	} {
		d, ok := test.policy.Default(false)
		if d.String() != test.def || ok != (test.def != "") {
			t.Errorf("%s: default %q, %v; want %q", test.name, d, ok, test.def)
		}
		var offered []string
		for _, o := range test.policy.Offers() {
			offered = append(offered, o.String())
		}
		if got := strings.Join(offered, " "); got != test.offered {
			t.Errorf("%s: offers %q, want %q", test.name, got, test.offered)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		name, rules, target, want string
		code                      uint32 // 0 is allowed
	}{
		{"by name", "db.lan:80", "db.lan:80", "db.lan:80", 0},
		{"by address", "10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80", 0},
		{"in a network", "10.0.0.0/8:80", "10.0.0.1:80", "10.0.0.1:80", 0},
		{"name in a network", "10.0.0.0/8:80", "db.lan:80", "10.0.0.7:80", 0},
		{"name in two networks", "10.0.0.0/8:80 [fd00::/8]:80", "db.lan:80", "10.0.0.7:80 [fd00::7]:80", 0},
		{"name in none", "192.168.0.0/16:80", "db.lan:80", "", CodeRefused},
		{"name in a network, another port", "10.0.0.0/8:80", "db.lan:81", "", CodeRefused},
		{"name where only one address is allowed", "10.0.0.7:80", "db.lan:80", "", CodeRefused},
		{"name that does not resolve", "10.0.0.0/8:80", "none.lan:80", "", CodeUnreachable},
		{"mapped address", "10.0.0.0/8:80", "mapped.lan:80", "10.0.0.9:80", 0},
		{"localhost by network", "127.0.0.0/8:80", "localhost:80", "127.0.0.1:80", 0},
		{"localhost", "80", "localhost:80", "127.0.0.1:80 [::1]:80", 0},
		{"what was offered is dialled", "[::1]:80", "localhost:80", "[::1]:80", 0},
		{"datagrams", "10.0.0.0/8:53/udp", "db.lan:53/udp", "10.0.0.7:53", 0},
		{"datagrams by name", "dns.lan:53/udp", "dns.lan:53/udp", "dns.lan:53", 0},
		{"socket", "/run/s", "unix:/run/s", "/run/s", 0},
		{"another socket", "/run/s", "unix:/run/t", "", CodeRefused},
		{"nonsense", "80", "localhost", "", CodeUsage},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewGate("bob", Policy{Targets: rules(t, strings.Fields(test.rules)...)}, nil)
			g.testOnlyLookup = func(_ context.Context, host string) ([]netip.Addr, error) {
				switch host {
				case "db.lan":
					return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, nil
				case "mapped.lan":
					return []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.9")}, nil
				}
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			got, err := g.Addresses(t.Context(), Local, test.target)
			var refused *RefusedError
			if test.code == 0 && err != nil || test.code != 0 && (!errors.As(err, &refused) || refused.Code != test.code) {
				t.Fatalf("got %v, want code %d", err, test.code)
			}
			if err == nil && !slices.Equal(got, strings.Fields(test.want)) {
				t.Errorf("dial %v, want %s", got, test.want)
			}
		})
	}
}

func TestMaxStreams(t *testing.T) {
	g := NewGate("bob", Policy{MaxStreams: 2}, nil)
	leave, err := g.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enter(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enter(); err == nil || !strings.Contains(err.Error(), `no more streams at once are allowed than 2: the rule "streams"`) {
		t.Errorf("a third of two: %v", err)
	}
	leave()
	leave()
	if _, err := g.Enter(); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	if _, err := g.Enter(); err == nil {
		t.Error("to leave twice made room for two")
	}
	g.Set(Policy{MaxStreams: 3})
	if _, err := g.Enter(); err != nil {
		t.Errorf("after a larger limit: %v", err)
	}
	g.Set(Policy{})
	for range 100 {
		if _, err := g.Enter(); err != nil {
			t.Fatalf("without a limit: %v", err)
		}
	}
}

// TestGateIsReplaced has a policy change while its session runs.
func TestGateIsReplaced(t *testing.T) {
	g := NewGate("bob", Policy{Targets: rules(t, "22")}, nil)
	if err := g.Allows(Local, "localhost:80"); err == nil {
		t.Error("80 is allowed at first")
	}
	g.Set(Policy{Targets: rules(t, "80")})
	if err := g.Allows(Local, "localhost:80"); err != nil {
		t.Errorf("80 is not allowed later: %v", err)
	}
	if err := g.Allows(Local, "localhost:22"); err == nil {
		t.Error("22 is still allowed")
	}
	var none *Gate
	if none.Allows(Local, "localhost:22") == nil || none.Peer() != "" {
		t.Error("no gate lets everything through")
	}
	if _, err := none.Addresses(t.Context(), Local, "localhost:22"); err == nil {
		t.Error("no gate has addresses")
	}
}

// TestRefusalsAreLogged has a peer try more than the log shall hold.
func TestRefusalsAreLogged(t *testing.T) {
	var b bytes.Buffer
	g := NewGate("bob", Policy{Targets: rules(t, "22")}, slog.New(slog.NewTextHandler(&b, nil)))
	for range 1000 {
		if err := g.Allows(Local, "localhost:80"); err == nil {
			t.Fatal("80 is allowed")
		}
	}
	if err := g.Allows(Local, "localhost:22"); err != nil {
		t.Error(err)
	}
	got := b.String()
	if n := strings.Count(got, "\n"); n != refusalBurst {
		t.Errorf("%d lines, want %d", n, refusalBurst)
	}
	for _, want := range []string{"msg=refused", "peer=bob", "direction=local", "target=localhost:80", `the rule \"allow\" has localhost:22`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %s", got[:strings.IndexByte(got, '\n')], want)
		}
	}
}

// TestRefusedAtTheOpener has a refusal come to the other end with its rule.
func TestRefusedAtTheOpener(t *testing.T) {
	a, b := newSessions(t)
	serving(t, b, Offer{Gate: NewGate("bob", Policy{Targets: rules(t, "10.0.0.0/8:80"), MaxStreams: 1}, nil)}, Options{})
	st, err := a.Open(t.Context(), headerTo(Target{Host: "localhost", Port: 22}).encode())
	if err == nil {
		err = st.WaitAccepted(t.Context())
	}
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != `localhost:22 is not offered: the rule "allow" has 10.0.0.0/8:80` {
		t.Errorf("got %v", err)
	}
}
