package signal

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"adit/internal/carry"
	"adit/internal/reach"
)

// relayHeader shows which side of which room this is.
const relayHeader = "Adit-Relay"

// Carry takes a side, 0 or 1, of the pair that has an id, for datagrams that go through the rendezvous
// itself: the last way for peers that reach nothing else. Both sides know the id, nobody else does; and both have met
// in a room there, which the client has adopted. It returns when the rendezvous has agreed; the other side need not be
// there. carry.ErrRefused says that the rendezvous does not do this.
func (c *Client) Carry(ctx context.Context, id [16]byte, side int) (*carry.Conn, error) {
	base, err := c.base()
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if r := c.adopted.Load(); r != nil {
		header.Set(relayHeader, r.knownPass())
	}
	conn, err := carry.Dial(ctx, c.carryClient(base), fmt.Sprintf("%s/v1/carry/%s/%d", base, hex.EncodeToString(id[:]), side), header)
	if err != nil {
		return nil, fmt.Errorf("carry packets over %s: %w", c.name(), legible(err))
	}
	return conn, nil
}

// carryClient goes through proxies by CONNECT, for http:// too: what a proxy passes on itself it strips of the
// Upgrade.
func (c *Client) carryClient(base string) *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	scheme, _, _ := strings.Cut(base, ":")
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            reach.DialFor(scheme),
			TLSHandshakeTimeout:    tryTimeout,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Adopt lets Carry show that this side was in a room, for as long as the client is in use; the room may be closed.
func (c *Client) Adopt(r *Room) { c.adopted.Store(r) }

// knownPass returns what the rendezvous has said this side is at its relay, or nothing.
func (r *Room) knownPass() string {
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	return r.pass
}
