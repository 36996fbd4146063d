package signal

import (
	"context"
	"encoding/hex"
	"fmt"

	"adit/internal/carry"
)

// Carry takes a side, 0 or 1, of the pair that has an id, for datagrams that go through the rendezvous
// itself: the last way for peers that reach nothing else. Both sides know the id, nobody else does. It
// returns when the rendezvous has agreed; the other side need not be there. carry.ErrRefused says that
// the rendezvous does not do this.
func (c *Client) Carry(ctx context.Context, id [16]byte, side int) (*carry.Conn, error) {
	base, err := c.base()
	if err != nil {
		return nil, err
	}
	conn, err := carry.Dial(ctx, c.httpClient(), fmt.Sprintf("%s/v1/carry/%s/%d", base, hex.EncodeToString(id[:]), side))
	if err != nil {
		return nil, fmt.Errorf("carry packets over %s: %w", c.name(), legible(err))
	}
	return conn, nil
}
