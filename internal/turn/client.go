package turn

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"adit/internal/outbox"
	"adit/internal/stunmsg"

	"github.com/pion/stun"
)

// A client sends requests to one server and finds their responses among what comes back.
type client struct {
	conn   net.Conn
	stream bool // TCP or TLS
	user   string
	pass   string

	out *outbox.Outbox // of a stream

	mu      sync.Mutex
	waiting map[[stun.TransactionIDSize]byte]chan *stun.Message
	realm   string
	nonce   string
	key     stun.MessageIntegrity // nil before the server told its realm
}

// dial connects to the server of cfg.
func dial(ctx context.Context, cfg Config) (*client, transport, error) {
	t, err := parseURL(cfg.Server.URL)
	if err != nil {
		return nil, t, err
	}
	dialer := cfg.Dial
	if dialer == nil {
		dialer = new(net.Dialer).DialContext
	}
	conn, err := dialer(ctx, t.network, t.addr())
	if err != nil {
		return nil, t, fmt.Errorf("connect to relay %s: %w", cfg.Server.URL, err)
	}
	if t.tls {
		tc := cfg.TLS.Clone()
		if tc == nil {
			tc = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if tc.ServerName == "" {
			tc.ServerName = t.host
		}
		secure := tls.Client(conn, tc)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, t, fmt.Errorf("connect to relay %s: %w", cfg.Server.URL, err)
		}
		conn = secure
	}
	c := &client{
		conn: conn, stream: t.network == "tcp", user: cfg.Server.Username, pass: cfg.Server.Password,
		waiting: make(map[[stun.TransactionIDSize]byte]chan *stun.Message),
	}
	if c.stream {
		write := func(b []byte) error { _, err := conn.Write(b); return err }
		c.out = outbox.New(queueBytes, write, func() { conn.Close() })
	}
	return c, t, nil
}

// queueBytes is what waits for a server that reads slowly.
const queueBytes = 256 << 10

// send sends one whole message. On a stream it may be dropped if the server reads too slowly.
func (c *client) send(b []byte) error {
	if c.stream {
		_, err := c.out.Write(b)
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// read hands each message that comes to got until the transport ends, and returns why. b is valid
// during the call.
func (c *client) read(got func(b []byte)) error {
	buf := make([]byte, maxMessage)
	if c.stream {
		r := bufio.NewReaderSize(c.conn, 64<<10)
		for {
			n, err := stunmsg.ReadFrame(r, buf)
			if err != nil {
				return err
			}
			got(buf[:n])
		}
	}
	failures := 0
	for {
		n, err := c.conn.Read(buf)
		if err == nil {
			failures = 0
			got(buf[:n])
			continue
		}
		// An ICMP message may tell of a server that is away for a moment, or be forged.
		if failures++; errors.Is(err, net.ErrClosed) || failures > 64 {
			return err
		}
	}
}

// answered takes a response to whoever waits for it. Anything else is dropped.
func (c *client) answered(m *stun.Message) {
	c.mu.Lock()
	ch := c.waiting[m.TransactionID]
	key := c.key
	c.mu.Unlock()
	if ch == nil {
		return
	}
	if !believed(m, key) {
		return // a forger's: the server's own comes yet
	}
	select {
	case ch <- m:
	default: // a repetition
	}
}

// believed says whether a response may be the server's. Successes are signed, and so are errors once there is a key
// (RFC 8489 §9.2.5), but those that the server answers to what it takes for a stranger's. Of the errors of Allocate
// some servers sign none (pion's), and there is nothing to lose yet.
func believed(m *stun.Message, key stun.MessageIntegrity) bool {
	var code stun.ErrorCodeAttribute
	switch {
	case key != nil && key.Check(m) == nil:
		return true
	case m.Type.Class == stun.ClassSuccessResponse:
		return false
	case key == nil, m.Type.Method == stun.MethodAllocate:
		return true
	}
	return code.GetFrom(m) == nil && unsigned(code.Code)
}

// unsigned says whether servers answer an error without a signature, so that anybody may have sent it.
func unsigned(code stun.ErrorCode) bool {
	switch code {
	case stun.CodeBadRequest, stun.CodeUnauthorized, stun.CodeUnknownAttribute, stun.CodeStaleNonce:
		return true
	}
	return false
}

// do sends a request and returns the success response. It adds the credentials once the server has
// told its realm, and begins again when the nonce is stale (RFC 8489 §9.2.5).
func (c *client) do(ctx context.Context, method stun.Method, attrs ...stun.Setter) (*stun.Message, error) {
	for try := 0; ; try++ {
		c.mu.Lock()
		authed := c.key != nil
		setters := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
		if authed {
			setters = append(setters, stun.NewUsername(c.user), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key)
		}
		c.mu.Unlock()
		m, err := stun.Build(setters...)
		if err != nil {
			return nil, fmt.Errorf("build %v request: %w", method, err)
		}
		r, err := c.transact(ctx, m)
		if err != nil {
			return nil, err
		}
		if r.Type.Class == stun.ClassSuccessResponse {
			return r, nil
		}
		err = responseError(r)
		var code stun.ErrorCodeAttribute
		if code.GetFrom(r) != nil || try == 3 {
			return nil, err
		}
		again := code.Code == stun.CodeStaleNonce || code.Code == stun.CodeUnauthorized && !authed
		if !again || !c.challenged(r) {
			return nil, err
		}
	}
}

// challenged notes the realm and nonce of an error response.
func (c *client) challenged(m *stun.Message) bool {
	var nonce stun.Nonce
	if nonce.GetFrom(m) != nil || len(nonce) == 0 || len(nonce) > 763 {
		return false
	}
	var realm stun.Realm
	_ = realm.GetFrom(m) // a stale nonce may come without; then the old one stays
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(realm) > 0 && len(realm) <= 763 {
		c.realm = realm.String()
	}
	if c.realm == "" {
		return false
	}
	c.nonce = nonce.String()
	c.key = stun.NewLongTermIntegrity(c.user, c.realm, c.pass)
	return true
}

// transact sends a request until there is a response, or ErrTimeout (RFC 8489 §6.2). On a stream it is sent once, and
// again only if there was no room for it.
func (c *client) transact(ctx context.Context, m *stun.Message) (*stun.Message, error) {
	ch := make(chan *stun.Message, 1)
	c.mu.Lock()
	c.waiting[m.TransactionID] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, m.TransactionID)
		c.mu.Unlock()
	}()
	wait, sent := firstRTO, false
	t := time.NewTimer(wait)
	defer t.Stop()
	for range maxTries {
		if !sent {
			err := c.send(m.Raw)
			if errors.Is(err, net.ErrClosed) {
				return nil, ErrClosed
			} // any other error is a loss
			sent = c.stream && err == nil
		}
		select {
		case r := <-ch:
			return r, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-t.C:
			wait *= 2
			t.Reset(wait)
		}
	}
	return nil, ErrTimeout
}

func (c *client) close() {
	if c.stream {
		c.out.Close()
	}
	c.conn.Close()
}
