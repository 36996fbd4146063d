package rendezvous

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// pollLeast is what a client has to ask for, so that the server chooses how long it waits.
const pollLeast = 20 * time.Second

// get answers with one message of the other side, and waits for it as long as the client asked.
func (s *Server) get(q *request) *problem {
	token, _, p := s.member(q)
	if p != nil {
		return p
	}
	return s.wait(q, token, func() ([]byte, <-chan struct{}, *problem) {
		b, changed, err := s.store.Get(q.r.Context(), q.to.name, token, q.to.seq)
		if err != nil {
			return nil, nil, s.storeProblem(err)
		}
		return b, changed, nil
	})
}

// wait answers with what look returns once it is there, or with 204 if that takes longer than the client
// asked for. look is asked again when the channel that it returned is closed. token is what the client has shown, or
// nothing.
func (s *Server) wait(q *request, token string, look func() ([]byte, <-chan struct{}, *problem)) *problem {
	wait, ok := parseWait(q.r.URL.RawQuery)
	if !ok || q.r.ContentLength != 0 {
		return &problem{status: http.StatusBadRequest, text: "a poll has the query wait=SECONDS and no body"}
	}
	p, limit := s.limits.poll(q.addr, token)
	if limit != "" {
		return tooManyPolls(limit)
	}
	defer p.done()
	wait = lasting(q.w, wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		b, changed, p2 := look()
		if p2 != nil {
			return p2
		}
		if b != nil {
			q.w.Header().Set("Content-Type", ContentType)
			q.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = q.w.Write(b) // a client that left asks again
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			q.w.WriteHeader(http.StatusNoContent)
			return nil
		case <-p.kicked:
			return busy(limitPolls)
		case <-q.r.Context().Done():
			return nil // nobody is there to hear
		case <-s.done:
			return going()
		}
	}
}

func tooManyPolls(limit string) *problem {
	if limit == limitPolls {
		return busy(limit)
	}
	return tooMany(limit, "too many polls at once from this address", 2*time.Second)
}

// lasting makes a request one that lasts: the deadlines of the http.Server are those of a quick one. Its read
// deadline would end the request, for the server reads on in order to notice that the client left. It returns how
// long the request waits: up to a sixth less than was asked for, by chance, so that those who came together do not
// come back together.
func lasting(w http.ResponseWriter, wait time.Duration) time.Duration {
	if wait >= pollLeast {
		wait -= rand.N(wait / 6)
	}
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{}) // a writer that cannot has no deadlines
	_ = c.SetWriteDeadline(time.Now().Add(wait + writeSlack))
	return wait
}

// parseWait reads the query of a poll: nothing, or wait= and 0 to 60 seconds.
func parseWait(query string) (time.Duration, bool) {
	if query == "" {
		return 0, true
	}
	v, ok := strings.CutPrefix(query, "wait=")
	if !ok || len(v) > 4 || !isDigits(v) {
		return 0, false
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, false
	}
	return min(time.Duration(n)*time.Second, maxWait), true
}

// bearer returns the token of a request.
func bearer(h http.Header) (string, bool) {
	token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return token, ok && isHex(token)
}

// fromBrowser says whether a web page made the request. Pages shall not be able to use a rendezvous
// through their visitors, who share its limits and may be inside its network.
func fromBrowser(h http.Header) bool {
	for name := range h {
		if name == "Origin" || strings.HasPrefix(name, "Sec-Fetch-") {
			return true
		}
	}
	return false
}

// clientAddr returns the address that a request comes from: the last one in X-Forwarded-For that is
// not a trusted proxy, if a trusted proxy sent it.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a listener on a unix socket, say: all of its clients share one account
	}
	addr := ap.Addr().Unmap()
	if !s.trusted(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break // what stands further left is no better
		}
		addr = hop.Unmap()
		if !s.trusted(addr) {
			break
		}
	}
	return addr
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.cfg.TrustedProxies {
		if p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}
