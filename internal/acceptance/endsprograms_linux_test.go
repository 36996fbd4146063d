package acceptance

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A service is a program that ends connections in a hard way, and the client that looks at it.
type service struct {
	name  string
	port  uint16
	needs []string // programs; the row is left out where one is missing
	serve func(l *endsLab, h *netlab.Host, port uint16)
	// ask is the client's command line: to an address, at a unix socket in dir, or through SOCKS. One that cannot be
	// is nil.
	ask   func(at netip.AddrPort) []string
	atDir func(l *endsLab, port uint16) []string
	socks func(socks, at netip.AddrPort) []string
	want  string // what the client prints
}

const uploadBytes = 20_000_000

var services = []service{
	{
		name: "redis, maxclients 1", port: 4610, needs: []string{"redis-server", "redis-cli"},
		serve: func(l *endsLab, h *netlab.Host, port uint16) {
			p := start(l.t, h, "redis", []string{"redis-server", "--port", fmt.Sprint(port), "--bind", "0.0.0.0", "--protected-mode", "no",
				"--maxclients", "1", "--save", "", "--dir", l.t.TempDir(), "--loglevel", "notice"})
			waitFor(l.t, func() bool { return strings.Contains(p.out.String(), "Ready to accept") })
			c := dial(l.t, h, netip.AddrPortFrom(loopback, port)) // the one client
			b := make([]byte, 7)
			_ = c.SetDeadline(time.Now().Add(patience)) // it is open
			if _, err := io.WriteString(c, "PING\r\n"); err != nil {
				l.t.Fatal(err)
			}
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "+PONG\r\n" {
				l.t.Fatalf("redis: %q, %v", b, err)
			}
			_ = c.SetDeadline(time.Time{})
		},
		ask: func(at netip.AddrPort) []string {
			return []string{"redis-cli", "-h", at.Addr().String(), "-p", fmt.Sprint(at.Port()), "PING"}
		},
		atDir: func(l *endsLab, port uint16) []string { return []string{"redis-cli", "-s", l.front(port), "PING"} },
		want:  "ERR max number of clients reached",
	},
	{
		name: "python http.server, 413 to an upload of 20 MB", port: 4611, needs: []string{"python3", "curl"},
		serve: func(l *endsLab, h *netlab.Host, port uint16) {
			l.script(h, "python3", "refuse.py", fmt.Sprintf(`
from http.server import ThreadingHTTPServer, BaseHTTPRequestHandler

class Refuse(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_error(413)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("0.0.0.0", %d), Refuse)
print("ready", flush=True)
server.serve_forever()
`, port))
		},
		ask: func(at netip.AddrPort) []string { return upload("http://" + at.String() + "/") },
		atDir: func(l *endsLab, port uint16) []string {
			return upload("http://server/", "--unix-socket", l.front(port))
		},
		socks: func(socks, at netip.AddrPort) []string {
			return upload("http://"+at.String()+"/", "--socks5-hostname", socks.String())
		},
		want: "413",
	},
	{
		name: "node, 401 to an upload of 20 MB", port: 4612, needs: []string{"node", "curl"},
		serve: func(l *endsLab, h *netlab.Host, port uint16) {
			l.script(h, "node", "refuse.js", fmt.Sprintf(`
const server = require("http").createServer((request, response) => {
  response.writeHead(401, { Connection: "close" });
  response.end("no\n");
});
server.listen(%d, "0.0.0.0", () => console.log("ready"));
`, port))
		},
		ask: func(at netip.AddrPort) []string { return upload("http://" + at.String() + "/") },
		atDir: func(l *endsLab, port uint16) []string {
			return upload("http://server/", "--unix-socket", l.front(port))
		},
		socks: func(socks, at netip.AddrPort) []string {
			return upload("http://"+at.String()+"/", "--socks5-hostname", socks.String())
		},
		want: "401",
	},
	{
		name: "postgres, too many clients", port: 4613, needs: []string{"psql", postgres("initdb"), "setpriv"},
		serve: servePostgres,
		ask: func(at netip.AddrPort) []string {
			return []string{"psql", "-U", "guest", "-h", at.Addr().String(), "-p", fmt.Sprint(at.Port()), "-c", "select 1", "postgres"}
		},
		atDir: func(l *endsLab, port uint16) []string {
			return []string{"psql", "-U", "guest", "-h", l.dir, "-p", fmt.Sprint(port), "-c", "select 1", "postgres"}
		},
		want: "sorry, too many clients already",
	},
}

// upload posts a file without asking first, and prints the status of the answer. curl that sends as fast as it can may
// see a send fail before it has looked for the answer, without a tunnel too: so it sends no faster than this.
func upload(url string, args ...string) []string {
	return append([]string{"curl", "-sS", "-o", os.DevNull, "-w", "%{http_code}\n", "--max-time", "50", "--limit-rate", "5M", "-H", "Expect:",
		"--data-binary", "@upload", url}, args...)
}

// postgres is the path of a program of the newest PostgreSQL that is here.
func postgres(name string) string {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is well-formed
	if len(all) == 0 {
		return name
	}
	return all[len(all)-1]
}

// script runs a server that says when it is ready.
func (l *endsLab) script(h *netlab.Host, interpreter, name, text string) {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	start(l.t, h, interpreter, []string{interpreter, path}).prints("ready")
}

// servePostgres runs a server that takes one client, and a client.
func servePostgres(l *endsLab, h *netlab.Host, port uint16) {
	t := l.t
	t.Helper()
	dir, err := os.MkdirTemp("", "adit-postgres-") // it will not be run by root, who alone may enter a test's directory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	command(t, h, []string{"chown", "postgres", dir})
	as := []string{"setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"}
	command(t, h, append(as, postgres("initdb"), "-A", "trust", "-U", "guest", "--no-sync", "-D", filepath.Join(dir, "data")))
	p := start(t, h, "postgres", append(as, postgres("postgres"), "-D", filepath.Join(dir, "data"), "-p", fmt.Sprint(port), "-k", dir,
		"-c", "listen_addresses=0.0.0.0", "-c", "max_connections=1", "-c", "superuser_reserved_connections=0", "-c", "fsync=off", "-c", "max_wal_senders=0"))

	hba := filepath.Join(dir, "data", "pg_hba.conf")
	if err := os.WriteFile(hba, []byte("host all all 0.0.0.0/0 trust\nlocal all all trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.says("ready to accept connections")
	holder := start(t, h, "psql", []string{"psql", "-U", "guest", "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-c", "\\echo here", "-c", "select pg_sleep(100000)", "postgres"})
	waitFor(t, func() bool {
		if holder.gone(0) {
			t.Fatal("the client of postgres has ended")
		}
		return strings.Contains(holder.out.String(), "here")
	})
}

// TestEndsOfPrograms: what the clients of real servers print where the server ends the connection with their input
// unread, directly, by ssh -L and by adit. -W is not for them: they connect by themselves.
func TestEndsOfPrograms(t *testing.T) {
	testtier.Long(t)
	t.Run("near", func(t *testing.T) {
		t.Parallel()
		playPrograms(t, nil, runs())
	})
	t.Run("far", func(t *testing.T) {
		testtier.Full(t)
		t.Parallel()
		playPrograms(t, lossy, runs())
	})
}

func playPrograms(t *testing.T, link *netlab.LinkConfig, runs int) {
	adit(t) // or skip
	var ports []uint16
	var here []service
	for _, s := range services {
		missing := ""
		for _, n := range s.needs {
			if _, err := exec.LookPath(n); err != nil {
				missing = n
			}
		}
		if missing != "" {
			t.Logf("%s is left out: it needs %s", s.name, missing)
			continue
		}
		here, ports = append(here, s), append(ports, s.port)
	}
	l := newEndsLab(t, link, ports...)
	if err := os.WriteFile(filepath.Join(l.dir, "upload"), make([]byte, uploadBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range here {
		for _, h := range l.hosts() {
			s.serve(l, h, s.port)
		}
	}
	columns := []string{"direct", "ssh -L", "-L", "-R", "-D", "-L, unix"}
	cells := make(map[string]*cell)
	var names []string
	var mu sync.Mutex
	var players sync.WaitGroup
	turns := make(chan struct{}, atOnce/2)
	for _, s := range here {
		names = append(names, s.name)
		port := func(n uint16) netip.AddrPort { return netip.AddrPortFrom(loopback, s.port+n) }
		asks := map[string][]string{
			"direct": s.ask(netip.AddrPortFrom(l.left.Addr(), s.port)), "ssh -L": s.ask(port(3000)), "-L": s.ask(port(1000)), "-R": s.ask(port(2000)),
			"-L, unix": s.atDir(l, s.port),
		}
		if s.socks != nil {
			asks["-D"] = s.socks(netip.AddrPortFrom(loopback, socksPort), netip.AddrPortFrom(loopback, s.port))
		}
		for column, args := range asks {
			h := l.right
			if column == "-R" {
				h = l.left
			}
			c := &cell{others: make(map[string]int)}
			cells[s.name+column] = c
			for range runs {
				turns <- struct{}{}
				players.Go(func() {
					defer func() { <-turns }()
					ctx, cancel := context.WithTimeout(context.Background(), playFor)
					defer cancel()
					cmd := h.Command(ctx, args[0], args[1:]...)
					cmd.Dir = l.dir
					cmd.Env = environment()
					out, _ := cmd.CombinedOutput() // what it says counts, not how it ends
					mu.Lock()
					defer mu.Unlock()
					if strings.Contains(string(out), s.want) {
						c.add(s.want, s.want)
					} else {
						c.add(strings.Join(strings.Fields(string(out)), " "), s.want)
					}
				})
			}
		}
	}
	players.Wait()
	t.Log(drawn(names, columns, cells))
	for _, s := range here {
		for _, column := range columns[2:] {
			if c := cells[s.name+column]; c != nil && c.good < c.all {
				t.Errorf("%s, %s: %d of %d saw %q; others %v", s.name, column, c.good, c.all, s.want, c.others)
			}
		}
		if c := cells[s.name+"direct"]; link == nil && c.good < c.all {
			t.Errorf("%s, direct: %d of %d; others %v", s.name, c.good, c.all, c.others)
		}
	}
}
