//go:build unix

package acceptance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/handshake"
	"adit/internal/netlab"
	"adit/internal/testtier"
	"adit/signal"
)

// A keyholder is a machine with a key and a file of peers of its own.
type keyholder struct {
	*netlab.Host
	dir string // of its state and its configuration
	key string
}

// keyholder gives h a key.
func (w *world) keyholder(h *netlab.Host) *keyholder {
	w.t.Helper()
	k := &keyholder{Host: h, dir: w.t.TempDir()}
	k.key = strings.TrimSpace(command(w.t, h, []string{w.adit, "key", "--config", os.DevNull}, k.home))
	return k
}

// home makes a command use k's files.
func (k *keyholder) home(c *exec.Cmd) {
	c.Env = append(c.Env, "XDG_STATE_HOME="+k.dir, "XDG_CONFIG_HOME="+k.dir)
}

// run starts adit with k's files.
func (k *keyholder) run(w *world, args ...string) *process {
	w.t.Helper()
	return w.runWith(k.Host, []setting{k.home}, args...)
}

func (k *keyholder) knows(t testing.TB, peers map[string]string) {
	t.Helper()
	var b strings.Builder
	for name, key := range peers {
		fmt.Fprintf(&b, "[peers.%s]\nkey = %q\n", name, key)
	}
	dir := filepath.Join(k.dir, "adit")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "peers.toml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hashing reads a connection to its end and answers with the hash of what came.
func hashing(c net.Conn) {
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		_, _ = c.Write(h.Sum(nil)) // a peer that is gone does not mind
	}
}

// pour sends size bytes and returns an error unless the other side saw the same.
func pour(h *netlab.Host, to netip.AddrPort, seed byte, size int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(c, sum), random(seed, size)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sum.Sum(nil)) {
		err = fmt.Errorf("the other side saw something else: %d bytes of hash", len(got))
	}
	return err
}

// processor is how long a process has had a processor so far.
func (p *process) processor() time.Duration {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name in front may hold anything
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		p.t.Fatalf("no times in %q", b)
	}
	return time.Duration(user+system) * time.Second / 100
}

// TestStrangersAtTheDoor: offers of strangers, well made, each from an address of its own and held for ten seconds,
// 10,000 in a minute (for a shorter time below the full tier), cost the exposer less than 5 % of a processor and not
// one candidate, and who is known gets in meanwhile.
func TestStrangersAtTheDoor(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	offers := 1000
	if testtier.IsFull() {
		offers = 10_000
	}
	const every, path = time.Minute / 10_000, "/offers?wait=10"
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	crowd := w.lab.Public("crowd")
	w.serve(w.lab.Public("rendezvous"), "--trusted-proxy", crowd.Addr().String())
	home, friend := w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})), w.keyholder(w.lab.Public("friend"))
	home.knows(t, map[string]string{"friend": friend.key})
	friend.knows(t, map[string]string{"home": home.key})
	exposer := home.run(w, "expose", listen(t, home.Host, hashing).String(), "--listen", "--signal", w.signal, "--verbose")
	exposer.await("reachable")

	var public [32]byte
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(strings.TrimPrefix(home.key, "adit1")))
	if err != nil || copy(public[:], raw) != 32 {
		t.Fatalf("key %q: %v", home.key, err)
	}
	name, err := signal.KeyNameOf(public)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return crowd.Dial(ctx, network, netip.MustParseAddrPort(address))
		},
		MaxIdleConnsPerHost: 1000,
	}}
	defer web.CloseIdleConnections()
	ask := func(n int, method, path string, body []byte) ([]byte, int, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, w.signal+"/v1/key/"+hex.EncodeToString(name[:])+path, bytes.NewReader(body))
		if err != nil {
			return nil, 0, err
		}
		r.Header.Set("Content-Type", "application/adit")
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255))
		r.Header.Set("Authorization", fmt.Sprintf("Bearer %032x", n))
		resp, err := web.Do(r)
		if err != nil {
			return nil, 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return b, resp.StatusCode, err
	}
	offer := func(n int, challenge []byte) []byte {
		i, err := handshake.NewInitiator(handshake.Config{
			Mode: handshake.ModeKey, Static: handshake.NewKeyPair(), Peer: public, Challenge: handshake.Challenge(challenge),
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := i.Offer(signal.Description{Index: uint32(n), Targets: []string{strings.Repeat("x", 255)}}.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		return signal.Message{Kind: signal.KindOffer, Body: b}.Append(nil)
	}

	var wg sync.WaitGroup
	var posted, refused atomic.Int64
	cpu, began := exposer.processor(), time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var challenge []byte
	for n := range offers {
		<-tick.C
		if n%1000 == 0 {
			if challenge, _, err = ask(n, http.MethodGet, "", nil); err != nil || len(challenge) != handshake.ChallengeLen {
				t.Fatalf("challenge %x: %v", challenge, err)
			}
		}
		b := offer(n, challenge)
		wg.Go(func() {
			_, status, err := ask(n, http.MethodPost, path, b)
			switch {
			case err != nil:
				t.Error(err)
			case status == http.StatusNoContent:
				posted.Add(1)
			default:
				refused.Add(1)
			}
		})
		if n == offers/2 {
			if n := exposer.count("gathering"); n != 0 {
				t.Errorf("the exposer gathered %d times for strangers", n)
			}
		}
	}
	made := time.Since(began)
	share := float64(exposer.processor()-cpu) / float64(made)
	wg.Wait()
	t.Logf("%d offers in %.1f s, all of them answered after %.1f s (%d refused by the rendezvous): %.1f %% of a processor",
		posted.Load(), made.Seconds(), time.Since(began).Seconds(), refused.Load(), 100*share)
	if testtier.IsFull() && refused.Load() > int64(offers/100) { // on a busy machine the exposer pauses for longer
		t.Errorf("the rendezvous refused %d offers of %d", refused.Load(), offers)
	}
	if share > 0.05 {
		t.Errorf("strangers take %.1f %% of a processor, want less than 5", 100*share)
	}
	if exposer.count("gathering") != 0 {
		t.Error("the exposer gathered for strangers")
	}

	// The same again, with one among them who is known.
	stop, enough := context.WithCancel(t.Context())
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := offers; stop.Err() == nil; n++ {
			<-tick.C
			b := offer(n, challenge)
			wg.Go(func() { _, _, _ = ask(n, http.MethodPost, path, b) }) // counted before
		}
	})
	for range 3 {
		began = time.Now()
		p := friend.run(w, "connect", "home", "-L", "0", "--signal", w.signal)
		p.await("up")
		t.Logf("who is known met within %.2f s", time.Since(began).Seconds())
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("who is known needed %v", took)
		}
		p.interrupt()
		p.exits(130, patience)
	}
	enough()
	web.CloseIdleConnections()
	wg.Wait()
	exposer.interrupt()
	exposer.exits(130, patience)
	exposer.says("strangers=")
	_, count, _ := strings.Cut(exposer.err.String(), "strangers=")
	var strangers int64
	if _, err := fmt.Sscan(count, &strangers); err != nil || strangers < posted.Load() {
		t.Errorf("the exposer counted %d strangers (%v), %d left an offer", strangers, err, posted.Load())
	}
}

// TestMeetsAgain: whatever is killed and started again, exposer, connecter or rendezvous, and whoever starts
// before there is a network, they meet within 20 s.
func TestMeetsAgain(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	const limit = 20 * time.Second
	w := newWorld(t)
	home, away := w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})), w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}))
	home.knows(t, map[string]string{"away": away.key})
	away.knows(t, map[string]string{"home": home.key})
	target := listen(t, home.Host, hashing)
	expose := func() *process {
		return home.run(w, "expose", target.String(), "--listen", "--signal", w.signal)
	}
	connect := func() *process {
		return away.run(w, "connect", "home", "-L", "0", "--signal", w.signal)
	}
	port := func(p *process) netip.AddrPort {
		e, _ := p.awaitFor("listening", limit+patience)
		return netip.MustParseAddrPort(e.Addr)
	}
	works := func(what string, since time.Time, to netip.AddrPort) {
		t.Helper()
		// A connection that was made to the session before may end with it.
		for pour(away.Host, to, 1, 10_000, limit) != nil && time.Since(since) < 2*limit {
			<-time.After(50 * time.Millisecond)
		}
		took := time.Since(since)
		t.Logf("%s: %.2f s", what, took.Seconds())
		if took > limit {
			t.Errorf("%s: they met after %v, want %v", what, took, limit)
		}
	}
	exposer, connecter := expose(), connect()
	began := time.Now()
	to := port(connecter)
	works("at first", began, to)

	exposer.kill()
	exposer.gone(patience)
	began = time.Now()
	exposer = expose()
	works("the exposer killed", began, to)

	connecter.kill()
	connecter.gone(patience)
	began = time.Now()
	connecter = connect()
	to = port(connecter)
	works("the connecter killed", began, to)

	w.server.kill()
	w.server.gone(patience)
	works("the rendezvous killed", time.Now(), to)
	exposer.kill() // what only the rendezvous can mend
	exposer.gone(patience)
	exposer = expose()
	<-time.After(2 * time.Second) // all find it away
	began = time.Now()
	w.serveAgain()
	works("the rendezvous and the exposer killed", began, to)

	// As after a power cut: both start, and there is no network.
	connecter.kill()
	exposer.kill()
	connecter.gone(patience)
	exposer.gone(patience)
	here, there := home.offline(t), away.offline(t)
	expose()
	connecter = connect()
	<-time.After(3 * time.Second) // they find nothing
	here()
	there()
	began = time.Now()
	to = port(connecter)
	works("started without a network", began, to)
}

// offline takes a machine's cable out. What it returns puts it in again.
func (k *keyholder) offline(t testing.TB) (online func()) {
	t.Helper()
	routes := command(t, k.Host, []string{"ip", "-4", "route", "show", "default"})
	command(t, k.Host, []string{"ip", "link", "set", "eth0", "down"})
	return func() {
		t.Helper()
		command(t, k.Host, []string{"ip", "link", "set", "eth0", "up"})
		command(t, k.Host, append([]string{"ip", "route", "replace"}, strings.Fields(routes)...))
	}
}
