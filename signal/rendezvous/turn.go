package rendezvous

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"adit/signal"
)

// defaultTURNLife is how long a credential works. It is for making allocations: what is in use goes on, and a session
// that needs another allocation later has its credential renewed.
const defaultTURNLife = 15 * time.Minute

// relayHeader carries a credential that was handed out before, "USERNAME PASSWORD", when another is asked for.
const relayHeader = "Adit-Relay"

// TURN says which relays the two peers of a room may use. The zero value is none.
type TURN struct {
	// URLs lists them (RFC 7065), with or without a port. An empty host, as in turn::3478?transport=udp,
	// stands for the host that the client asked for.
	URLs []string
	// Secret makes the passwords, and the relays have it too: a username is "SECONDS:PAIR.SIDE", with the Unix
	// time at which it ends, and its password base64(HMAC-SHA1(Secret, username))
	// (draft-uberti-behave-turn-rest-00; coturn's use-auth-secret).
	Secret []byte
	// Life is how long a credential works; 15 minutes if 0.
	Life time.Duration
	// Seen hears from which address a side of a pair has made a request that carries its secret: the relay may send to
	// that one. It may be nil.
	Seen func(pair string, addr netip.Addr)
}

// turnReply is what a peer is told, in a room that both are in.
type turnReply struct {
	TURN    []signal.TURNServer `json:"turn"`
	Seconds int                 `json:"seconds"` // how long the credentials work
	Pass    string              `json:"pass,omitempty"`
}

// turn tells a side of a room its relays. The other side must be there: whoever opens rooms on his own
// gets nothing out of it.
func (s *Server) turn(q *request) *problem {
	w, r, to := q.w, q.r, q.to
	token, ok := bearer(r.Header)
	if !ok {
		return s.storeProblem(ErrToken)
	}
	p, err := s.store.Place(r.Context(), to.name, token)
	switch {
	case err != nil:
		return s.storeProblem(err)
	case !p.Both:
		return &problem{status: http.StatusConflict, text: "the other side has not come yet"}
	}
	reply(w, http.StatusOK, s.turnFor(q, to.name, p.Side))
	return nil
}

// seen tells the relay from where a side of a room or a mailbox has shown its secret.
func (s *Server) seen(id string, addr netip.Addr) {
	if s.cfg.TURN.Seen != nil && len(s.cfg.TURN.URLs) > 0 {
		s.cfg.TURN.Seen(pairOf(id), addr)
	}
}

// pairOf returns the name that the two sides of a room have at a relay, whose operator need not know the room.
func pairOf(id string) string {
	sum := sha256.Sum256([]byte("adit turn " + id))
	return hex.EncodeToString(sum[:12])
}

// password returns what belongs to a username.
func (s *Server) password(username string) string {
	mac := hmac.New(sha1.New, s.cfg.TURN.Secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// pass returns the credential of before that a request shows: whose pair and side it is.
func (s *Server) pass(q *request) (pair, side string, ok bool) {
	username, password, _ := strings.Cut(q.r.Header.Get(relayHeader), " ")
	_, identity, found := strings.Cut(username, ":")
	at := strings.LastIndexByte(identity, '.')
	if !found || at < 0 || !equal(s.password(username), password) {
		return "", "", false
	}
	return identity[:at], identity[at+1:], true
}

// renewed returns the relays for a side that shows a credential of before: for the same pair and side, so that what
// the two have on a relay still belongs together. ok is false if the request shows none that is good.
func (s *Server) renewed(q *request) (out turnReply, ok bool) {
	pair, side, ok := s.pass(q)
	if !ok {
		return out, false
	}
	if s.cfg.TURN.Seen != nil {
		s.cfg.TURN.Seen(pair, q.addr)
	}
	return s.credential(s.hostFor(q.r), pair+"."+side), true
}

// turnFor makes the credential of one side of a room or a mailbox. Whoever asks again gets one for the same pair and
// side, and so no more than one side may hold.
func (s *Server) turnFor(q *request, id string, side int) turnReply {
	s.seen(id, q.addr)
	return s.credential(s.hostFor(q.r), fmt.Sprintf("%s.%d", pairOf(id), side))
}

// credential makes one that works for a while from now on.
func (s *Server) credential(host, identity string) turnReply {
	out := turnReply{TURN: []signal.TURNServer{}}
	user := strconv.FormatInt(s.cfg.Now().Add(s.cfg.TURN.Life).Unix(), 10) + ":" + identity
	pass := s.password(user)
	if s.cfg.Carry != nil {
		out.Pass = user + " " + pass
	}
	if len(s.cfg.TURN.URLs) == 0 {
		return out
	}
	for _, u := range s.cfg.TURN.URLs {
		if u = turnURL(u, host); u != "" {
			out.TURN = append(out.TURN, signal.TURNServer{URL: u, Username: user, Password: pass})
		}
	}
	out.Seconds = int(s.cfg.TURN.Life / time.Second)
	return out
}

// turnURL puts the host that the client asked for into a URL without one; "" if that is none.
func turnURL(u, host string) string {
	scheme, rest, _ := strings.Cut(u, ":")
	if rest != "" && rest[0] != ':' && rest[0] != '?' {
		return u
	}
	if host = hostOf(host); !isHost(host) {
		return ""
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return scheme + ":" + host + rest
}

// hostOf returns a Host header's host without port and brackets.
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.Trim(host, "[]")
}
