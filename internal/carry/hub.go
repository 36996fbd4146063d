package carry

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"adit/internal/fair"
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
	shares fair.Pool[*seat] // of the same, by address
	closed bool
	wg     sync.WaitGroup
}

// A hall is the two sides of an id. Guarded by Hub.mu.
type hall struct{ seats [2]*seat }

// A seat is one connection.
type seat struct {
	conn  net.Conn // nil before it is taken over from the HTTP server
	w     *writer
	share *fair.Member[*seat]
	lost  bool // it had to make room for another
}

// NewHub returns a hub without connections.
func NewHub(l Limits) *Hub {
	return &Hub{limits: l.withDefaults(), halls: make(map[string]*hall), conns: make(map[*seat]struct{})}
}

// Serve turns a request from an address into a side of the pair with the id, and returns when that ends. A second
// connection for the same side takes the place of the first: its owner has moved. Where all connections are in use the
// network that has the most gives one up. The caller has checked that the request belongs to the pair. The result is
// false if there is no room, which the client has been told.
func (h *Hub) Serve(rw http.ResponseWriter, r *http.Request, id string, side int, from netip.Addr) bool {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Version") != "13" || len(key) != 24 || r.ProtoMajor != 1 {
		http.Error(rw, "upgrade to websocket", http.StatusUpgradeRequired)
		return true
	}
	h.mu.Lock()
	if h.closed || !h.makeRoomLocked(from) {
		h.mu.Unlock()
		http.Error(rw, "no room", http.StatusServiceUnavailable)
		return false
	}
	s := &seat{}
	s.share = h.shares.Add(from, 1, s)
	h.conns[s] = struct{}{}
	h.wg.Add(1)
	h.mu.Unlock()
	defer h.wg.Done()
	defer func() {
		h.mu.Lock()
		h.forgetLocked(s)
		h.mu.Unlock()
	}()
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		http.Error(rw, "no upgrade", http.StatusInternalServerError)
		return true
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(h.limits.Idle)) // fails only when closed
	_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: " + acceptKey(key) + "\r\n\r\n"))
	if err != nil {
		return true
	}
	_ = conn.SetDeadline(time.Time{})
	h.mu.Lock()
	if h.closed || s.lost {
		h.mu.Unlock()
		return true
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
	return true
}

// makeRoomLocked says whether there is room for a connection from an address, and ends another if need be.
func (h *Hub) makeRoomLocked(from netip.Addr) bool {
	if len(h.conns) < h.limits.Total {
		return true
	}
	victim, own := h.shares.Victim(from, 1)
	if victim == nil || own {
		return false
	}
	s := victim.Value
	h.forgetLocked(s)
	s.lost = true
	if s.conn != nil {
		h.wg.Go(func() { s.conn.Close() }) // over TLS it may take some seconds
	}
	return true
}

func (h *Hub) forgetLocked(s *seat) {
	delete(h.conns, s)
	h.shares.Remove(s.share)
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
