package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/typeset"

	"github.com/urfave/cli/v2"
)

const (
	demoBytes = 64 << 20
	demoLimit = 60 * time.Second // for all of it; it takes two or three on a slow machine
)

// demoOptions are those of "adit demo".
type demoOptions struct {
	given
	outputOptions
	keep bool
}

func newDemoOptions() *demoOptions { return new(demoOptions) }

func (o *demoOptions) list() []option {
	return slices.Concat(own("demo",
		option{name: "keep", to: &o.keep, usage: "leave the tunnel up until Ctrl-C"},
	), o.outputOptions.list())
}

func (o *demoOptions) check(bad *complaints) { o.outputOptions.check(bad) }

func demoCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:  "demo",
		Usage: "see it work on this machine alone",
		Description: `See it work on this machine alone: a rendezvous, a web server, a peer that exposes it and
one that connects, as processes of their own. It needs no network but loopback.

  adit demo                  run it and report what was measured
  adit demo --keep           leave the tunnel up until Ctrl-C`,
	}, newDemoOptions, func(ctx context.Context, u *ui, o *demoOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit demo --keep", "demo takes no arguments")
		}
		return demo(ctx, u, o.keep)
	})
}

// demo starts
//
//	rendezvous + STUN          a process of this binary
//	web server <- exposer      the server in this process, the exposer one of its own
//	connecter                  a process of this binary
//
// and fetches through the connecter's port.
func demo(ctx context.Context, u *ui, keep bool) error {
	started := time.Now()
	limit, cancel := context.WithTimeoutCause(ctx, demoLimit, fmt.Errorf("the demo did not end within %s", demoLimit))
	defer cancel()

	web, digest, err := demoWeb()
	if err != nil {
		return err
	}
	defer web.Close()

	family := newFamily(u)
	defer family.end()
	// The commands as a person would type them; the demo itself adds --json to read what they say.
	serve, err := family.start(limit, "serve", "--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--external-ip", "127.0.0.1")
	if err != nil {
		return err
	}
	meetAt := ""
	for range 2 { // it listens twice, for HTTP and for STUN
		e, err := serve.await(limit, event.Listening)
		if err != nil {
			return err
		}
		if e.Target == "http" {
			meetAt = "http://" + e.Addr
		}
	}
	expose, err := family.start(limit, "expose", web.Addr().String(), "--signal", meetAt, "--loopback")
	if err != nil {
		return err
	}
	invited, err := expose.await(limit, event.Code)
	if err != nil {
		return err
	}
	joined := time.Now()
	connect, err := family.start(limit, "connect", invited.code(), "-L", "0", "--signal", meetAt, "--loopback")
	if err != nil {
		return err
	}
	up, err := connect.await(limit, event.Up)
	if err != nil {
		return err
	}
	upAfter := time.Since(joined)
	forward, err := connect.await(limit, event.Listening)
	if err != nil {
		return err
	}
	u.say("")
	u.say("path        %s: %s ↔ %s, up after %d ms", up.Path, up.Local, up.Remote, upAfter.Milliseconds())
	u.say("round trip  %s", typeset.Milliseconds(up.RTT))

	took, got, err := fetch(limit, "http://"+forward.Addr+"/")
	if err != nil {
		return err
	}
	if got != digest {
		return fmt.Errorf("SHA-256 of what came through the tunnel is %s, want %s", got, digest)
	}
	u.say("fetched     64 MiB through the tunnel in %.2f s: %.0f Mbit/s", took.Seconds(), 8*demoBytes/took.Seconds()/1e6)
	u.say("SHA-256     %s, as sent", got)
	u.say("all in all  %.1f s", time.Since(started).Seconds())
	if keep {
		u.say("")
		u.say("The tunnel stays up: curl http://%s/ -o file. Ctrl-C ends it.", forward.Addr)
		<-ctx.Done()
	}
	return family.end()
}

// A web is the service that the demo exposes: 64 MiB that only look random.
type web struct {
	net.Listener
	server *http.Server
	served chan struct{}
}

func demoWeb() (*web, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", &fail.Failure{Code: fail.Listen, Message: err.Error(), Hint: "the demo needs the loopback interface"}
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, demoContent()); err != nil {
		return nil, "", err
	}
	w := &web{Listener: l, served: make(chan struct{})}
	w.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(demoBytes))
			_, _ = io.Copy(rw, demoContent()) // a client that goes away is its own business
		}),
	}
	go func() {
		defer close(w.served)
		_ = w.server.Serve(l) // ends with Close
	}()
	return w, hex.EncodeToString(hash.Sum(nil)), nil
}

func (w *web) Close() error {
	err := w.server.Close()
	<-w.served
	return err
}

func demoContent() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte([]byte("the level passage by which a mine"))), demoBytes)
}

// fetch returns how long a download took and the SHA-256 of what came.
func fetch(ctx context.Context, url string) (time.Duration, string, error) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{} // without a proxy, which the environment may name
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("fetch through the tunnel: %w", err)
	}
	defer resp.Body.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, resp.Body); err != nil {
		return 0, "", fmt.Errorf("fetch through the tunnel: %w", err)
	}
	return time.Since(start), hex.EncodeToString(hash.Sum(nil)), nil
}
