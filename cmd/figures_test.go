package cmd

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"adit/internal/control"
	"adit/internal/metrics"
	"adit/internal/metrics/strict"
	"adit/internal/relay"
	"adit/signal/rendezvous"

	"github.com/rogpeppe/go-internal/testscript"
)

// figures is a command of the scripts.
func figures(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: figures ADDR TEXT…")
	}
	args[0] = strings.TrimSuffix(strings.TrimPrefix(args[0], "http://"), "/metrics")
	missing := ""
	for end := time.Now().Add(patience); time.Now().Before(end); { // an event comes before its figure
		resp, err := http.Get("http://" + args[0] + "/metrics")
		ts.Check(err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		ts.Check(err)
		page := string(body)
		ts.Check(strict.Check(page))
		missing = ""
		for _, want := range args[1:] {
			if !strings.Contains(page, "\n"+want) {
				missing = want + " in\n" + page
			}
		}
		if missing == "" {
			return
		}
	}
	ts.Fatalf("no %s", missing)
}

// TestFigures: the page is well formed whatever peers are called, and counters go on when sessions end.
func TestFigures(t *testing.T) {
	home := control.Session{Peer: "home", Since: time.Now(), State: "up", Path: control.Path{Kind: "direct"}, Sent: 10, RTT: 12, Streams: 1}
	odd := control.Session{Peer: "a \"b\"\n", State: "interrupted", Path: control.Path{Kind: "relay", Transport: "tls"}}
	ended := map[string]totals{"home": totals{}.plus(home), "": totals{}.plus(odd)}
	var p metrics.Page
	peerFigures(&p, []control.Session{home, odd, home}, ended)
	page := string(p.Bytes())
	if err := strict.Check(page); err != nil {
		t.Errorf("%v\n%s", err, page)
	}
	for _, want := range []string{
		`adit_peer_sessions{peer="home",path="direct",transport="",state="up"} 2`,
		`adit_peer_sessions{peer="a \"b\"\n",path="relay",transport="tls",state="interrupted"} 1`,
		`adit_peer_sent_bytes_total{peer="home"} 30`,
		`adit_peer_sessions_total{peer="home"} 3`,
		`adit_peer_sessions_total{peer=""} 1`,
		`adit_peer_round_trip_seconds{peer="home"} 0.012`,
		`adit_peer_streams{peer="home"} 2`,
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
	var r *running
	r.measure(nil) // of a command that nobody asks
	r = newRunning("serve")
	var q metrics.Page
	r.figures(&q)
	if err := strict.Check(string(q.Bytes())); err != nil {
		t.Error(err)
	}
}

// TestFiguresAreDocumented: docs/metrics.md has each family, and none besides.
func TestFiguresAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`(adit_[a-z_]+)").FindAllStringSubmatch(string(b), -1) {
		documented[m[1]] = true
	}
	var p metrics.Page
	newRunning("connect").figures(&p)
	meet := rendezvous.New(rendezvous.Config{})
	defer meet.Close()
	turn, err := relay.NewTURN(relay.TURNConfig{Secret: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	serveFigures(&p, new(requests), meet, turn)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(string(p.Bytes()), -1) {
		if !documented[m[1]] {
			t.Errorf("%s is not documented", m[1])
		}
		delete(documented, m[1])
	}
	for name := range documented {
		t.Errorf("%s does not exist", name)
	}
}
