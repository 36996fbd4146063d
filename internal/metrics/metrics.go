// Package metrics writes figures in the text format that Prometheus reads, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/), and serves them over HTTP.
//
//	var p metrics.Page
//	p.Family("adit_sessions", "Peers within reach now.", metrics.Gauge)
//	p.Sample(2)
//
// A page is made anew for each request from what its maker knows at that moment: nothing is counted
// here, and nothing is kept.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// ContentType is that of a page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// A Type is what kind of figures a family has.
type Type string

const (
	Counter Type = "counter" // never falls while the process runs
	Gauge   Type = "gauge"   // rises and falls
)

// A Label tells the samples of a family apart.
type Label struct{ Name, Value string }

// A Page is figures in the making. The zero value is empty.
type Page struct {
	b    bytes.Buffer
	name string
}

// Family begins the figures of that name. A counter's name ends in _total. Its samples follow; a family
// comes once.
func (p *Page) Family(name, help string, t Type) {
	p.name = name
	fmt.Fprintf(&p.b, "# HELP %s %s\n# TYPE %s %s\n", name, helpText.Replace(help), name, t)
}

var (
	helpText  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelText = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Sample adds a figure to the family begun last. The values of its labels may be any UTF-8 text.
func (p *Page) Sample(value float64, labels ...Label) {
	p.b.WriteString(p.name)
	for i, l := range labels {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		p.b.WriteByte(sep)
		fmt.Fprintf(&p.b, `%s="%s"`, l.Name, labelText.Replace(strings.ToValidUTF8(l.Value, "\uFFFD")))
	}
	if len(labels) > 0 {
		p.b.WriteByte('}')
	}
	p.b.WriteByte(' ')
	p.b.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	p.b.WriteByte('\n')
}

// Bytes returns the page so far. It is valid until the next call.
func (p *Page) Bytes() []byte { return p.b.Bytes() }

// A Server serves a page at /metrics.
type Server struct {
	l      net.Listener
	http   *http.Server
	served chan struct{} // closed when Serve has returned
}

// Listen serves what fill makes at addr, host:port or a port; without a host it is the loopback's. fill
// is called for each request, from many goroutines.
func Listen(addr string, logger *slog.Logger, fill func(*Page)) (*Server, error) {
	if !strings.Contains(addr, ":") {
		addr = ":" + addr
	}
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	given, _, _ := net.SplitHostPort(addr) // the listener took it
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if foreign(r, given) {
			http.Error(w, "this is no place for web pages: ask by address, by localhost or by this machine's name", http.StatusForbidden)
			return
		}
		var p Page
		fill(&p)
		w.Header().Set("Content-Type", ContentType)
		_, _ = w.Write(p.Bytes()) // a client that has left needs none
	})
	s := &Server{l: l, served: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Warn("metrics are served no more", "err", err)
		}
	}()
	return s, nil
}

// foreign reports whether a request may come from a web page: it has the headers of one, or names this machine by a
// host that is not its own, as a page does whose name was made to lead here (DNS rebinding). given is the host that
// the server was told to listen at.
func foreign(r *http.Request, given string) bool {
	for name := range r.Header {
		if name == "Origin" || strings.HasPrefix(name, "Sec-Fetch-") {
			return true
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || host == strings.ToLower(given) && given != "" {
		return false
	}
	own, err := os.Hostname()
	own, _, _ = strings.Cut(strings.ToLower(own), ".")
	label, _, _ := strings.Cut(host, ".")
	return err != nil || own == "" || label != own
}

// Addr returns where it listens.
func (s *Server) Addr() net.Addr { return s.l.Addr() }

// Close ends all connections and returns when the server has ended. Requests at work get a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.served
	return err
}
