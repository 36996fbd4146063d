package signal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"adit/internal/reach"
)

const (
	messageType  = "application/adit"
	maxReply     = 48 << 10         // a message of the largest size in base64 and what is around it
	maxSaid      = 200              // bytes of what a server said: a sentence
	maxFault     = 1000             // bytes of an error of the transport, with the names in a certificate
	tryTimeout   = 10 * time.Second // one request that does not wait for the peer
	firstTries   = 5 * time.Second  // how long Create, Join and ICE go on trying,
	busyTries    = 30 * time.Second // and how long if the rendezvous answers that it is busy
	leaveTimeout = 2 * time.Second
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 5 * time.Second
	retryMost    = time.Minute // of a Retry-After that is believed
)

// A Client talks to the rendezvous at a URL. It may be used from several goroutines at once, and for
// any number of rooms; it must not be copied after first use.
type Client struct {
	// URL is that of the rendezvous, http or https, with or without a path in front of its own. User information in it,
	// https://TOKEN@host, is the token for a rendezvous that is not open to everybody: see PublicURL.
	URL string
	// HTTP makes the requests. Nil is a client of its own: HTTP/1.1 connections that are kept alive,
	// proxies as the environment says (HTTPS_PROXY, NO_PROXY), and no redirects.
	HTTP *http.Client
	// Trouble, if not nil, is told why a request that is made again has failed, and of each such failure. It is
	// called with nil for a request that succeeded. It must not block, and is called from any goroutine.
	Trouble func(error)

	own     sync.Once
	ownHTTP *http.Client
	adopted atomic.Pointer[Room] // by Adopt
}

// ICE is what a rendezvous knows about the way to a path.
type ICE struct {
	STUN []string // host:port
}

// Create opens a room and becomes its creator. It tries for some seconds if the rendezvous cannot be
// reached, until ctx ends. Errors: ErrBusy, or what went wrong on the way. The caller closes the room.
func (c *Client) Create(ctx context.Context) (*Room, error) {
	var made roomReply
	if err := c.call(ctx, http.MethodPost, "/v1/room", "", &made); err != nil {
		return nil, fmt.Errorf("open a room at %s: %w", c.name(), err)
	}
	if !isNameplate(made.Nameplate) {
		return nil, c.notRendezvous(errNoReply)
	}
	r, err := c.newRoom(made.Nameplate, made)
	if err != nil {
		return nil, fmt.Errorf("open a room at %s: %w", c.name(), err)
	}
	return r, nil
}

// Join enters the room with a nameplate as its one joiner. The creator's first message, if it is there
// already, comes with it. Errors: ErrNoRoom, ErrRoomTaken, ErrBusy, or what went wrong on the way. The
// caller closes the room.
func (c *Client) Join(ctx context.Context, nameplate string) (*Room, error) {
	if !isNameplate(nameplate) {
		return nil, fmt.Errorf("join room %q: %w", nameplate, ErrNoRoom)
	}
	// With a token of its own the joiner can ask again if a reply is lost, and is not taken for another.
	var b [16]byte
	rand.Read(b[:])
	var made roomReply
	if err := c.call(ctx, http.MethodPost, "/v1/room/"+nameplate+"/join", hex.EncodeToString(b[:]), &made); err != nil {
		return nil, fmt.Errorf("join room %s at %s: %w", nameplate, c.name(), err)
	}
	r, err := c.newRoom(nameplate, made)
	if err != nil {
		return nil, fmt.Errorf("join room %s at %s: %w", nameplate, c.name(), err)
	}
	return r, nil
}

// ICE asks the rendezvous for its STUN servers. Entries that are no host:port are left out.
func (c *Client) ICE(ctx context.Context) (ICE, error) {
	var got struct {
		STUN []string `json:"stun"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/ice", "", &got); err != nil {
		return ICE{}, fmt.Errorf("ask %s for STUN servers: %w", c.name(), err)
	}
	ice := ICE{STUN: []string{}}
	for _, hp := range got.STUN {
		host, port, err := net.SplitHostPort(hp)
		if n, perr := strconv.ParseUint(port, 10, 16); err == nil && perr == nil && n != 0 && host != "" && plain(hp) && len(ice.STUN) < 16 {
			ice.STUN = append(ice.STUN, net.JoinHostPort(c.ownHost(host), port))
		}
	}
	return ice, nil
}

// errNoReply says that a reply is not what adit serve sends.
var errNoReply = errors.New("its reply is not that of a rendezvous")

// CloseIdle closes the connections that the client keeps for later, if HTTP is nil. The end of a room
// does so too; connections that are in use are not disturbed.
func (c *Client) CloseIdle() {
	if c.HTTP == nil {
		c.httpClient().CloseIdleConnections()
	}
}

type roomReply struct {
	Nameplate string `json:"nameplate"`
	ID        string `json:"id"`
	Token     string `json:"token"`
	Seconds   int    `json:"seconds"`
	Message   string `json:"message"`

	TURN []TURNServer `json:"turn"`
	Pass string       `json:"pass"`
}

// newRoom starts a room from the server's reply, which is checked here.
func (c *Client) newRoom(nameplate string, made roomReply) (*Room, error) {
	base, err := c.base()
	if err != nil {
		return nil, err
	}
	first, err := base64.StdEncoding.DecodeString(made.Message)
	if err != nil || !isSecret(made.ID) || !isSecret(made.Token) || made.Seconds < 0 || made.Seconds > 7*24*3600 {
		return nil, c.notRendezvous(errNoReply)
	}
	r := &Room{
		client:    c,
		base:      base + "/v1/room/" + made.ID,
		token:     made.Token,
		nameplate: nameplate,
		expires:   time.Now().Add(time.Duration(made.Seconds) * time.Second),
	}
	if len(made.TURN) > 0 {
		r.turn = c.usable(made.TURN)
	}
	if isPass(made.Pass) {
		r.pass = made.Pass
	}
	if len(first) > 0 {
		m, err := ParseMessage(first)
		if err != nil {
			return nil, fmt.Errorf("the first message: %w", err)
		}
		r.start(&m)
	} else {
		r.start(nil)
	}
	return r, nil
}

// base returns the URL without the slashes at its end.
func (c *Client) base() (string, error) {
	u, err := url.Parse(strings.TrimSpace(c.URL))
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL: there may be a password in it
		}
		return "", fmt.Errorf("read the rendezvous URL: %v", err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("the rendezvous URL %q does not begin with http:// or https://", PublicURL(c.URL))
	case u.Host == "" || u.Hostname() == "":
		return "", fmt.Errorf("the rendezvous URL %q names no host", PublicURL(c.URL))
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("the rendezvous URL %q has more than a host and a path", PublicURL(c.URL))
	}
	host := url.URL{Scheme: u.Scheme, Host: u.Host} // its String escapes an IPv6 zone again
	return host.String() + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// AccessHeader carries the token for a rendezvous that is not open to everybody.
const AccessHeader = "Adit-Access"

// PublicURL returns the URL of a rendezvous without the token in it, fit for others to see.
func PublicURL(s string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.User == nil {
		return s
	}
	u.User = nil
	return u.String()
}

// WithToken returns the URL of a rendezvous with a token in it, in the place of one that it has.
func WithToken(s, token string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || token == "" {
		return s
	}
	u.User = url.User(token)
	return u.String()
}

// access returns the token in the URL: the password, or the user name if there is none.
func (c *Client) access() string {
	u, err := url.Parse(strings.TrimSpace(c.URL))
	if err != nil || u.User == nil {
		return ""
	}
	if p, ok := u.User.Password(); ok {
		return p
	}
	return u.User.Username()
}

// name returns the URL for an error, without a token.
func (c *Client) name() string {
	if _, err := url.Parse(strings.TrimSpace(c.URL)); err != nil {
		return "the rendezvous"
	}
	return PublicURL(c.URL)
}

func (c *Client) httpClient() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	c.own.Do(func() {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true) // a poll and a message each have a connection: neither waits for the other
		c.ownHTTP = &http.Client{
			Transport: &http.Transport{
				Proxy:                  reach.ProxyForRequest,
				OnProxyConnectResponse: reach.RefusedByProxy,
				DialContext:            (&reach.Dialer{Dialer: net.Dialer{Timeout: tryTimeout, KeepAlive: 15 * time.Second}}).DialContext,
				TLSHandshakeTimeout:    tryTimeout,
				Protocols:              protocols,
				MaxIdleConnsPerHost:    4,
				IdleConnTimeout:        30 * time.Second,
				MaxResponseHeaderBytes: 16 << 10,
				DisableCompression:     true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	})
	return c.ownHTTP
}

// call makes a request outside of a room and reads the JSON reply. It tries again for some seconds.
func (c *Client) call(ctx context.Context, method, path, token string, into any) error {
	base, err := c.base()
	if err != nil {
		return err
	}
	began := time.Now()
	var wait backoff
	for {
		status, b, err := c.try(ctx, tryTimeout, method, base+path, token, nil)
		if err == nil && (status == http.StatusOK || status == http.StatusCreated) {
			if json.Unmarshal(b, into) != nil {
				return c.notRendezvous(errNoReply)
			}
			c.trouble(nil)
			return nil
		}
		if err == nil {
			err = c.notRendezvous(&replyError{status: status})
		}
		again, tries := !hopeless(err), firstTries
		var re *replyError
		if errors.As(err, &re) {
			again = again && (re.status >= 500 || re.status == http.StatusTooManyRequests && re.retry > 0)
			if re.retry > 0 {
				tries = busyTries
			}
		}
		delay := wait.next(RetryAfter(err))
		if !again || ctx.Err() != nil || time.Since(began)+delay > tries {
			c.CloseIdle()
			return withCause(ctx, err)
		}
		c.trouble(err)
		if !sleep(ctx, delay) {
			return withCause(ctx, err)
		}
	}
}

// trouble tells of a failure, or that it is over.
func (c *Client) trouble(err error) {
	if c.Trouble != nil {
		c.Trouble(err)
	}
}

// hopeless says whether a request that failed on its way would fail again in the same way.
func hopeless(err error) bool {
	var cert *tls.CertificateVerificationError
	var fault *Fault
	return errors.As(err, &cert) || errors.As(err, &fault) && fault.lasting
}

// try makes one request. A status of 400 and above, or a redirect, is a *replyError, inside a *Fault where it is not
// adit serve that sent it.
func (c *Client) try(ctx context.Context, limit time.Duration, method, target, token string, body []byte) (int, []byte, error) {
	return c.tryWith(ctx, limit, method, target, token, body, nil)
}

// tryWith is try with further header fields.
func (c *Client) tryWith(ctx context.Context, limit time.Duration, method, target, token string, body []byte, header http.Header) (int, []byte, error) {
	one, stop := watchDNS(ctx)
	defer stop()
	status, b, err := c.once(one, limit, method, target, token, body, header)
	var fault *Fault
	if err != nil && ctx.Err() == nil && errors.As(context.Cause(one), &fault) {
		return status, b, fault
	}
	return status, b, c.explain(ctx, err)
}

func (c *Client) once(ctx context.Context, limit time.Duration, method, target, token string, body []byte, header http.Header) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if method == http.MethodPost || method == http.MethodPut {
		req.Header.Set("Content-Type", messageType)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("User-Agent", "adit")
	req.Header.Set(HostHeader, req.URL.Host)
	maps.Copy(req.Header, header)
	if t := c.access(); t != "" {
		req.Header.Set(AccessHeader, t)
	}
	resp, err := c.httpClient().Do(req)
	if err != nil {
		return 0, nil, legible(reach.NameProxy(req.URL, err))
	}
	defer resp.Body.Close()
	if err := c.saidByProxy(req, resp); err != nil {
		return 0, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return 0, nil, legible(err)
	case len(b) > maxReply:
		return 0, nil, &replyError{status: resp.StatusCode, text: "its reply is too long"}
	case resp.StatusCode >= 300:
		return 0, nil, newReplyError(resp, b)
	}
	return resp.StatusCode, b, nil
}

// saidByProxy tells a proxy's refusal of a request that it passes on from one of the server's, which says itself
// in JSON what it has against a request.
func (c *Client) saidByProxy(req *http.Request, resp *http.Response) error {
	if req.URL.Scheme != "http" || c.HTTP != nil {
		return nil
	}
	switch resp.StatusCode {
	case http.StatusProxyAuthRequired:
	case http.StatusUnauthorized, http.StatusForbidden:
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
			return nil
		}
	default:
		return nil
	}
	p, err := reach.ProxyFor(req.URL)
	if p == nil || err != nil {
		return nil
	}
	return &reach.ProxyError{Proxy: p.Redacted(), Status: resp.StatusCode}
}

// A replyError is a refusal of the server.
type replyError struct {
	status int
	text   string
	json   bool // it has the form that adit serve gives it
	retry  time.Duration
}

func newReplyError(resp *http.Response, b []byte) *replyError {
	e := &replyError{status: resp.StatusCode}
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(b, &said) == nil && said.Error != "" {
		e.json, e.text = true, printable(said.Error, maxSaid)
	}
	if to := resp.Header.Get("Location"); to != "" && resp.StatusCode < 400 {
		e.text = "it redirects to " + printable(to, maxSaid) + ": use that URL"
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.retry = time.Duration(min(n, 3600)) * time.Second
	}
	return e
}

func (e *replyError) Error() string {
	if e.text == "" {
		return "it replied " + strconv.Itoa(e.status)
	}
	return fmt.Sprintf("%s (%d)", e.text, e.status)
}

// Is gives the statuses of the protocol their names.
func (e *replyError) Is(target error) bool {
	switch e.status {
	case http.StatusNotFound:
		return target == ErrNoRoom
	case http.StatusConflict:
		return target == ErrRoomTaken
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return target == ErrBusy
	case http.StatusGone:
		return target == ErrPeerGone
	case http.StatusUnauthorized:
		return target == ErrAccess
	}
	return false
}

// printable returns what a server said fit for a terminal, and no more of it than so many bytes.
func printable(s string, most int) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s[:min(len(s), most)])
}

// A legibleError is an error of the transport whose text is fit for a terminal. Some quote what came from the
// network as it is, such as the names in a certificate that nobody vouches for (x509.HostnameError).
type legibleError struct {
	text string
	err  error
}

func legible(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the URL holds the room's id, which is nobody's business
	}
	return &legibleError{printable(err.Error(), maxFault), err}
}

func (e *legibleError) Error() string { return e.text }
func (e *legibleError) Unwrap() error { return e.err }

// withCause adds why ctx ended to an error that it may have led to.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() == nil || err == nil || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
}

// A backoff says how long to wait before the next try: longer each time, and not the same for all.
type backoff struct{ last time.Duration }

func (b *backoff) next(atLeast time.Duration) time.Duration {
	b.last = min(max(2*b.last, backoffMin), backoffMax)
	var r [1]byte
	rand.Read(r[:])
	d := b.last*3/4 + b.last/2*time.Duration(r[0])/256
	if atLeast = min(atLeast, retryMost); atLeast > d {
		d = atLeast + atLeast/4*time.Duration(r[0])/256 // those who were refused together do not come back together
	}
	return d
}

// persist tries until it has an answer that is final, and calls failed after each other one. Final is
// success, and every refusal that waiting does not mend. A name that does not resolve is not final: the
// network may not be there yet.
func (c *Client) persist(ctx context.Context, try func() error, failed func()) error {
	var wait backoff
	for {
		err := try()
		if err == nil {
			c.trouble(nil)
			return nil
		}
		var re *replyError
		if errors.As(err, &re) && re.status < 500 && re.status != http.StatusTooManyRequests && re.status != http.StatusRequestTimeout {
			return err
		}
		failed()
		if ctx.Err() == nil {
			c.trouble(err)
		}
		if ctx.Err() != nil || !sleep(ctx, wait.next(RetryAfter(err))) {
			return withCause(ctx, err)
		}
	}
}

// sleep waits for d; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func isNameplate(s string) bool {
	if len(s) < 4 || len(s) > 10 {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}

// isPass says whether what a rendezvous says may stand in a header.
func isPass(s string) bool {
	user, password, _ := strings.Cut(s, " ")
	return plain(user) && plain(password)
}

// isSecret says whether an id or a token has a form that may stand in a URL or a header.
func isSecret(s string) bool {
	if len(s) < 16 || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
