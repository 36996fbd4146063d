package metrics

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"adit/internal/leaktest"
	"adit/internal/metrics/strict"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestPage(t *testing.T) {
	var p Page
	p.Family("adit_x_total", "Back\\slash\nand line.", Counter)
	p.Sample(1.5e10, Label{"peer", "a \"quoted\\\nname\xff"}, Label{"met", "key"})
	p.Family("adit_y", "None.", Gauge)
	p.Sample(0)
	want := `# HELP adit_x_total Back\\slash\nand line.
# TYPE adit_x_total counter
adit_x_total{peer="a \"quoted\\\nname` + "\uFFFD" + `",met="key"} 1.5e+10
# HELP adit_y None.
# TYPE adit_y gauge
adit_y 0
`
	if got := string(p.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := strict.Check(want); err != nil {
		t.Error(err)
	}
}

func TestServer(t *testing.T) {
	s, err := Listen("0", slog.New(slog.DiscardHandler), func(p *Page) {
		p.Family("adit_y", "None.", Gauge)
		p.Sample(3)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.HasPrefix(s.Addr().String(), "127.0.0.1:") {
		t.Errorf("without a host it listens at %s", s.Addr())
	}
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/metrics/x": 404} {
		resp, err := http.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
		if want == 200 && (resp.Header.Get("Content-Type") != ContentType || !strings.Contains(string(body), "\nadit_y 3\n")) {
			t.Errorf("%s: %v %q", path, resp.Header, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// A web page reads nothing, not even one whose name leads here.
func TestForeign(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, header string
		want         bool
	}{
		{"127.0.0.1:9100", "", false}, {"[::1]:9100", "", false}, {"192.168.1.5", "", false}, {"localhost:9100", "", false},
		{"given.example:9100", "", false}, {name + ":9100", "", false}, {strings.ToUpper(name), "", false},
		{"evil.example:9100", "", true}, {"localhost.evil.example", "", true}, {"", "", true},
		{"127.0.0.1:9100", "Origin", true}, {"localhost", "Sec-Fetch-Site", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = c.host
		if c.header != "" {
			r.Header.Set(c.header, "none")
		}
		if got := foreign(r, "Given.example"); got != c.want {
			t.Errorf("host %q, header %q: %v, want %v", c.host, c.header, got, c.want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	f.Add("home")
	f.Add("\"\\\n\xff")
	f.Fuzz(func(t *testing.T, value string) {
		var p Page
		p.Family("x", "X.", Gauge)
		p.Sample(1, Label{"l", value})
		if err := strict.Check(string(p.Bytes())); err != nil {
			t.Error(err)
		}
	})
}
