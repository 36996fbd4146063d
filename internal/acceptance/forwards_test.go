//go:build unix

package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A pair of hosts behind NATs, 20 ms apart.
func (w *world) couple() (exposer, connecter *netlab.Host) {
	w.t.Helper()
	up := netlab.HostOptions{Uplink: netlab.LinkConfig{Delay: 5 * time.Millisecond}}
	return w.lab.Host(netlab.PortRestricted, up), w.lab.Host(netlab.PortRestricted, up)
}

// webServer answers every request with text, at addr inside h.
func webServer(t testing.TB, h *netlab.Host, addr, text string) netip.AddrPort {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // it says that it was closed
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// listens waits for a listener with that target and returns where it listens.
func (p *process) listens(target string) netip.AddrPort {
	p.t.Helper()
	for {
		e, _ := p.await("listening")
		if e.Target == target {
			a, err := netip.ParseAddrPort(e.Addr)
			if err != nil {
				p.t.Fatalf("listening event: %v", err)
			}
			return a
		}
	}
}

// TestDynamic: curl reaches 50 services of the far side by SOCKS, by name and by address, and none that is
// not allowed.
func TestDynamic(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	tool(t, "curl")
	const services = 50
	w := newWorld(t)
	left, right := w.couple()
	urls := []string{}
	want := map[string]bool{}
	for i := range services {
		host, text := fmt.Sprintf("127.0.0.%d", i+1), fmt.Sprintf("service %d", i)
		if i%2 == 0 {
			host = "localhost"
		}
		at := webServer(t, left, strings.Replace(host, "localhost", "127.0.0.1", 1)+":0", text)
		urls, want[text] = append(urls, fmt.Sprintf("http://%s:%d/", host, at.Port())), true
	}
	ipv6 := webServer(t, left, "[::1]:0", "over IPv6")
	urls, want["over IPv6"] = append(urls, fmt.Sprintf("http://%s/", ipv6)), true
	secret := webServer(t, left, "127.0.1.1:0", "secret")

	exposer, code := w.expose(left, "--allow-dynamic", "127.0.0.0/24:*", "--allow-dynamic", "localhost:*")
	connecter := w.connect(right, code, "-D", "0")
	socks := connecter.listens("socks").String()
	began := time.Now()
	out := command(t, right, append([]string{"curl", "-sS", "--max-time", "60", "--parallel", "--parallel-max", "50", "--socks5-hostname", socks}, urls...))
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); !want[line] {
			t.Errorf("an answer %q", line)
		}
		delete(want, line)
	}
	if len(want) > 0 {
		t.Errorf("%d services did not answer: %v", len(want), want)
	}
	t.Logf("%d services in %v", len(urls), time.Since(began))

	refused := func(socks, url string) {
		t.Helper()
		p := start(t, right, "curl", []string{"curl", "-sS", "--max-time", "60", "--socks5-hostname", socks, url})
		p.exits(97, time.Minute) // CURLE_PROXY
	}
	refused(socks, fmt.Sprintf("http://%s/", secret))
	ends(connecter, exposer)

	exposer, code = w.expose(left, secret.String()) // what is offered is not offered by SOCKS
	connecter = w.connect(right, code, "-D", "0")
	socks = connecter.listens("socks").String()
	refused(socks, fmt.Sprintf("http://%s/", secret))
	refused(socks, "http://example.org/")
	ends(connecter, exposer)
}

// TestRemoteForward: the exposer's side reaches a web server of the connecter's, where the policy lets it listen.
func TestRemoteForward(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	tool(t, "curl")
	w := newWorld(t)
	left, right := w.couple()
	web := webServer(t, right, "127.0.0.1:0", "from the connecter")
	exposer, code := w.expose(left, "--allow-remote", "8080-8081", "--allow-remote", "*:0")
	connecter := w.connect(right, code, "-R", fmt.Sprintf("8080-8081:%s:%d,%d", web.Addr(), web.Port(), 1), "-R", "*:0:"+web.String())
	ports := []int{}
	for len(ports) < 3 {
		e, _ := connecter.await("listening")
		a, err := netip.ParseAddrPort(e.Addr)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, int(a.Port()))
	}
	if ports[0] != 8080 || ports[1] != 8081 || ports[2] == 0 {
		t.Errorf("the exposer listens at %v", ports)
	}
	for _, at := range []string{"127.0.0.1:8080", fmt.Sprintf("%s:%d", left.Addr(), ports[2])} {
		if got := command(t, left, []string{"curl", "-sS", "--max-time", "20", "http://" + at}); strings.TrimSpace(got) != "from the connecter" {
			t.Errorf("%s answers %q", at, got)
		}
	}
	start(t, left, "curl", []string{"curl", "-sS", "--max-time", "20", "http://127.0.0.1:8081"}).exits(56, time.Minute) // reset: nobody is behind it
	ends(connecter, exposer)
	start(t, left, "curl", []string{"curl", "-sS", "--max-time", "20", "http://127.0.0.1:8080"}).exits(7, time.Minute) // it ended with the session

	for _, place := range []string{"8079", "*:8080", "/tmp/adit-socket"} {
		exposer, code = w.expose(left, "--allow-remote", "8080-8081")
		connecter = w.connect(right, code, "-R", place+":"+web.String())
		if e := connecter.fails(6, patience); !strings.Contains(e.Message, `the rule "remote" has`) {
			t.Errorf("%s: %q does not name the rule", place, e.Message)
		}
		exposer.exits(0, patience)
	}
}

// TestUnixSockets: Redis at a unix socket of the far side, through one of the near side.
func TestUnixSockets(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	tool(t, "redis-server", "redis-cli")
	w := newWorld(t)
	left, right := w.couple()
	dir := t.TempDir()
	far, near := filepath.Join(dir, "redis.sock"), filepath.Join(dir, "near.sock")
	start(t, left, "redis", []string{"redis-server", "--port", "0", "--unixsocket", far, "--save", "", "--dir", dir, "--loglevel", "notice"})
	waitFor(t, func() bool { _, err := os.Stat(far); return err == nil })

	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: near, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as after a kill
	stale.Close()

	exposer, code := w.expose(left, far)
	connecter := w.connect(right, code, "-L", near+":"+far, "-L", "7000:unix:"+far, "-L", filepath.Join(dir, "no.sock")+":/run/other.sock")
	connecter.await("listening")
	if info, err := os.Stat(near); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want mode 0600", info, err)
	}
	connecter.await("listening")
	connecter.await("listening")
	cli := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(command(t, right, append([]string{"redis-cli"}, args...)))
	}
	if got := cli("-s", near, "SET", "key", "value"); got != "OK" {
		t.Errorf("SET: %q", got)
	}
	if got := cli("-p", "7000", "GET", "key"); got != "value" {
		t.Errorf("GET: %q", got)
	}
	start(t, right, "redis-cli", []string{"redis-cli", "-s", filepath.Join(dir, "no.sock"), "PING"}).exits(1, patience)
	ends(connecter, exposer)
	if _, err := os.Lstat(near); err == nil {
		t.Error("the socket is left over")
	}

	// One that somebody listens at is left alone.
	exposer, code = w.expose(left, far)
	connecter = w.connect(right, code, "-L", far+":"+far)
	connecter.fails(7, patience)
	exposer.interrupt()
	exposer.exit(patience)

	// The other way: -R has the exposer listen at a socket.
	exposer, code = w.expose(right, "--allow-remote", near)
	connecter = w.connect(left, code, "-R", near+":"+far)
	connecter.await("listening")
	if got := cli("-s", near, "GET", "key"); got != "value" {
		t.Errorf("GET by -R: %q", got)
	}
	ends(connecter, exposer)
	if _, err := os.Lstat(near); err == nil {
		t.Error("the exposer's socket is left over")
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("what was waited for did not happen")
		}
	}
}

// TestDNS: dig asks a resolver of the far side, by -L and by -R, also for what does not fit a packet.
func TestDNS(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	tool(t, "dig", "dnsmasq")
	w := newWorld(t)
	left, right := w.couple()
	args := []string{"dnsmasq", "--keep-in-foreground", "--log-facility=-", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=",
		"--user=root", "--listen-address=127.0.0.1", "--bind-interfaces", "--port=5353", "--edns-packet-max=8192"}
	for i := range 20 {
		args = append(args, fmt.Sprintf("--address=/host%d.example/192.0.2.%d", i, i+1))
	}
	for i := range 12 {
		args = append(args, fmt.Sprintf("--txt-record=big.example,%d%s", i, strings.Repeat("x", 200)))
	}
	resolver := start(t, left, "dnsmasq", args)
	t.Cleanup(resolver.kill) // it takes no notice of an interrupt
	resolver.says("started")
	dig := func(h *netlab.Host, port uint16, args ...string) *process {
		t.Helper()
		return start(t, h, "dig", append([]string{"dig", "@127.0.0.1", "-p", fmt.Sprint(port), "+tries=1", "+time=5", "+ignore"}, args...))
	}
	exposer, code := w.expose(left, "5353/udp")
	connecter := w.connect(right, code, "-L", "0/udp", "-L", "0:localhost:5354/udp")
	port := connecter.listens("localhost:5353/udp").Port()
	refused := connecter.listens("localhost:5354/udp").Port()
	for i := range 20 {
		p := dig(right, port, "+short", fmt.Sprintf("host%d.example", i))
		p.exits(0, patience)
		if got := strings.TrimSpace(p.out.String()); got != fmt.Sprintf("192.0.2.%d", i+1) {
			t.Errorf("host%d: %q", i, got)
		}
	}
	p := dig(right, port, "+bufsize=8192", "big.example", "TXT")
	p.exits(0, patience)
	if out := p.out.String(); strings.Count(out, strings.Repeat("x", 200)) != 12 {
		t.Errorf("of 12 records came\n%s", out)
	}
	dig(right, refused, "host1.example").exits(9, patience) // no answer
	ends(connecter, exposer)

	exposer, code = w.expose(right, "--allow-remote", "5300/udp")
	connecter = w.connect(left, code, "-R", "5300:localhost:5353/udp")
	connecter.await("listening")
	p = dig(right, 5300, "+short", "host7.example")
	p.exits(0, patience)
	if got := strings.TrimSpace(p.out.String()); got != "192.0.2.8" {
		t.Errorf("by -R: %q", got)
	}
	ends(connecter, exposer)
}

// TestDatagramRate: 50 Mbit/s of UDP each way, by iperf3, whose control connection is a forward too, from the first
// second on: what comes before the link knows what the path carries waits.
//
// Datagrams wait for nobody: on a machine that does other work too they are lost, whoever carries them. So the
// bounds that hold on a quiet one are for the full tier; the others show that iperf3 works, and logs its figures.
func TestDatagramRate(t *testing.T) {
	testtier.Long(t)
	tool(t, "iperf3")
	w := newWorld(t)
	left, right := w.couple()
	server := start(t, left, "iperf3", []string{"iperf3", "-s", "-B", "127.0.0.1", "-p", "5201", "--forceflush"})
	waitFor(t, func() bool { return strings.Contains(server.out.String(), "listening") })
	exposer, code := w.expose(left, "5201", "5201/udp")
	connecter := w.connect(right, code, "-L", "5201", "-L", "5201/udp")
	connecter.await("listening")
	connecter.await("listening")
	rate := func(seconds string, way ...string) (mbits, lost float64) {
		t.Helper()
		out := command(t, right, append([]string{"iperf3", "-c", "127.0.0.1", "-p", "5201", "-u", "-b", "50M", "-l", "1200", "-t", seconds, "--json"}, way...))
		var report struct {
			End struct {
				Sum struct {
					Bits float64 `json:"bits_per_second"`
					Lost float64 `json:"lost_percent"`
				} `json:"sum"`
			} `json:"end"`
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		mbits, lost = report.End.Sum.Bits/1e6, report.End.Sum.Lost
		t.Logf("iperf3 -u -b 50M %v for %s s: %.1f Mbit/s, %.2f %% lost", way, seconds, mbits, lost)
		return mbits, lost
	}
	for _, way := range [][]string{nil, {"-R"}} {
		for _, seconds := range []string{"1", "2"} {
			if mbits, lost := rate(seconds, way...); testtier.IsFull() && (mbits < 49 || lost > 1) {
				t.Errorf("%v: %.1f Mbit/s, %.2f %% lost; want 50 and next to none", way, mbits, lost)
			}
		}
	}
	ends(connecter, exposer)

	exposer, code = w.expose(left, "5201") // without its datagrams it does not work
	connecter = w.connect(right, code, "-L", "5201", "-L", "5201:localhost:5201/udp")
	connecter.await("listening")
	connecter.await("listening")
	p := start(t, right, "iperf3", []string{"iperf3", "-c", "127.0.0.1", "-p", "5201", "-u", "-b", "1M", "-t", "1", "--connect-timeout", "2000"})
	if p.gone(2*time.Second) && p.exit(0) == 0 {
		t.Error("datagrams pass that are not exposed")
	}
	p.kill()
	ends(connecter, exposer)
}
