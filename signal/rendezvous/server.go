// Package rendezvous is a blind meeting place over HTTP: rooms in which two peers leave each other
// short sealed messages until they have found a path of their own.
//
//	creator                          server                          joiner
//	POST /v1/room ------------------>| nameplate, id, token
//	PUT  /v1/room/ID/0  -----------> |
//	                                 |<------- POST /v1/room/NAMEPLATE/join
//	                                 | id, token, the creator's message 0
//	GET  /v1/room/ID/0?wait=25 <---- |<------------- PUT /v1/room/ID/0
//	PUT  /v1/room/ID/1  -----------> |-----> GET /v1/room/ID/1?wait=25
//	DELETE /v1/room/ID ------------> |<------------- DELETE /v1/room/ID
//
// Two peers that have a session and lost their path find each other again at a mailbox, which they name
// by a secret of theirs. The holder of a key is met at a mailbox that only he can listen at.
//
// A message is opaque bytes. The server knows who asks from which address, when, and how much; the
// peers' handshake sees to it that it can neither read nor forge. Everything it holds is bounded and
// forgotten after a short time. docs/rendezvous.md describes the protocol.
//
// The server keeps no goroutines of its own. A Store keeps the rooms; Memory is the one there is.
package rendezvous

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/internal/carry"
	"adit/signal"
)

const (
	// MaxMessage is the largest message, in bytes.
	MaxMessage = 16 << 10
	// ContentType is what a request with a message must say it carries. No form of a web page can.
	ContentType = "application/adit"

	defaultTTL = 10 * time.Minute
	maxWait    = 60 * time.Second // the longest a poll may ask for
	bodyWait   = 10 * time.Second // how long a message may take to arrive
	writeSlack = 15 * time.Second // how long a reply may take to leave
)

// Config says how a Server behaves. The zero value works.
type Config struct {
	// STUN lists the STUN servers to advertise, as host:port. An empty host stands for the host that
	// the client asked for.
	STUN []string
	// TURN says which relays to hand out credentials for.
	TURN TURN
	// Carry joins peers that reach nothing but this server; nil does not.
	Carry *carry.Hub
	// TTL is how long a room lives; 10 minutes if 0.
	TTL time.Duration
	// Limits bounds what is spent on anybody and in all.
	Limits Limits
	// TrustedProxies are the reverse proxies whose X-Forwarded-For is believed; none by default.
	TrustedProxies []netip.Prefix
	// Store keeps the rooms; nil is a new Memory. Close does not close it.
	Store Store
	// Logger hears of what concerns the operator; nil is silent. Nothing is logged per request.
	Logger *slog.Logger
	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// A Server is a rendezvous. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	store  Store
	limits *limiter

	mailboxes *mailboxes
	keys      *keyboxes

	done  chan struct{} // closed by Close
	close sync.Once
	full  sync.Once // the log line about a full store

	noticed noticed
}

// New returns a server. It listens to nothing by itself: see Handler and HTTPServer.
func New(cfg Config) *Server {
	if cfg.TTL <= 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.TURN.Life <= 0 {
		cfg.TURN.Life = defaultTURNLife
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Store == nil {
		cfg.Store = NewMemory(cfg.Limits, cfg.Now)
	}
	return &Server{
		cfg:    cfg,
		store:  cfg.Store,
		limits: newLimiter(cfg.Limits, cfg.Now),
		done:   make(chan struct{}),

		mailboxes: newMailboxes(cfg.Limits, cfg.Now),
		keys:      newKeyboxes(cfg.Limits, cfg.Now),
	}
}

// HTTPServer returns an http.Server for addr with the timeouts and header limits that the rendezvous
// wants. The caller starts it. Its Shutdown calls Close, so that the polls do not hold it up.
func (s *Server) HTTPServer(addr string) *http.Server {
	h := &http.Server{
		Addr:              addr,
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       bodyWait + 5*time.Second, // a poll sets its own
		WriteTimeout:      bodyWait + 5*time.Second + writeSlack,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug), // each bad TLS handshake, say
	}
	h.RegisterOnShutdown(s.Close)
	return h
}

// Close ends all polls and refuses every further request. It does not wait for requests at work: that
// is what http.Server.Shutdown is for.
func (s *Server) Close() { s.close.Do(func() { close(s.done) }) }

// Handler returns the HTTP handler of the rendezvous.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// A problem is an HTTP status with a sentence for people and, often, advice.
type problem struct {
	status int
	text   string
	hint   string
	retry  time.Duration // Retry-After, if not 0
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 {
		// Set here, for net/http reads what a handler left of a body. A writer that cannot is a test's.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait))
	}
	if p := s.handle(w, r); p != nil {
		refuse(w, r, p)
	}
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) *problem {
	select {
	case <-s.done:
		return &problem{http.StatusServiceUnavailable, "the rendezvous is going down", "try again in a moment", time.Second}
	default:
	}
	if fromBrowser(r.Header) {
		return &problem{status: http.StatusForbidden, text: "this is no place for web pages", hint: "use adit"}
	}
	addr := network(s.clientAddr(r))
	if !s.limits.request(addr) {
		return &problem{http.StatusTooManyRequests, "too many requests from this address", "wait a minute", 5 * time.Second}
	}
	to := parseRoute(r.Method, r.URL.Path)
	s.noticeProxy(r, to.action)
	switch to.action {
	case actHealth:
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	case actICE:
		reply(w, http.StatusOK, map[string][]string{"stun": s.stunFor(s.hostFor(r))})
	case actCreate:
		return s.create(w, r, addr)
	case actJoin:
		return s.join(w, r, addr, to.name)
	case actPut:
		return s.put(w, r, addr, to)
	case actGet:
		return s.get(w, r, addr, to)
	case actTURN:
		return s.turn(w, r, to)
	case actCarry:
		return s.carry(w, r, addr, to)
	case actPost, actFetch:
		return s.mailbox(w, r, addr, to)
	case actBoxTURN:
		return s.mailboxTURN(w, r, to)
	case actKeyAsk, actKeyNonce, actKeyClaim, actKeyPoll, actKeyOffer, actKeyAccept, actKeyLeave:
		return s.key(w, r, addr, to)
	case actLeave:
		return s.leave(w, r, to)
	case actBadVerb:
		return &problem{status: http.StatusMethodNotAllowed, text: "this method does not apply here"}
	default:
		return &problem{status: http.StatusNotFound, text: "there is nothing here", hint: "this is a rendezvous for adit: give its address without a path"}
	}
	return nil
}

// carry makes the connection one side of a pair, for as long as it lasts.
func (s *Server) carry(w http.ResponseWriter, r *http.Request, addr netip.Prefix, to route) *problem {
	if s.cfg.Carry == nil {
		return &problem{status: http.StatusNotFound, text: "this rendezvous carries no packets", hint: "use a relay: --turn"}
	}
	done, ok := s.limits.poll(addr)
	if !ok {
		return &problem{http.StatusTooManyRequests, "too many connections from this address", "close some", 5 * time.Second}
	}
	defer done()
	s.cfg.Carry.Serve(w, r, to.name, to.seq)
	return nil
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, addr netip.Prefix) *problem {
	if !s.limits.create(addr) {
		return &problem{http.StatusTooManyRequests, "too many rooms for this address", "wait a minute", 10 * time.Second}
	}
	first, p := s.body(w, r, addr)
	if p != nil {
		return p
	}
	if len(first) == 0 {
		first = nil
	}
	room := Room{ID: secret(), Token: secret(), Expires: s.cfg.Now().Add(s.cfg.TTL), First: first}
	for range 64 { // at most one nameplate in ten is taken
		var err error
		if room.Nameplate, err = s.nameplate(r.Context()); err == nil {
			err = s.store.Create(r.Context(), room)
		}
		switch {
		case errors.Is(err, ErrNameplateTaken):
			continue
		case err != nil:
			return s.storeProblem(err)
		}
		reply(w, http.StatusCreated, created{
			Nameplate: room.Nameplate,
			ID:        room.ID,
			Token:     room.Token,
			Expires:   room.Expires.UTC().Truncate(time.Second),
			Seconds:   int(s.cfg.TTL / time.Second),
		})
		return nil
	}
	return s.storeProblem(ErrFull)
}

// created is the reply to a new room, and with the message instead of the nameplate to a joiner.
type created struct {
	Nameplate string    `json:"nameplate,omitempty"`
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	Expires   time.Time `json:"expires"`
	Seconds   int       `json:"seconds"`           // until Expires, for those whose clock is wrong
	Message   string    `json:"message,omitempty"` // base64
	// TURN is for a joiner; null from a server that knows of none.
	TURN []signal.TURNServer `json:"turn,omitempty"`
}

// nameplate returns a random number of at least four digits, and of as many more as it takes that not
// one number in ten is in use: a guess shall rarely hit somebody's room.
func (s *Server) nameplate(ctx context.Context) (string, error) {
	rooms, err := s.store.Rooms(ctx)
	if err != nil {
		return "", err
	}
	low := int64(1000)
	for int64(rooms) >= low*9/10 && low < 1_000_000_000 {
		low *= 10
	}
	n, err := rand.Int(rand.Reader, big.NewInt(low*9))
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(low+n.Int64(), 10), nil
}

// join lets the one joiner in. It may bring the token it will use, so that asking again after a lost
// reply is harmless.
func (s *Server) join(w http.ResponseWriter, r *http.Request, addr netip.Prefix, nameplate string) *problem {
	if ok, banned := s.limits.join(addr); banned > 0 {
		return &problem{http.StatusTooManyRequests, "too many wrong codes from this address", fmt.Sprintf("wait %v", banned.Round(time.Minute)), banned}
	} else if !ok {
		return &problem{http.StatusTooManyRequests, "too many rooms for this address", "wait a minute", 10 * time.Second}
	}
	if _, p := s.body(w, r, addr); p != nil {
		return p
	}
	token, ok := bearer(r.Header)
	if !ok {
		token = secret()
	}
	t, err := s.store.Join(r.Context(), nameplate, token)
	if err != nil {
		if errors.Is(err, ErrNoRoom) {
			s.limits.joinFailed(addr)
		}
		return s.storeProblem(err)
	}
	reply(w, http.StatusOK, created{
		ID:      t.ID,
		Token:   t.Token,
		Expires: t.Expires.UTC().Truncate(time.Second),
		Seconds: int(t.Expires.Sub(s.cfg.Now()) / time.Second),
		Message: base64.StdEncoding.EncodeToString(t.First),
		TURN:    s.turnFor(s.hostFor(r), t.ID, joiner, t.Expires).TURN,
	})
	return nil
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, addr netip.Prefix, to route) *problem {
	token, ok := bearer(r.Header)
	if !ok {
		return s.storeProblem(ErrToken)
	}
	b, p := s.body(w, r, addr)
	if p != nil {
		return p
	}
	if len(b) == 0 {
		return &problem{status: http.StatusBadRequest, text: "the message is empty"}
	}
	if err := s.store.Put(r.Context(), to.name, token, to.seq, b); err != nil {
		return s.storeProblem(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request, to route) *problem {
	token, ok := bearer(r.Header)
	if !ok {
		return s.storeProblem(ErrToken)
	}
	if err := s.store.Leave(r.Context(), to.name, token); err != nil {
		return s.storeProblem(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// body reads the message in a request. It is cut off when it is too large or too slow.
func (s *Server) body(w http.ResponseWriter, r *http.Request, addr netip.Prefix) ([]byte, *problem) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), ContentType) {
		return nil, &problem{status: http.StatusUnsupportedMediaType, text: "a message must be of type " + ContentType}
	}
	if r.ContentLength > MaxMessage {
		return nil, tooLarge()
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	done, ok, busy := s.limits.upload(addr)
	if busy {
		return nil, s.storeProblem(ErrFull)
	} else if !ok {
		return nil, &problem{http.StatusTooManyRequests, "too many requests at once from this address", "wait a minute", time.Second}
	}
	defer done()
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxMessage))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge()
	case err != nil:
		return nil, &problem{status: http.StatusRequestTimeout, text: "the message did not arrive whole and in time"}
	}
	if !s.limits.store(addr, len(b)) {
		return nil, &problem{http.StatusTooManyRequests, "too many bytes from this address", "wait a minute", 10 * time.Second}
	}
	return b, nil
}

func tooLarge() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("a message has at most %d bytes", MaxMessage)}
}

// storeProblem says what an error of the store means to a client.
func (s *Server) storeProblem(err error) *problem {
	switch {
	case errors.Is(err, ErrNoRoom):
		return &problem{status: http.StatusNotFound, text: "there is no such room", hint: "check the number, or ask for a new code: one lives for " + s.cfg.TTL.String()}
	case errors.Is(err, ErrRoomTaken):
		return &problem{status: http.StatusConflict, text: "this room has its two peers already", hint: "ask for a new code; if it was not you who used this one, somebody guessed"}
	case errors.Is(err, ErrToken):
		return &problem{status: http.StatusUnauthorized, text: "the token does not belong to this room"}
	case errors.Is(err, ErrPeerGone):
		return &problem{status: http.StatusGone, text: "the other side left the room", hint: "start again on both sides"}
	case errors.Is(err, ErrConflict):
		return &problem{status: http.StatusConflict, text: "another message has this number, or one before it is missing"}
	case errors.Is(err, ErrTooMany):
		return &problem{status: http.StatusForbidden, text: fmt.Sprintf("a side has %d messages in a room", s.cfg.Limits.Messages)}
	case errors.Is(err, ErrFull):
		s.full.Do(func() { s.cfg.Logger.Warn("the rendezvous is full: it refuses rooms or messages") })
		return &problem{http.StatusServiceUnavailable, "the rendezvous is full", "try again in some minutes", 10 * time.Second}
	case errors.Is(err, context.Canceled):
		return &problem{status: 499, text: "the client left"} // nobody reads it
	}
	s.cfg.Logger.Debug("the store does not work", "err", err)
	return &problem{http.StatusServiceUnavailable, "the rendezvous cannot reach its store", "try again in a moment", time.Second}
}

// stunFor returns the advertised STUN servers for a client that asked for host.
func (s *Server) stunFor(host string) []string {
	out := make([]string, 0, len(s.cfg.STUN))
	host = hostOf(host)
	for _, hp := range s.cfg.STUN {
		h, port, err := net.SplitHostPort(hp)
		if err != nil {
			continue
		}
		if h == "" {
			if !isHost(host) {
				continue
			}
			h = host
		}
		out = append(out, net.JoinHostPort(h, port))
	}
	return out
}

// isHost says whether s could be a host name or an address: it comes from a request.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// secret returns 128 random bits, for an id or a token.
func secret() string {
	var b [idChars / 2]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("rendezvous: " + err.Error()) // plain structs marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that left does not mind
}

func refuse(w http.ResponseWriter, r *http.Request, p *problem) {
	if p.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.retry+time.Second-1)/time.Second)))
	}
	if p.status == http.StatusRequestEntityTooLarge || p.status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close") // rather than read what is left of the body
	}
	reply(w, p.status, struct {
		Error string `json:"error"`
		Hint  string `json:"hint,omitempty"`
	}{p.text, p.hint})
}
