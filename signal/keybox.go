package signal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// MaxOffer is the size of the largest message that a mailbox by key takes, in bytes.
const MaxOffer = 4 << 10

const keyOfferHead = 8 + 16 + 2

var (
	// ErrReplaced says that another process has proved later that it holds the same key.
	ErrReplaced = errors.New("another process listens with this key")

	// ErrUnclaimed says that the mailbox has to be claimed, again: the rendezvous does not know about it.
	ErrUnclaimed = errors.New("the mailbox is not claimed")

	// ErrNobody says that nobody listens at a mailbox, or that nobody took an offer.
	ErrNobody = errors.New("nobody answers there")
)

// A KeyBox is the mailbox of this side's own key at a rendezvous. Claim comes first; then Poll again and again.
// One goroutine may be in either of them; Accept may be called from any at any time.
type KeyBox struct {
	client  *Client
	base    string
	host    string
	private [32]byte
	token   atomic.Pointer[string] // nil until it is claimed; set by Claim and Poll
	after   uint64                 // number of the last offer fetched; owned by Claim and Poll
}

// A KeyOffer is what somebody left for the holder of a key: anybody may.
type KeyOffer struct {
	id      string
	Message Message
}

// KeyBox returns the mailbox of a private key. It makes no request yet. It has connections of its own, so that
// none is left from another network; Close ends them.
func (c *Client) KeyBox(private, public [32]byte) (*KeyBox, error) {
	base, host, err := c.keyBase(public)
	if err != nil {
		return nil, err
	}
	return &KeyBox{client: &Client{URL: c.URL, HTTP: c.HTTP}, base: base, host: host, private: private}, nil
}

// keyBase returns the URL of a key's mailbox, and the host that it is asked for.
func (c *Client) keyBase(public [32]byte) (base, host string, err error) {
	name, err := KeyNameOf(public)
	if err != nil {
		return "", "", err
	}
	if base, err = c.base(); err != nil {
		return "", "", err
	}
	if host, err = hostAsked(base); err != nil {
		return "", "", fmt.Errorf("read the rendezvous URL: %v", err)
	}
	return base + "/v1/key/" + hex.EncodeToString(name[:]), host, nil
}

// hostAsked returns the host, without a port, that a request to a URL has in its Host header. It is not always the
// URL's: net/http writes the ASCII form of other names, and leaves out the zone of an IPv6 address.
func hostAsked(base string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, base, nil)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		return "", err
	}
	if r, err = http.ReadRequest(bufio.NewReader(&b)); err != nil {
		return "", err
	}
	u := url.URL{Host: r.Host}
	return u.Hostname(), nil
}

// held returns the token of the claim, empty if there is none.
func (k *KeyBox) held() string {
	if t := k.token.Load(); t != nil {
		return *t
	}
	return ""
}

// Claim proves to the rendezvous that this side holds the key. It asks once, some seconds at most. Errors:
// ErrBusy, ErrClaim, or what went wrong on the way.
func (k *KeyBox) Claim(ctx context.Context) error {
	var hello struct{ Key, Nonce string }
	if err := k.ask(ctx, http.MethodPost, "/claim", nil, &hello); err != nil {
		return fmt.Errorf("claim the mailbox at %s: %w", k.client.name(), err)
	}
	server, kerr := hex.DecodeString(hello.Key)
	nonce, nerr := hex.DecodeString(hello.Nonce)
	if kerr != nil || nerr != nil || len(server) != 32 || len(nonce) == 0 || len(nonce) > 64 {
		return k.client.notRendezvous(errNoReply)
	}
	proof, err := ProveKey(k.private, [32]byte(server), nonce, k.host)
	if err != nil {
		return fmt.Errorf("claim the mailbox at %s: %w", k.client.name(), err)
	}
	var got struct{ Token string }
	if err := k.ask(ctx, http.MethodPut, "/claim", append(nonce, proof...), &got); err != nil {
		return fmt.Errorf("claim the mailbox at %s: %w", k.client.name(), err)
	}
	if !isSecret(got.Token) {
		return k.client.notRendezvous(errNoReply)
	}
	k.token.Store(&got.Token)
	k.after = 0
	return nil
}

func (k *KeyBox) ask(ctx context.Context, method, path string, body []byte, into any) error {
	_, b, err := k.client.try(ctx, tryTimeout, method, k.base+path, k.held(), body)
	var re *replyError
	switch {
	case errors.As(err, &re) && re.status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", err, ErrClaim)
	case err != nil:
		k.client.CloseIdle() // what was open may lead into a network that is gone
		return withCause(ctx, err)
	case json.Unmarshal(b, into) != nil:
		return k.client.notRendezvous(errNoReply)
	}
	return nil
}

// Poll publishes a challenge and waits for offers: some, or none after at most half a minute. Errors:
// ErrUnclaimed, ErrReplaced, ErrBusy, or what went wrong on the way.
func (k *KeyBox) Poll(ctx context.Context, challenge [16]byte) ([]KeyOffer, error) {
	token := k.held()
	if token == "" {
		return nil, ErrUnclaimed
	}
	at := k.base + "/offers/" + strconv.FormatUint(k.after, 10) + "/" + hex.EncodeToString(challenge[:]) + "?wait=" + strconv.Itoa(int(pollWait/time.Second))
	_, b, err := k.client.try(ctx, pollWait+pollSlack, http.MethodGet, at, token, nil)
	var re *replyError
	switch {
	case errors.As(err, &re) && (re.status == http.StatusNotFound || re.status == http.StatusUnauthorized):
		k.token.Store(nil)
		return nil, fmt.Errorf("wait for offers at %s: %w", k.client.name(), ErrUnclaimed)
	case errors.As(err, &re) && re.status == http.StatusGone:
		return nil, fmt.Errorf("wait for offers at %s: %w", k.client.name(), ErrReplaced)
	case err != nil:
		k.client.CloseIdle()
		return nil, fmt.Errorf("wait for offers at %s: %w", k.client.name(), withCause(ctx, err))
	}
	offers, last, ok := parseKeyOffers(b, k.after)
	if !ok {
		return nil, k.client.notRendezvous(errNoReply)
	}
	k.after = last
	return offers, nil
}

// parseKeyOffers reads the reply to a poll: offers whose numbers grow from after on. What is no message is left
// out: anybody may have sent it.
func parseKeyOffers(b []byte, after uint64) (offers []KeyOffer, last uint64, ok bool) {
	for last = after; len(b) > 0; {
		if len(b) < keyOfferHead {
			return nil, 0, false
		}
		number, size := binary.BigEndian.Uint64(b), int(binary.BigEndian.Uint16(b[24:]))
		if number <= last || number >= 1e15 || size > MaxOffer || size > len(b)-keyOfferHead {
			return nil, 0, false
		}
		last = number
		if m, err := ParseMessage(b[keyOfferHead : keyOfferHead+size]); err == nil && m.Kind == KindOffer {
			offers = append(offers, KeyOffer{hex.EncodeToString(b[8:24]), m})
		}
		b = b[keyOfferHead+size:]
	}
	return offers, last, true
}

// Accept answers an offer. The room is where the two peers exchange what follows; the answer is in it already,
// and the caller closes it. ErrNobody if the peer does not wait any more, ErrUnclaimed before a claim and after it is
// lost.
func (k *KeyBox) Accept(ctx context.Context, o KeyOffer, answer Message) (*Room, error) {
	body := answer.Append(nil)
	if len(body) > MaxMessage {
		return nil, fmt.Errorf("accept an offer with %d bytes: %w", len(body), ErrTooLong)
	}
	token := k.held()
	if token == "" {
		return nil, ErrUnclaimed
	}
	// After a refusal for the time being it is tried again, but not after a reply that was lost: of two answers
	// the peer would have but one.
	var b []byte
	var err error
	var wait backoff
	for until := time.Now().Add(firstTries); ; {
		_, b, err = k.client.try(ctx, tryTimeout, http.MethodPost, k.base+"/offers/"+o.id, token, body)
		if !errors.Is(err, ErrBusy) || time.Now().After(until) || !sleep(ctx, wait.next(0)) {
			break
		}
	}
	if errors.Is(err, ErrNoRoom) {
		return nil, fmt.Errorf("accept an offer at %s: %w", k.client.name(), ErrNobody)
	}
	var made roomReply
	if err == nil && json.Unmarshal(b, &made) != nil {
		err = k.client.notRendezvous(errNoReply)
	}
	if err != nil {
		return nil, fmt.Errorf("accept an offer at %s: %w", k.client.name(), withCause(ctx, err))
	}
	// A client of its own, for the room's end closes idle connections.
	own := &Client{URL: k.client.URL, HTTP: k.client.HTTP}
	r, err := own.newRoom("by key", made)
	if err != nil {
		return nil, fmt.Errorf("accept an offer at %s: %w", k.client.name(), err)
	}
	r.next = 1 // the answer was message 0
	return r, nil
}

// Close tells the rendezvous that nobody listens any more. It takes two seconds at the most. Neither Claim nor
// Poll may be under way.
func (k *KeyBox) Close() error {
	if token := k.held(); token != "" {
		// If this does not get through the rendezvous notices soon.
		_, _, _ = k.client.try(context.Background(), leaveTimeout, http.MethodDelete, k.base+"/claim", token, nil)
	}
	k.client.CloseIdle()
	return nil
}

// A KeyDoor is the mailbox of another's key at a rendezvous.
type KeyDoor struct {
	client *Client
	base   string
}

// KeyDoor returns the mailbox of a public key. It makes no request yet. Close ends its connections.
func (c *Client) KeyDoor(public [32]byte) (*KeyDoor, error) {
	base, _, err := c.keyBase(public)
	if err != nil {
		return nil, err
	}
	return &KeyDoor{client: &Client{URL: c.URL, HTTP: c.HTTP}, base: base}, nil
}

// Challenge returns what the holder of the key has published, and waits for him to come for as long as wait,
// 25 seconds at the most: ErrNobody then. Other errors: ErrBusy, or what went wrong on the way.
func (k *KeyDoor) Challenge(ctx context.Context, wait time.Duration) (c [16]byte, err error) {
	wait = min(max(wait, 0), pollWait)
	_, b, err := k.client.try(ctx, wait+pollSlack, http.MethodGet, k.base+"?wait="+strconv.Itoa(int(wait/time.Second)), "", nil)
	switch {
	case err != nil:
		k.client.CloseIdle()
		return c, fmt.Errorf("look for the peer at %s: %w", k.client.name(), withCause(ctx, err))
	case len(b) == 0:
		return c, fmt.Errorf("look for the peer at %s: %w", k.client.name(), ErrNobody)
	case len(b) != len(c):
		return c, k.client.notRendezvous(errNoReply)
	}
	return [16]byte(b), nil
}

// Offer leaves an offer and waits until the holder of the key has accepted it: his answer is the first message
// in the room, which the caller closes. ErrNobody if he did not, for half a minute or because he is gone; who
// is not welcome hears no more than that. Other errors: ErrTooLong, ErrBusy, or what went wrong on the way.
func (k *KeyDoor) Offer(ctx context.Context, m Message) (*Room, error) {
	body := m.Append(nil)
	if len(body) > MaxOffer {
		return nil, fmt.Errorf("offer %d bytes to a key: %w", len(body), ErrTooLong)
	}
	var secret [16]byte
	rand.Read(secret[:])
	token := hex.EncodeToString(secret[:])
	at := k.base + "/offers?wait=" + strconv.Itoa(int(pollWait/time.Second))
	_, b, err := k.client.try(ctx, pollWait+pollSlack, http.MethodPost, at, token, body)
	var re *replyError
	if err != nil && ctx.Err() == nil && !errors.As(err, &re) && !hopeless(err) {
		// The connection broke: with the same token the same offer is found again.
		k.client.CloseIdle()
		_, b, err = k.client.try(ctx, pollWait+pollSlack, http.MethodPost, at, token, body)
	}
	var made roomReply
	switch {
	case errors.Is(err, ErrNoRoom), err == nil && len(b) == 0:
		return nil, fmt.Errorf("offer at %s: %w", k.client.name(), ErrNobody)
	case err != nil:
		k.client.CloseIdle()
		return nil, fmt.Errorf("offer at %s: %w", k.client.name(), withCause(ctx, err))
	case json.Unmarshal(b, &made) != nil:
		return nil, k.client.notRendezvous(errNoReply)
	}
	r, err := k.client.newRoom("by key", made)
	if err != nil {
		return nil, fmt.Errorf("offer at %s: %w", k.client.name(), err)
	}
	return r, nil
}

// Close ends the idle connections. Calls that wait are ended by their contexts.
func (k *KeyDoor) Close() error {
	k.client.CloseIdle()
	return nil
}
