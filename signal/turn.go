package signal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// A TURNServer is a relay that both peers of a channel may use, with a credential for it that works for
// some hours.
type TURNServer struct {
	URL      string `json:"url"` // RFC 7065: turn:host:port?transport=udp, or turns:
	Username string `json:"username"`
	Password string `json:"password"`
}

// A TURNSource is a Channel that knows relays for its two peers.
type TURNSource interface {
	// TURN returns the relays, none if there are none. It may be asked once the peer is there:
	// ErrNoPeer before. It waits for as long as a request takes, some seconds at most.
	TURN(ctx context.Context) ([]TURNServer, error)
}

// ErrNoPeer says that the other side has not come yet.
var ErrNoPeer = errors.New("the other side has not come yet")

const (
	maxTURNServers = 8
	maxTURNText    = 512 // of a URL, a username or a password
)

// TURN implements TURNSource. The answer to a joiner came with the room; for the creator it is worth
// asking once the joiner's first message is there. Errors: ErrNoPeer, ErrPeerGone, ErrBusy, or what went
// wrong on the way. A rendezvous that knows nothing of relays has none.
func (r *Room) TURN(ctx context.Context) ([]TURNServer, error) {
	r.turnMu.Lock()
	known := r.turn
	r.turnMu.Unlock()
	if known != nil {
		return append([]TURNServer(nil), known...), nil
	}
	var got struct {
		TURN []TURNServer `json:"turn"`
		Pass string       `json:"pass"`
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.lifetime, func() { cancel(context.Cause(r.lifetime)) })()
	limited, stop := context.WithTimeout(ctx, tryTimeout)
	defer stop()
	err := r.request(limited, func(ctx context.Context) error {
		_, b, err := r.client.try(ctx, tryTimeout, http.MethodGet, r.base+"/turn", r.token, nil)
		if err == nil && json.Unmarshal(b, &got) != nil {
			return &replyError{status: http.StatusOK, text: "its reply is not that of a rendezvous"}
		}
		return err
	})
	var re *replyError
	switch {
	case errors.As(err, &re) && re.status == http.StatusNotFound:
		return nil, nil // an older rendezvous, or a room that is over
	case errors.As(err, &re) && re.status == http.StatusConflict:
		return nil, fmt.Errorf("ask for relays in room %s: %w", r.nameplate, ErrNoPeer)
	case err != nil:
		return nil, fmt.Errorf("ask for relays in room %s: %w", r.nameplate, err)
	}
	servers := r.client.usable(got.TURN)
	r.turnMu.Lock()
	r.turn = servers
	if isPass(got.Pass) {
		r.pass = got.Pass
	}
	r.turnMu.Unlock()
	return append([]TURNServer(nil), servers...), nil
}

// usable returns the servers that a client may be able to use: what a rendezvous says is checked before
// anything is done with it. The result is not nil.
func (c *Client) usable(all []TURNServer) []TURNServer {
	out := []TURNServer{}
	for _, s := range all {
		scheme, _, _ := strings.Cut(s.URL, ":")
		if (scheme == "turn" || scheme == "turns") && plain(s.URL) && plain(s.Username) && plain(s.Password) && len(out) < maxTURNServers {
			s.URL = c.atOwnHost(s.URL)
			out = append(out, s)
		}
	}
	return out
}

// plain says whether s is printable ASCII without spaces, and not too long.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= maxTURNText
}
