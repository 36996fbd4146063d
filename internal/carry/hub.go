package carry

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bounds what a Hub spends. The zero value is a hub for a few friends.
type Limits struct {
	Rate  int           // bytes a second that one side may send; 0 is 2.5 MB (20 Mbit/s)
	Total int           // connections at once; 0 is 256
	Idle  time.Duration // a connection that sends nothing for so long is closed; 0 is two minutes
}

func (l Limits) withDefaults() Limits {
	if l.Rate <= 0 {
		l.Rate = 2_500_000
	}
	if l.Total <= 0 {
		l.Total = 256
	}
	if l.Idle <= 0 {
		l.Idle = 2 * time.Minute
	}
	return l
}

// A Hub joins pairs of connections.
type Hub struct {
	limits Limits

	mu     sync.Mutex
	halls  map[string]*hall
	conns  map[*seat]struct{}
	closed bool
	wg     sync.WaitGroup
}

// A hall is the two sides of an id. Guarded by Hub.mu.
type hall struct{ seats [2]*seat }

// A seat is one connection.
type seat struct {
	conn net.Conn
	w    *writer
}

// NewHub returns a hub without connections.
func NewHub(l Limits) *Hub {
	return &Hub{limits: l.withDefaults(), halls: make(map[string]*hall), conns: make(map[*seat]struct{})}
}

// Serve turns a request into a side of the pair with the id, and returns when that ends. A second
// connection for the same side takes the place of the first: its owner has moved. The caller has
// checked the id and counts the requests.
func (h *Hub) Serve(rw http.ResponseWriter, r *http.Request, id string, side int) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Version") != "13" || len(key) != 24 || r.ProtoMajor != 1 {
		http.Error(rw, "upgrade to websocket", http.StatusUpgradeRequired)
		return
	}
	h.mu.Lock()
	if h.closed || len(h.conns) >= h.limits.Total {
		h.mu.Unlock()
		http.Error(rw, "no room", http.StatusServiceUnavailable)
		return
	}
	s := &seat{}
	h.conns[s] = struct{}{}
	h.wg.Add(1)
	h.mu.Unlock()
	defer h.wg.Done()
	defer func() {
		h.mu.Lock()
		delete(h.conns, s)
		h.mu.Unlock()
	}()
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		http.Error(rw, "no upgrade", http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(h.limits.Idle)) // fails only when closed
	_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: " + acceptKey(key) + "\r\n\r\n"))
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	s.conn, s.w = conn, newWriter(conn, false)
	pair := h.halls[id]
	if pair == nil {
		pair = &hall{}
		h.halls[id] = pair
	}
	old := pair.seats[side]
	pair.seats[side] = s
	h.mu.Unlock()
	if old != nil {
		h.wg.Go(func() { old.conn.Close() }) // over TLS it may take some seconds
	}
	h.carry(s, pair, side, buffered.Reader)
	h.mu.Lock()
	if pair.seats[side] == s {
		pair.seats[side] = nil
	}
	if pair.seats == [2]*seat{} && h.halls[id] == pair {
		delete(h.halls, id)
	}
	h.mu.Unlock()
	s.w.close()
}

// carry passes messages to the other side, as fast as the limit allows: more is dropped.
func (h *Hub) carry(s *seat, pair *hall, side int, r *bufio.Reader) {
	limit := rate.NewLimiter(rate.Limit(h.limits.Rate), max(h.limits.Rate/10, 2*maxMessage))
	last := time.Now()
	_ = s.conn.SetReadDeadline(last.Add(h.limits.Idle))
	_ = read(r, s.w, true, func(message []byte) {
		if now := time.Now(); now.Sub(last) > h.limits.Idle/8 {
			last = now
			_ = s.conn.SetReadDeadline(now.Add(h.limits.Idle))
		}
		if !limit.AllowN(time.Now(), len(message)) {
			return
		}
		h.mu.Lock()
		other := pair.seats[1-side]
		h.mu.Unlock()
		if other != nil {
			_ = other.w.frame(opBinary, message) // dropped if its connection is slow
		}
	})
}

// Close ends all connections and waits for them.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for s := range h.conns {
		if s.conn != nil {
			h.wg.Go(func() { s.conn.Close() })
		}
	}
	h.mu.Unlock()
	h.wg.Wait()
}
