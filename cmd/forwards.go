package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/event"
	"adit/internal/peer"
	"adit/reliable"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// comma stands for a comma inside a value of -L and -R, which the flag parser would cut there.
const comma = "\x1f"

// joined protects the commas of a value of -L and -R: "80,443:host" is one forward.
func joined(flag, value string) string {
	if flag == "local" || flag == "remote" {
		return strings.ReplaceAll(value, ",", comma)
	}
	return value
}

// A forwarding is what -L, -R and -D ask for.
type forwarding struct {
	local   []tunnel.Forward
	remote  []tunnel.Forward
	dynamic []tunnel.Forward
}

func (f forwarding) empty() bool { return len(f.local)+len(f.remote)+len(f.dynamic) == 0 }

func forwardFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "local", Aliases: []string{"L"}, Usage: "`FORWARD` a port to the peer: [BIND:]PORT[:HOST:HOSTPORT][/udp], as in ssh; several times if you like"},
		&cli.StringSliceFlag{Name: "remote", Aliases: []string{"R"}, Usage: "have the peer listen and `FORWARD` to this side: [BIND:]PORT:HOST:HOSTPORT[/udp]"},
		&cli.StringSliceFlag{Name: "dynamic", Aliases: []string{"D"}, Usage: "serve SOCKS 5 at `[BIND:]PORT`; the peer connects to what its clients ask for"},
		&cli.StringFlag{Name: "flow-memory", Usage: "let flows of datagrams, 32 KiB each, take `SIZE` in all, say 64MiB", DefaultText: "four fifths of --memory"},
	}
}

// forwardingOf reads the flags of forwardFlags.
func forwardingOf(c *cli.Context) (forwarding, error) {
	return parseForwarding(c.StringSlice("local"), c.StringSlice("remote"), c.StringSlice("dynamic"))
}

// parseForwarding reads forwards as -L, -R and -D have them.
func parseForwarding(local, remote, dynamic []string) (forwarding, error) {
	var f forwarding
	var err error
	if f.local, err = parseForwards(local, checkPlace); err != nil {
		return f, usagef("for example: adit connect -L 2222", "%v", err)
	}
	if f.remote, err = parseForwards(remote, func(f tunnel.Forward) error {
		if f.Target.IsDefault() {
			return fmt.Errorf("forward %q of -R does not say where its connections go: write %s:localhost:80, for example", f, f)
		}
		return f.Target.CheckHere()
	}); err != nil {
		return f, usagef("for example: adit connect -R 8080:localhost:80", "%v", err)
	}
	if f.dynamic, err = parseForwards(dynamic, func(f tunnel.Forward) error {
		if !f.Target.IsDefault() || f.Target.UDP {
			return fmt.Errorf("-D takes a port, or bind:port, and no target: %q has one", f)
		}
		return checkPlace(f)
	}); err != nil {
		return f, usagef("for example: adit connect -D 1080", "%v", err)
	}
	return f, nil
}

// checkPlace returns why this system can never listen where f says, or nil.
func checkPlace(f tunnel.Forward) error { return tunnel.Target{Path: f.Path}.CheckHere() }

func parseForwards(texts []string, check func(tunnel.Forward) error) ([]tunnel.Forward, error) {
	var forwards []tunnel.Forward
	for _, s := range texts {
		several, err := tunnel.ParseForwards(strings.ReplaceAll(s, comma, ","))
		if err != nil {
			return nil, err
		}
		for _, f := range several {
			if err := check(f); err != nil {
				return nil, err
			}
			forwards = append(forwards, f)
		}
	}
	return forwards, nil
}

// allowFlags say what the peer may do here.
func allowFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "allow", Usage: "let the peer connect to `RULE`: [HOST:]PORT[-PORT], 10.0.0.0/8:PORT, *.lan:PORT, unix:/path, with /udp for datagrams; several times if you like"},
		&cli.StringSliceFlag{Name: "allow-remote", Usage: "let the peer have this side listen (-R) where `RULE` says: PORT[-PORT] of localhost, BIND:PORT, unix:/path; port 0 is any"},
		&cli.StringSliceFlag{Name: "allow-dynamic", Usage: "let the peer reach by SOCKS (-D) what `RULE` names, '*' for everything"},
		&cli.IntFlag{Name: "max-streams", Usage: "let the peer have `N` streams at once", DefaultText: "what a session holds"},
	}
}

// remoteWait is how long a peer may take to listen where -R says before others have their turn.
const remoteWait = 15 * time.Second

// errNoAnswer says that remoteWait was not enough.
var errNoAnswer = errors.New("the peer does not answer")

// A carrier is what a forwarder needs of a session: a *peer.Session.
type carrier interface {
	Streams() *reliable.Session
	Targets() []string
	Stats() peer.Stats
	Wait() error
}

// A forwarder has what a forwarding asks for: its listeners are open before there is a session, so that
// a port in use does not cost a code. What is asked for may change later.
type forwarder struct {
	u       *ui
	session *laterSession
	remotes *tunnel.Remotes
	ctx     context.Context // of the listeners: it ends with close
	command context.Context // of the command: what waits for the peer to answer ends with it, too

	peer string // its name, where there are forwards to several; constant

	stop   context.CancelCauseFunc
	served chan error // the one result of Serve; nil before begin

	mu      sync.Mutex
	plan    forwarding
	begun   carrier // nil while there is none
	closed  bool
	opened  []opened
	drained []*tunnel.Listener // listened at no more; what is open there goes on
}

// opened is one forward that is in force.
type opened struct {
	flag    string // "-L", "-R" or "-D"
	forward tunnel.Forward
	chosen  bool                   // by the command itself
	told    event.Event            // of its place, once there was a session
	here    *tunnel.Listener       // of -L and -D
	there   *tunnel.RemoteListener // of -R; nil before begin
}

// openForwards listens, for a command that ends with ctx. The caller closes what it returns.
func openForwards(ctx context.Context, u *ui, plan forwarding) (*forwarder, error) {
	f := &forwarder{u: u, session: newLaterSession(), remotes: tunnel.NewRemotes(), command: ctx}
	f.ctx, f.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	f.mu.Lock()
	err := f.changeLocked(plan)
	f.mu.Unlock()
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// begin starts to forward over s, as use does, and serves the peer's streams by offer. While the path is interrupted it
// waits for the peer's answer to -R, as long as the session and the command last.
func (f *forwarder) begin(s carrier, offer tunnel.Offer) error {
	offer.Remotes = f.remotes
	served := make(chan error, 1)
	f.served = served
	go func() { served <- tunnel.Serve(f.ctx, tunnel.Over(s.Streams()), offer, f.streamOptions()) }()
	err := f.use(s)
	for errors.Is(err, errNoAnswer) {
		f.mu.Lock() // whoever waits has had a turn
		err = f.changeLocked(f.plan)
		f.mu.Unlock()
	}
	return err
}

// use forwards over s: it tells where is listened, and has the peer listen. A peer that does not is an error, and
// errNoAnswer one that is silent. Somebody serves s with the set of remotes.
func (f *forwarder) use(s carrier) error {
	f.session.set(tunnel.Over(s.Streams()))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = s
	for i := range f.opened {
		f.tell(&f.opened[i])
	}
	return f.changeLocked(f.plan)
}

// pause is for the end of a session that another will follow: its listeners stay, and their connections wait for
// begin.
func (f *forwarder) pause() {
	f.session.gone()
	if f.served != nil {
		<-f.served
		f.served = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = nil
	f.opened = slices.DeleteFunc(f.opened, func(o opened) bool { // begin asks for them again
		if o.there != nil {
			_ = o.there.Close() // the session has ended, most likely
			f.u.run.unlisten(o.told)
		}
		return o.there != nil
	})
}

// streamOptions reports streams as events, with the peer's name where there are several.
func (f *forwarder) streamOptions() tunnel.Options {
	return tunnel.Options{Logger: f.u.logger(), Flows: f.u.flows, OnStream: func(e tunnel.StreamEvent) {
		f.u.event(event.Event{Name: event.Stream, Peer: f.peer, State: e.State, Target: e.Target, Message: e.Reason})
	}}
}

// close ends all of it. Closing a listener resets what is left of its connections, so it comes after the
// session's goodbye.
func (f *forwarder) close() {
	f.stop(net.ErrClosed)
	f.mu.Lock()
	f.closed = true
	for _, o := range f.opened {
		if o.here != nil {
			_ = o.here.Close() // never fails
		}
	}
	for _, l := range f.drained {
		_ = l.Close() // never fails
	}
	f.mu.Unlock()
	if f.served != nil {
		<-f.served // for the goroutines; the reason why it ended is the session's
		f.served = nil
	}
}
