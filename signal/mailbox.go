package signal

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// MaxLetter is the size of the largest letter in bytes.
const MaxLetter = 4 << 10

const letterNumberBytes = 8

// A Mailbox is where two peers that lost each other leave word at a rendezvous. Each side has one place:
// a letter takes the place of the one before it. Who knows the id may do both, so letters are sealed, and
// may be old ones. Put and Next may be called at the same time from two goroutines, but neither twice at
// once.
type Mailbox struct {
	client *Client
	base   string
	side   int
	seen   uint64 // number of the last letter of the peer
}

// Mailbox returns the mailbox with an id that both sides know and nobody else does, for side 0 or 1. It
// makes no request yet. It has connections of its own, so that none is left from another network; Close
// ends them.
func (c *Client) Mailbox(id [16]byte, side int) (*Mailbox, error) {
	own := &Client{URL: c.URL, HTTP: c.HTTP}
	base, err := own.base()
	if err != nil {
		return nil, err
	}
	return &Mailbox{client: own, base: base + "/v1/mailbox/" + hex.EncodeToString(id[:]), side: side & 1}, nil
}

// Put leaves a letter of at most MaxLetter bytes in the place of those with smaller numbers: 1 or more, and
// larger for each new one, 15 digits at most. It goes on trying until ctx ends, whose cause it
// returns then, or until the rendezvous refuses for good: ErrTooLong, or what it said.
func (m *Mailbox) Put(ctx context.Context, number uint64, b []byte) error {
	if len(b) > MaxLetter {
		return fmt.Errorf("leave %d bytes in a mailbox: %w", len(b), ErrTooLong)
	}
	err := m.request(ctx, func() error {
		_, _, err := m.client.try(ctx, tryTimeout, http.MethodPut, m.base+"/"+strconv.Itoa(m.side)+"/"+strconv.FormatUint(number, 10), "", b)
		return err
	})
	if err != nil {
		return fmt.Errorf("leave a letter at %s: %w", m.client.name(), err)
	}
	return nil
}

// Next waits for a letter of the peer that it has not returned yet. It goes on trying until ctx ends,
// whose cause it returns then, or until the rendezvous refuses for good.
func (m *Mailbox) Next(ctx context.Context) ([]byte, error) {
	var idle backoff
	for {
		var b []byte
		began := time.Now()
		err := m.request(ctx, func() error {
			var err error
			at := m.base + "/" + strconv.Itoa(1-m.side) + "/" + strconv.FormatUint(m.seen, 10) + "?wait=" + strconv.Itoa(int(pollWait/time.Second))
			_, b, err = m.client.try(ctx, pollWait+pollSlack, http.MethodGet, at, "", nil)
			return err
		})
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait for a letter at %s: %w", m.client.name(), err)
		case len(b) > letterNumberBytes:
			n := binary.BigEndian.Uint64(b)
			if n > m.seen && n < 1e15 {
				m.seen = n
				return b[letterNumberBytes:], nil
			}
		}
		// Something in between may answer for the server, and at once: do not ask it all day.
		if time.Since(began) < quickNothing && !sleep(ctx, idle.next(0)) {
			return nil, fmt.Errorf("wait for a letter at %s: %w", m.client.name(), context.Cause(ctx))
		}
	}
}

// TURN returns the relays that the rendezvous knows now, with credentials that work for some minutes. known are those
// that it returned before, if any: the new credentials belong to the same pair. Without one that it knows, ErrNoPeer
// means that the other side has not asked for letters yet. A rendezvous that knows nothing of this has none.
func (m *Mailbox) TURN(ctx context.Context, known []TURNServer) ([]TURNServer, error) {
	var got struct {
		TURN []TURNServer `json:"turn"`
	}
	var header http.Header
	if len(known) > 0 {
		header = http.Header{relayHeader: {known[0].Username + " " + known[0].Password}}
	}
	_, b, err := m.client.tryWith(ctx, tryTimeout, http.MethodGet, m.base+"/"+strconv.Itoa(m.side)+"/turn", "", nil, header)
	if err == nil && json.Unmarshal(b, &got) != nil {
		err = &replyError{status: http.StatusOK, text: "its reply is not that of a rendezvous"}
	}
	var re *replyError
	switch {
	case errors.As(err, &re) && re.status == http.StatusNotFound:
		return nil, nil
	case errors.As(err, &re) && re.status == http.StatusConflict:
		return nil, fmt.Errorf("ask for relays at %s: %w", m.client.name(), ErrNoPeer)
	case err != nil:
		return nil, fmt.Errorf("ask for relays at %s: %w", m.client.name(), err)
	}
	return m.client.usable(got.TURN), nil
}

// request tries until it has an answer that is final, or ctx ends. What was open may lead into a network
// that is gone, so it begins anew each time.
func (m *Mailbox) request(ctx context.Context, try func() error) error {
	return m.client.persist(ctx, try, m.client.CloseIdle)
}

// Close ends the mailbox's idle connections. Calls that wait are ended by their contexts.
func (m *Mailbox) Close() error {
	m.client.CloseIdle()
	return nil
}
