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
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/carry"
	"adit/internal/fair"
	"adit/signal"
)

const (
	// MaxMessage is the largest message, in bytes.
	MaxMessage = 16 << 10
	// ContentType is what a request with a message must say it carries. No form of a web page can.
	ContentType = "application/adit"

	defaultTTL = 10 * time.Minute
	maxWait    = 60 * time.Second // the longest a poll may ask for
	headWait   = 12 * time.Second // how long the head of a request may take to arrive, and the handshake before it
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
	// Access says who may begin something; nil is everybody. SetAccess replaces it.
	Access Access
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
	cfg     Config
	store   Store
	limits  *limiter
	refused *refusals
	gate    *gate
	access  atomic.Pointer[Access]

	mailboxes *mailboxes
	keys      *keyboxes

	draining atomic.Bool
	done     chan struct{} // closed by Close
	close    sync.Once

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
	if len(cfg.TURN.Secret) == 0 { // it also makes what shows who belongs to a pair
		cfg.TURN.Secret = []byte(secret())
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
	s := &Server{
		cfg:     cfg,
		store:   cfg.Store,
		limits:  newLimiter(cfg.Limits, cfg.Now),
		refused: &refusals{log: cfg.Logger, now: cfg.Now, of: make(map[string]*refusal)},
		done:    make(chan struct{}),

		mailboxes: newMailboxes(cfg.Limits, cfg.Now),
		keys:      newKeyboxes(cfg.Limits, cfg.Now),
	}
	s.gate = &gate{limits: cfg.Limits, limiter: s.limits, refused: s.refused, exempt: s.trusted, turns: newTurnstile(max(16, 4*runtime.GOMAXPROCS(0)))}
	s.SetAccess(cfg.Access)
	return s
}

// Listener returns l with its connections counted and bounded: one that there is no room for is closed. TLS and the
// HTTPServer go on top of it. All listeners of a server share its limits.
func (s *Server) Listener(l net.Listener) net.Listener { return gateListener{l, s.gate} }

// HTTPServer returns an http.Server for addr with the timeouts and header limits that the rendezvous
// wants. The caller starts it. Its Shutdown calls Close, so that the polls do not hold it up.
func (s *Server) HTTPServer(addr string) *http.Server {
	h := &http.Server{
		Addr:              addr,
		Handler:           s.Handler(),
		ReadHeaderTimeout: headWait,
		ReadTimeout:       bodyWait + 5*time.Second, // a poll sets its own
		WriteTimeout:      bodyWait + 5*time.Second + writeSlack,
		IdleTimeout:       2 * time.Minute,
		ConnContext:       withGate,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug), // each bad TLS handshake, say
	}
	h.RegisterOnShutdown(s.Close)
	return h
}

// Drain refuses what would begin something from now on, a room, a claim or a connection that carries packets, with a
// status that has clients try again, and has /v1/ready say so. What is under way goes on until Close.
func (s *Server) Drain() { s.draining.Store(true) }

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
	limit  string        // that refuses, if one does: its connection is closed
}

// A request is one that is being answered, with what is known of its sender.
type request struct {
	w    http.ResponseWriter
	r    *http.Request
	addr netip.Addr
	to   route
	conn *gateConn // that it came by, or nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 {
		// Set here, for net/http reads what a handler left of a body. A writer that cannot is a test's.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait))
	}
	q := &request{w: w, r: r, addr: s.clientAddr(r), to: parseRoute(r.Method, r.URL.Path), conn: gateOf(r.Context())}
	q.conn.rise(guest)
	if p := s.handle(q); p != nil {
		if p.limit != "" {
			s.refused.note(p.limit, fair.Address(q.addr))
		}
		refuse(w, p)
	}
}

// going is the answer of a server that is about to end.
func going() *problem {
	return &problem{status: http.StatusServiceUnavailable, text: "the rendezvous is going down", hint: "try again in a moment", retry: time.Second}
}

// tooMany is a refusal by a limit that waiting helps against.
func tooMany(limit, text string, retry time.Duration) *problem {
	return &problem{status: http.StatusTooManyRequests, text: text, hint: retryIn(retry), retry: retry, limit: limit}
}

// busy is a refusal because what all share is used up.
func busy(limit string) *problem {
	return &problem{status: http.StatusServiceUnavailable, text: "the rendezvous is full", hint: "try again in some minutes", retry: 10 * time.Second, limit: limit}
}

func (s *Server) handle(q *request) *problem {
	select {
	case <-s.done:
		return going()
	default:
	}
	if q.r.URL.Path == "/" && (q.r.Method == http.MethodGet || q.r.Method == http.MethodHead) && s.limits.allow(q.addr, perRequest, 1) {
		welcome(q.w, q.r)
		return nil
	}
	if fromBrowser(q.r.Header) {
		return &problem{status: http.StatusForbidden, text: "this is no place for web pages", hint: "use adit"}
	}
	if !s.allowInside(q) && !s.limits.allow(q.addr, perRequest, 1) {
		return tooMany(limitRequests, "too many requests from this address", 5*time.Second)
	}
	w, r, to := q.w, q.r, q.to
	if s.draining.Load() {
		switch to.action {
		case actReady, actCreate, actKeyNonce, actKeyClaim, actKeyOffer, actCarry:
			return going()
		}
	}
	s.noticeProxy(r, to.action)
	switch to.action {
	case actHealth, actReady:
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	case actICE:
		reply(w, http.StatusOK, map[string][]string{"stun": s.stunFor(s.hostFor(r))})
	case actCreate:
		return s.create(q)
	case actJoin:
		return s.join(q)
	case actPut:
		return s.put(q)
	case actGet:
		return s.get(q)
	case actTURN:
		return s.turn(q)
	case actCarry:
		return s.carry(q)
	case actPost, actFetch:
		return s.mailbox(q)
	case actBoxTURN:
		return s.mailboxTURN(q)
	case actKeyAsk, actKeyNonce, actKeyClaim, actKeyPoll, actKeyOffer, actKeyAccept, actKeyLeave:
		return s.key(q)
	case actLeave:
		return s.leave(q)
	case actBadVerb:
		return &problem{status: http.StatusMethodNotAllowed, text: "this method does not apply here"}
	default:
		return &problem{status: http.StatusNotFound, text: "there is nothing here", hint: "this is a rendezvous for adit: give its address without a path"}
	}
	return nil
}

// allowInside says whether a request is one of a room or of a claimed key: those have a bucket for themselves, so that
// an address is no person.
func (s *Server) allowInside(q *request) bool {
	token, ok := bearer(q.r.Header)
	if !ok {
		return false
	}
	switch q.to.action {
	case actPut, actGet, actTURN, actLeave:
		if _, err := s.store.Place(q.r.Context(), q.to.name, token); err != nil && !errors.Is(err, ErrPeerGone) {
			return false
		}
	case actKeyPoll, actKeyAccept, actKeyLeave:
		if s.keys.listens(q.to.key, token) != nil {
			return false
		}
	default:
		return false
	}
	return s.limits.allowInside(token)
}

// member returns the token of a request in a room, and the place that it stands for. Whoever has none gets no further:
// no body is read, and nothing waits.
func (s *Server) member(q *request) (string, Place, *problem) {
	token, ok := bearer(q.r.Header)
	if !ok {
		return "", Place{}, s.storeProblem(ErrToken)
	}
	p, err := s.store.Place(q.r.Context(), q.to.name, token)
	if err != nil && !errors.Is(err, ErrPeerGone) { // what the peer sent before is there for a while
		return "", Place{}, s.storeProblem(err)
	}
	q.conn.rise(insider)
	if p.Both {
		s.seen(q.to.name, q.addr)
	}
	return token, p, nil
}

// carry makes the connection one side of a pair, for as long as it lasts. The client shows that it is a side of a room.
func (s *Server) carry(q *request) *problem {
	if s.cfg.Carry == nil {
		return &problem{status: http.StatusNotFound, text: "this rendezvous carries no packets", hint: "use a relay: --turn"}
	}
	pair, side, ok := s.pass(q)
	if !ok {
		return &problem{status: http.StatusUnauthorized, text: "packets are carried for the two sides of a room"}
	}
	p, limit := s.limits.poll(q.addr, "carry "+pair+" "+side)
	if limit != "" {
		return tooManyPolls(limit)
	}
	defer p.done()
	q.conn.rise(insider)
	if !s.cfg.Carry.Serve(q.w, q.r, pair, q.to.seq, q.addr) { // one for each side, whatever ids it invents
		s.refused.note(limitCarry, fair.Address(q.addr))
	}
	return nil
}

func (s *Server) create(q *request) *problem {
	if !s.limits.allow(q.addr, perRoom, 1) {
		return tooMany(limitRooms, "too many rooms for this address", 10*time.Second)
	}
	if p := s.admit(q, "room", signal.KeyName{}, perRoom); p != nil {
		return p
	}
	first, p := s.body(q)
	if p != nil {
		return p
	}
	if len(first) == 0 {
		first = nil
	}
	room := Room{ID: secret(), Token: secret(), Expires: s.cfg.Now().Add(s.cfg.TTL), First: first, From: q.addr}
	for range 64 { // at most one nameplate in ten is taken
		var err error
		if room.Nameplate, err = s.nameplate(q.r.Context()); err == nil {
			err = s.store.Create(q.r.Context(), room)
		}
		switch {
		case errors.Is(err, ErrNameplateTaken):
			continue
		case err != nil:
			return s.storeProblem(err)
		}
		q.conn.rise(insider)
		reply(q.w, http.StatusCreated, created{
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
	Pass string              `json:"pass,omitempty"` // which side of the room the client is, from a server that carries packets
}

// nameplate returns a random number of at least four digits, and of as many more as it takes that a guess rarely hits
// somebody's room: not one number in ten is in use, and not one in a hundred was guessed in vain lately.
func (s *Server) nameplate(ctx context.Context) (string, error) {
	rooms, err := s.store.Rooms(ctx)
	if err != nil {
		return "", err
	}
	wrong := s.limits.wrongLately()
	low := int64(1000)
	for (int64(rooms) >= low*9/10 || int64(wrong) >= low*9/100) && low < 1_000_000_000 {
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
func (s *Server) join(q *request) *problem {
	if ok, wait := s.limits.join(q.addr); wait > 0 {
		return tooMany(limitFailedJoins, "too many wrong codes from this address", wait)
	} else if !ok {
		return tooMany(limitRooms, "too many rooms for this address", 10*time.Second)
	}
	if _, p := s.body(q); p != nil {
		return p
	}
	token, ok := bearer(q.r.Header)
	if !ok {
		token = secret()
	}
	t, err := s.store.Join(q.r.Context(), q.to.name, token)
	if err != nil {
		if errors.Is(err, ErrNoRoom) {
			s.limits.joinFailed(q.addr)
		}
		return s.storeProblem(err)
	}
	q.conn.rise(insider)
	relays := s.turnFor(q, t.ID, joiner)
	reply(q.w, http.StatusOK, created{
		ID:      t.ID,
		Token:   t.Token,
		Expires: t.Expires.UTC().Truncate(time.Second),
		Seconds: int(t.Expires.Sub(s.cfg.Now()) / time.Second),
		Message: base64.StdEncoding.EncodeToString(t.First),
		TURN:    relays.TURN,
		Pass:    relays.Pass,
	})
	return nil
}

func (s *Server) put(q *request) *problem {
	token, _, p := s.member(q)
	if p != nil {
		return p
	}
	b, p := s.body(q)
	if p != nil {
		return p
	}
	if len(b) == 0 {
		return &problem{status: http.StatusBadRequest, text: "the message is empty"}
	}
	if err := s.store.Put(q.r.Context(), q.to.name, token, q.to.seq, b); err != nil {
		return s.storeProblem(err)
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) leave(q *request) *problem {
	token, ok := bearer(q.r.Header)
	if !ok {
		return s.storeProblem(ErrToken)
	}
	if err := s.store.Leave(q.r.Context(), q.to.name, token); err != nil {
		return s.storeProblem(err)
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// body reads the message in a request. It is cut off when it is too large or too slow, or has to make room for
// another.
func (s *Server) body(q *request) ([]byte, *problem) {
	r := q.r
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), ContentType) {
		return nil, &problem{status: http.StatusUnsupportedMediaType, text: "a message must be of type " + ContentType}
	}
	if r.ContentLength > MaxMessage {
		return nil, tooLarge()
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	var cut atomic.Bool
	c := http.NewResponseController(q.w)
	done, limit := s.limits.upload(q.addr, func() {
		cut.Store(true)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // the read ends; a writer that cannot is a test's
	})
	if limit != "" {
		return nil, tooMany(limit, "too many requests at once from this address", time.Second)
	}
	defer done()
	b, err := io.ReadAll(http.MaxBytesReader(q.w, r.Body, MaxMessage))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge()
	case err != nil && cut.Load():
		return nil, busy(limitBodies)
	case err != nil:
		return nil, &problem{status: http.StatusRequestTimeout, text: "the message did not arrive whole and in time"}
	}
	if !s.limits.allow(q.addr, perByte, len(b)) {
		return nil, tooMany(limitBytes, "too many bytes from this address", 10*time.Second)
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
		return busy(limitStore)
	case errors.Is(err, context.Canceled):
		return &problem{status: 499, text: "the client left"} // nobody reads it
	}
	s.cfg.Logger.Debug("the store does not work", "err", err)
	return &problem{status: http.StatusServiceUnavailable, text: "the rendezvous cannot reach its store", hint: "try again in a moment", retry: time.Second}
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

func refuse(w http.ResponseWriter, p *problem) {
	if p.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.retry+time.Second-1)/time.Second)))
	}
	if p.limit != "" || p.status == http.StatusRequestEntityTooLarge || p.status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close") // rather than read what is left of the body, or keep what is too much
	}
	reply(w, p.status, struct {
		Error string `json:"error"`
		Hint  string `json:"hint,omitempty"`
	}{p.text, p.hint})
}
