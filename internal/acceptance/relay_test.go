//go:build unix

package acceptance

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/relay"
	"adit/internal/testtier"
)

// newRelayWorld is a world whose rendezvous relays too.
func newRelayWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	// The lab's internet has documentation addresses, which a relay keeps away from.
	w.serve(w.lab.Public("rendezvous"), "--turn", "--turn-allow", "198.51.100.0/24", "--carry")
	return w
}

// TestRelay: where there is no direct path a relay carries the tunnel, whatever of it the two reach.
func TestRelay(t *testing.T) {
	for _, c := range []struct {
		name            string
		left, right     netlab.NAT
		flags           []string // of the exposer
		path, transport string   // the connecter's up event
	}{
		{"two hard NATs", netlab.Symmetric, netlab.Symmetric, nil, "relay", "udp"},
		{"UDP blocked at the connecter", netlab.PortRestricted, netlab.UDPBlocked, nil, "relay", "tcp"},
		{"UDP blocked at both", netlab.UDPBlocked, netlab.UDPBlocked, nil, "relay", "tcp"},
		{"direct all the same", netlab.PortRestricted, netlab.PortRestricted, nil, "direct", ""},
		{"nothing but HTTP at the connecter", netlab.PortRestricted, netlab.UDPBlocked, []string{"--path", "auto"}, "relay", "https"},
		{"the exposer hides", netlab.None, netlab.None, []string{"--path", "relay"}, "relay", "udp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "two hard NATs" {
				testtier.Long(t)
			}
			w := newRelayWorld(t)
			left, right := w.lab.Host(c.left, netlab.HostOptions{}), w.lab.Host(c.right, netlab.HostOptions{})
			if c.transport == "https" {
				onlyHTTP(t, right)
				onlyHTTP(t, left) // a relay of the other side's would be reached otherwise
			}
			sshd := newSSHServer(t, left)
			for range rounds() {
				exposer, code := w.expose(left, append(c.flags, fmt.Sprintf("localhost:%d", sshPort))...)
				began := time.Now()
				connecter := w.connect(right, code, "-L", fmt.Sprintf("0:localhost:%d", sshPort))
				up, _ := connecter.await("up")
				took := time.Since(began)
				t.Logf("%s %s after %d ms: %s to %s", up.Path, up.Transport, took.Milliseconds(), up.Local, up.Remote)
				if up.Path != c.path || up.Transport != c.transport {
					t.Errorf("path %s %s, want %s %s", up.Path, up.Transport, c.path, c.transport)
				}
				if took > within(5*time.Second) {
					t.Errorf("up after %v", took)
				}
				listening, _ := connecter.await("listening")
				port, err := netip.ParseAddrPort(listening.Addr)
				if err != nil {
					t.Fatal(err)
				}
				sshd.over(right, port)
				sshd.copy(right, port, 4<<20)
				ends(connecter, exposer)
			}
		})
	}
}

// TestRemembered: who had no UDP last time is up by the relay at once.
func TestRemembered(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newRelayWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.UDPBlocked, netlab.HostOptions{})
	state := variable("XDG_STATE_HOME", t.TempDir())
	var took [3]time.Duration
	for i := range took {
		exposer, code := w.expose(left, "22")
		connecter := w.runWith(right, []setting{state}, "connect", code, "-L", "0", "--signal", w.signal)
		up, at := connecter.await("up")
		took[i] = at.Sub(connecter.out.began)
		if up.Path != "relay" || up.Transport != "tcp" {
			t.Errorf("path %s %s, want relay tcp", up.Path, up.Transport)
		}
		ends(connecter, exposer)
	}
	t.Logf("up after %v", took)
	if best := min(took[1], took[2]); best > took[0]*2/3 {
		t.Errorf("up after %v, want the later ones sooner", took)
	}
}

// TestRelayPasted: a relay that one side names carries two that met by pasted lines.
func TestRelayPasted(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	secret := []byte("0123456789abcdef0123456789abcdef")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, append(secret, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	user := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10) + ":pasted"
	for _, exposes := range []bool{true, false} {
		t.Run(map[bool]string{true: "the exposer's", false: "the connecter's"}[exposes], func(t *testing.T) {
			w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
			w.serve(w.lab.Public("rendezvous"), "--turn", "--turn-allow", "198.51.100.0/24", "--turn-secret", file)
			left, right := w.lab.Host(netlab.Symmetric, netlab.HostOptions{}), w.lab.Host(netlab.Symmetric, netlab.HostOptions{})
			flags := func(named bool, args ...string) ([]setting, []string) {
				args = append(args, "--signal", "paste", "--stun", w.stun)
				if !named {
					return nil, args
				}
				return []setting{variable("ADIT_TURN_PASSWORD", relay.Password(secret, user))},
					append(args, "--turn", "turn:"+w.stun+"?transport=udp", "--turn-user", user)
			}
			r, toExposer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close(); toExposer.Close() })
			settings, args := flags(exposes, "expose", "22")
			exposer := w.runWith(left, append(settings, stdin(r)), args...)
			offer, _ := exposer.await("token")
			r2, _ := input(t, offer.Token)
			settings, args = flags(!exposes, "connect", "-L", "0")
			connecter := w.runWith(right, append(settings, stdin(r2)), args...)
			answer, _ := connecter.await("token")
			if _, err := io.WriteString(toExposer, answer.Token+"\n"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for _, p := range []*process{exposer, connecter} {
				up, _ := p.await("up")
				t.Logf("up after %d ms: %s to %s", time.Since(began).Milliseconds(), up.Local, up.Remote)
				if up.Path != "relay" || up.Transport != "udp" {
					t.Errorf("path %s %s, want relay udp", up.Path, up.Transport)
				}
			}
			ends(connecter, exposer)
		})
	}
}

// onlyHTTP lets nothing out of a host but TCP to the rendezvous' port of HTTP.
func onlyHTTP(t testing.TB, h *netlab.Host) {
	t.Helper()
	rules(t, h, `
table inet only {
	chain output { type filter hook output priority 0; policy drop;
		oifname "lo" accept
		tcp dport 8080 accept
	}
}
`)
}
