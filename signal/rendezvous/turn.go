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

// defaultTURNLife is how long a credential works after its room's time is over. It is for making
// allocations: what is in use goes on.
const defaultTURNLife = 12 * time.Hour

// TURN says which relays the two peers of a room may use. The zero value is none.
type TURN struct {
	// URLs lists them (RFC 7065), with or without a port. An empty host, as in turn::3478?transport=udp,
	// stands for the host that the client asked for.
	URLs []string
	// Secret makes the passwords, and the relays have it too: a username is "SECONDS:ID", with the Unix
	// time at which it ends, and its password base64(HMAC-SHA1(Secret, username))
	// (draft-uberti-behave-turn-rest-00; coturn's use-auth-secret).
	Secret []byte
	// Life is how long a credential works after its room's time is over; 12 hours if 0.
	Life time.Duration
}

// turnReply is what a peer is told, in a room that both are in.
type turnReply struct {
	TURN    []signal.TURNServer `json:"turn"`
	Seconds int                 `json:"seconds"` // how long the credentials work
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
	reply(w, http.StatusOK, s.turnFor(r.Host, to.name, p.Side, p.Expires))
	return nil
}

// turnFor makes the credential of one side of a room, always the same: asking again does not bring
// more than one credential may hold.
func (s *Server) turnFor(host, id string, side int, expires time.Time) turnReply {
	out := turnReply{TURN: []signal.TURNServer{}}
	if len(s.cfg.TURN.URLs) == 0 {
		return out
	}
	ends := expires.Add(s.cfg.TURN.Life)
	// The relay's operator, who may be another, need not know the room.
	sum := sha256.Sum256(fmt.Appendf(nil, "adit turn %s %d", id, side))
	user := strconv.FormatInt(ends.Unix(), 10) + ":" + hex.EncodeToString(sum[:12])
	mac := hmac.New(sha1.New, s.cfg.TURN.Secret)
	mac.Write([]byte(user))
	pass := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, u := range s.cfg.TURN.URLs {
		if u = turnURL(u, host); u != "" {
			out.TURN = append(out.TURN, signal.TURNServer{URL: u, Username: user, Password: pass})
		}
	}
	out.Seconds = int(ends.Sub(s.cfg.Now()) / time.Second)
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
