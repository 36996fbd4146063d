package acceptance

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// endsRuns is how often each row of the tables of ends is played on each way; 0 leaves it to the tier.
var endsRuns = flag.Int("ends", 0, "how often each row of the tables of ends is played")

// runs returns how often each row is played: the full tier is for the record, the others show that each holds.
func runs() int {
	switch {
	case *endsRuns > 0:
		return *endsRuns
	case testtier.IsFull():
		return 100
	case testtier.IsLong():
		return 3
	}
	return 1
}

// A view is what the two programs saw of a connection's end; "" is a program that does not look.
type view struct{ client, server string }

func (v view) String() string {
	switch {
	case v.server == "":
		return v.client
	case v.client == "":
		return "server: " + v.server
	}
	return v.client + "; server: " + v.server
}

// An ending is one row: what the two programs do, and what they see of it.
//
// What TCP promises without a tunnel, on one machine where nothing is lost: bytes that the receiving kernel has
// acknowledged are read before an end and before a reset that comes after them. So the rows write what fits into the
// buffers of a fresh connection, or wait for the acknowledgement, and reset after that; then direct gives the same view
// each time. Where packets are lost a reset may overtake a repair, and direct loses bytes that a tunnel keeps: there
// only the tunnel is judged, by the view that direct gives where nothing is lost.
type ending struct {
	name string
	play func(client, server program) view
	to   destination // if not the server: nothing is played, the client reads

	want view  // directly, and through TCP at both ends of a tunnel
	via  *view // in the place of want where a proxy cannot do better

	// A pipe has no reset: a program that holds one ends its direction or closes it. Its exit code tells a reset from
	// an end.
	noPipe bool
	// A unix socket has no reset but for one: who closes with input unread gives the other ECONNRESET. A proxy has
	// read that input, so its client sees an end where the server's socket gave a reset.
	noUnix        bool
	unix, unixVia *view

	brief bool // in the short tier too

	small bool // the client's receive buffer is as small as there is. Direct loses what did not fit: ssh -L is the measure
}

func (e *ending) wanted(r *route) (view, bool) {
	switch {
	case r.pipe && e.noPipe, r.unix && e.noUnix:
		return view{}, false
	case r.direct && r.unix && e.unix != nil:
		return *e.unix, true
	case r.unix && !r.direct && e.unixVia != nil:
		return *e.unixVia, true
	case !r.direct && e.via != nil:
		if e.to == toNothing && r.name == "-D" {
			return view{client: "SOCKS 5"}, true // connection refused
		}
		if e.to == toSilence && r.name == "-D" {
			return view{client: "SOCKS 4 or 6"}, true // host unreachable, or the time to live has expired
		}
		return *e.via, true
	}
	return e.want, true
}

// Sizes of what is written. Each fits into the buffers of a connection that has just begun.
const (
	question = 1000
	answer   = 20_000
	swollen  = 40_000
	plenty   = 1 << 20
)

var endings = []ending{
	{
		name: "server writes and closes",
		play: func(c, s program) view { s.write(answer); s.close(); return view{client: c.drain()} },
		want: view{client: "20000 bytes, end"},
	},
	{
		name: "client writes and closes",
		play: func(c, s program) view { c.write(answer); c.close(); return view{server: s.drain()} },
		want: view{server: "20000 bytes, end"},
	},
	{
		name: "client half-closes, server answers",
		play: func(c, s program) view {
			c.write(answer)
			c.finish()
			v := view{server: s.drain()}
			s.write(answer)
			s.close()
			v.client = c.drain()
			return v
		},
		want: view{"20000 bytes, end", "20000 bytes, end"},
	},
	{
		name:  "server half-closes, client answers",
		brief: true,
		play: func(c, s program) view {
			s.write(answer)
			s.finish()
			v := view{client: c.drain()}
			c.write(answer)
			c.close()
			v.server = s.drain()
			return v
		},
		want:   view{"20000 bytes, end", "20000 bytes, end"},
		noPipe: true, // the end of what the server sends is the end of -W, as of ssh -W
	},
	{
		name: "both half-close at once",
		play: func(c, s program) view {
			c.write(answer)
			s.write(answer)
			c.finish()
			s.finish()
			return view{c.drain(), s.drain()}
		},
		want: view{"20000 bytes, end", "20000 bytes, end"},
	},
	{
		name:   "server writes and resets",
		play:   func(c, s program) view { s.write(answer); s.reset(); return view{client: c.drain()} },
		want:   view{client: "20000 bytes, reset"},
		noUnix: true,
	},
	{
		name:   "client writes and resets",
		play:   func(c, s program) view { c.write(answer); c.reset(); return view{server: s.drain()} },
		want:   view{server: "20000 bytes, reset"},
		noUnix: true, noPipe: true,
	},
	{
		name:  "server writes 1 MiB and resets when it has arrived",
		brief: true,
		play: func(c, s program) view {
			saw := make(chan string, 1)
			go func() { saw <- c.drain() }()
			s.write(plenty)
			s.acknowledged()
			s.reset()
			return view{client: <-saw}
		},
		want:   view{client: "1048576 bytes, reset"},
		noUnix: true,
	},
	{
		name:  "server reads 1 byte of 1000, answers and closes",
		brief: true,
		play: func(c, s program) view {
			c.write(question)
			s.holds(question)
			s.read(1)
			s.write(answer)
			s.close()
			return view{client: c.drain()}
		},
		want:    view{client: "20000 bytes, reset"},
		unixVia: &view{client: "20000 bytes, end"},
	},
	{
		name:  "client writes and closes, a banner unread",
		brief: true,
		play: func(c, s program) view {
			s.write(question)
			c.holds(question)
			c.write(answer)
			c.close()
			return view{server: s.drain()}
		},
		want:    view{server: "20000 bytes, reset"},
		unixVia: &view{server: "20000 bytes, end"},
		noPipe:  true,
	},
	{
		name:  "client half-closes, server answers and resets",
		brief: true,
		play: func(c, s program) view {
			c.write(question)
			c.finish()
			v := view{server: s.drain()}
			s.write(answer)
			s.reset()
			v.client = c.drain()
			return v
		},
		want:   view{"20000 bytes, reset", "1000 bytes, end"},
		noUnix: true,
	},
	{
		name: "server half-closes, client answers and resets",
		play: func(c, s program) view {
			s.write(question)
			s.finish()
			v := view{client: c.drain()}
			c.write(answer)
			c.reset()
			v.server = s.drain()
			return v
		},
		want:   view{"1000 bytes, end", "20000 bytes, reset"},
		noUnix: true, noPipe: true,
	},
	{
		name: "server writes 40000 and resets, client reads later with a small buffer",
		play: func(c, s program) view {
			s.write(swollen)
			s.reset()
			time.Sleep(300 * time.Millisecond) // the client is busy; nothing waits for this
			return view{client: c.drain()}
		},
		want:   view{client: "40000 bytes, reset"},
		small:  true,
		noUnix: true, noPipe: true,
	},
	{
		name: "server process is killed",
		play: func(c, s program) view { s.write(answer); s.die(); return view{client: c.drain()} },
		want: view{client: "20000 bytes, end"}, // its kernel closes in good order, and nobody can tell
	},
	{
		name: "server process is killed with input unread",
		play: func(c, s program) view {
			c.write(question)
			s.holds(question)
			s.write(answer)
			s.die()
			return view{client: c.drain()}
		},
		want:    view{client: "20000 bytes, reset"},
		unixVia: &view{client: "20000 bytes, end"},
	},
	{
		name: "client process is killed",
		play: func(c, s program) view { c.write(answer); c.die(); return view{server: s.drain()} },
		want: view{server: "20000 bytes, end"},
	},
	{
		name: "client process is killed with input unread",
		play: func(c, s program) view {
			s.write(question)
			c.holds(question)
			c.write(answer)
			c.die()
			return view{server: s.drain()}
		},
		want:    view{server: "20000 bytes, reset"},
		unixVia: &view{server: "20000 bytes, end"},
		noPipe:  true,
	},
	{
		name: "client closes, server goes on writing",
		play: func(c, s program) view {
			c.write(question)
			c.close()
			return view{server: s.drain() + ", " + s.floods()}
		},
		want: view{server: "1000 bytes, end, write fails"},
	},
	{
		name: "server closes, client goes on writing",
		play: func(c, s program) view {
			s.write(question)
			s.close()
			return view{client: c.drain() + ", " + c.floods()}
		},
		want: view{client: "1000 bytes, end, write fails"},
	},
	{
		name: "server resets while client writes",
		play: func(c, s program) view {
			c.write(question)
			s.read(1)
			s.reset()
			return view{client: c.floods()}
		},
		want: view{client: "write fails"},
	},
	{
		name: "client resets while server writes",
		play: func(c, s program) view {
			s.write(question)
			c.read(1)
			c.reset()
			return view{server: s.floods()}
		},
		want:   view{server: "write fails"},
		noPipe: true,
	},
	{
		name:    "refused",
		brief:   true,
		to:      toNothing,
		want:    view{client: "refused"},
		via:     &view{client: "0 bytes, reset"}, // the client has been accepted already
		unix:    &view{client: "no such file"},
		unixVia: &view{client: "0 bytes, end"},
	},
	{
		name:   "timed out",
		to:     toSilence,
		want:   view{client: "timed out"},
		via:    &view{client: "0 bytes, reset"},
		noUnix: true,
	},
}

// TestEnds is the table of docs/streams.md: how the same two programs see a connection end, directly, through ssh -L,
// and through adit, on one machine, and over 40 ms that lose one packet in a hundred.
func TestEnds(t *testing.T) {
	t.Run("near", func(t *testing.T) {
		t.Parallel()
		rows := endings
		if !testtier.IsLong() && *endsRuns == 0 {
			rows = slices.DeleteFunc(slices.Clone(rows), func(e ending) bool { return !e.brief })
		}
		newEndsLab(t, nil).table(rows, runs(), true)
	})
	t.Run("far", func(t *testing.T) {
		testtier.Long(t)
		t.Parallel()
		newEndsLab(t, lossy).table(endings, runs(), false)
	})
}

var lossy = &netlab.LinkConfig{Delay: 20 * time.Millisecond, Loss: 0.01}

// atOnce is how many connections of a table are played at a time.
const atOnce = 8

// table plays all rows on all routes, prints what came of it, and complains of what adit did otherwise; clean says that
// nothing is lost, so that direct must show what the row expects.
func (l *endsLab) table(rows []ending, runs int, clean bool) {
	t := l.t
	t.Helper()
	cells := make(map[string]*cell)
	var mu sync.Mutex
	var players sync.WaitGroup
	turns := make(chan struct{}, atOnce)
	for range runs {
		for i := range rows {
			for _, r := range l.routes {
				e := &rows[i]
				want, ok := e.wanted(r)
				if !ok {
					continue
				}
				turns <- struct{}{}
				players.Go(func() {
					defer func() { <-turns }()
					got := l.play(e, r)
					mu.Lock()
					defer mu.Unlock()
					c := cells[e.name+r.name]
					if c == nil {
						c = &cell{others: make(map[string]int)}
						cells[e.name+r.name] = c
					}
					c.add(got, want.String())
				})
			}
		}
	}
	players.Wait()
	names := make([]string, len(rows))
	for i := range rows {
		names[i] = rows[i].name
	}
	var columns []string
	for _, r := range l.routes {
		columns = append(columns, r.name)
	}
	t.Log(drawn(names, columns, cells))
	for i := range rows {
		for _, r := range l.routes {
			c := cells[rows[i].name+r.name]
			if c == nil || c.good == c.all || r.foreign || r.direct && (!clean || rows[i].small) {
				continue
			}
			want, _ := rows[i].wanted(r)
			t.Errorf("%s, %s: %d of %d saw %q; others %v", rows[i].name, r.name, c.good, c.all, want, c.others)
		}
	}
}

// A cell counts what was seen of one row on one route.
type cell struct {
	good, all int
	others    map[string]int
}

func (c *cell) add(got, want string) {
	c.all++
	if got == want || strings.HasPrefix(want, "SOCKS 4 or 6") && (got == "SOCKS 4" || got == "SOCKS 6") {
		c.good++
		return
	}
	c.others[got]++
}

// drawn writes a table: how many of how many were as they should be, and below a row what was seen in their place most
// often.
func drawn(rows, columns []string, cells map[string]*cell) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-74s", "")
	for _, c := range columns {
		fmt.Fprintf(&b, "%14s", c)
	}
	for _, row := range rows {
		fmt.Fprintf(&b, "\n%-74s", row)
		var notes []string
		for _, column := range columns {
			c := cells[row+column]
			if c == nil {
				fmt.Fprintf(&b, "%14s", "-")
				continue
			}
			fmt.Fprintf(&b, "%14s", fmt.Sprintf("%d of %d", c.good, c.all))
			most := ""
			for other, n := range c.others {
				if most == "" || n > c.others[most] {
					most = other
				}
			}
			if most != "" {
				notes = append(notes, fmt.Sprintf("%s: %d × %s", column, c.others[most], most))
			}
		}
		for _, n := range notes {
			fmt.Fprintf(&b, "\n    %s", n)
		}
	}
	return b.String()
}

// play makes one connection by r and returns what the programs saw.
func (l *endsLab) play(e *ending, r *route) string {
	if e.to != toServer {
		p, err := r.dial(e.to, false)
		if err != nil {
			return refusal(err)
		}
		defer part(p)
		return p.drain()
	}
	client, server, err := l.connect(r, e.small)
	if err != nil {
		return err.Error()
	}
	defer part(client)
	defer part(server)
	v := e.play(client, server).String()
	for who, p := range map[string]program{"client": client, "server": server} {
		if f := p.fault(); f != "" {
			v += "; " + who + ": " + f
		}
	}
	return v
}

// refusal names why a connection was not made.
func refusal(err error) string {
	var timeout net.Error
	var socks socksError
	switch {
	case errors.As(err, &socks):
		return socks.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET): // while the dial still looked at its connection
		return "0 bytes, reset"
	case errors.Is(err, syscall.ENOENT):
		return "no such file"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	return err.Error()
}

// TestEndsOfSessions: a process of adit that is told to end, or killed, in the middle of a connection is seen as a reset
// by both programs, at both ends of the tunnel. It never looks like the end of what was written.
func TestEndsOfSessions(t *testing.T) {
	l := newBareLab(t, nil)
	for _, side := range []string{"exposer", "connecter"} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			t.Run(fmt.Sprint(side, " ", sig), func(t *testing.T) {
				if sig == syscall.SIGKILL {
					testtier.Long(t) // the other side waits to be sure
				}
				t.Parallel()
				w := l.w.in(t)
				exposer, code := w.expose(l.left, l.at(toServer))
				connecter, port := w.forward(l.right, code)
				r := &route{client: l.right, server: l.left, dial: func(_ destination, small bool) (program, error) { return l.dialTCP(l.right, port, small) }}
				client, server, err := l.connect(r, false)
				if err != nil {
					t.Fatal(err)
				}
				defer part(client)
				defer part(server)
				client.write(question)
				server.read(question)
				server.write(answer)
				client.read(answer)
				victim := exposer
				if side == "connecter" {
					victim = connecter
				}
				_ = victim.cmd.Process.Signal(sig) // it runs
				if got, want := (view{client.drain(), server.drain()}), (view{"20000 bytes, reset", "1000 bytes, reset"}); got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		}
	}
}
