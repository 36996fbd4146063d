package rendezvous

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/signal"
)

// AccessHeader carries the token of somebody who may use a server that is not open to everybody.
const AccessHeader = signal.AccessHeader

const (
	accessTokenMin = 16 // characters of a token
	accessLineMax  = 4096

	hookWait    = 3 * time.Second
	hookYes     = time.Minute // how long an answer of the hook is believed
	hookNo      = 5 * time.Second
	hookAnswers = 4096 // that are remembered
	hookReply   = 4096 // bytes of one
)

// ErrAccess says that somebody may not use the server.
var ErrAccess = errors.New("access is refused")

// A Grant is what somebody may do who may use the server.
type Grant struct {
	Name   string // of whoever holds the token or the key, as the operator calls them
	Rooms  int    // rooms a minute; 0 is no bound but that of the address
	Claims int    // claims of keys a minute; the same
}

// An Ask is who wants to begin something: open a room, claim the mailbox of a key, leave the first letter in a mailbox.
// Whoever joins, calls or answers needs no access: somebody who has it waits for them.
type Ask struct {
	What  string         // room, key or mailbox
	Token string         // empty if there is none
	Key   signal.KeyName // that was proved; zero if none was
}

// Access decides who may begin something at a server. An error that is not ErrAccess says that it cannot be decided
// now. It may be called from any goroutine.
type Access interface {
	Allow(ctx context.Context, ask Ask) (Grant, error)
}

// A List is the access that a file gives: one line for each token or public key, and behind it a name and limits.
//
//	# who               name     limits
//	qk7Wn3vS0cPz4tYb    alice    rooms=10
//	adit1by5yrd2eh…     backup   claims=5
type List struct {
	tokens map[[sha256.Size]byte]Grant // by the token's hash: looking one up tells nothing about the others
	keys   map[signal.KeyName]Grant
}

// ParseList reads a list. key reads a public key as adit prints it, and says whether it is one. Errors name the line.
func ParseList(r io.Reader, key func(string) ([32]byte, bool)) (*List, error) {
	l := &List{tokens: make(map[[sha256.Size]byte]Grant), keys: make(map[signal.KeyName]Grant)}
	in := bufio.NewScanner(r)
	in.Buffer(nil, accessLineMax)
	for n := 1; in.Scan(); n++ {
		fields := strings.Fields(in.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("line %d lacks a name behind the token", n)
		}
		g := Grant{Name: fields[1]}
		for _, f := range fields[2:] {
			name, value, _ := strings.Cut(f, "=")
			most, err := strconv.Atoi(value)
			switch {
			case err != nil || most < 1:
				return nil, fmt.Errorf("line %d: %q is no limit: write rooms=N or claims=N", n, f)
			case name == "rooms":
				g.Rooms = most
			case name == "claims":
				g.Claims = most
			default:
				return nil, fmt.Errorf("line %d: %q is no limit: write rooms=N or claims=N", n, f)
			}
		}
		if public, ok := key(fields[0]); ok {
			name, err := signal.KeyNameOf(public)
			if err != nil {
				return nil, fmt.Errorf("line %d: the key of %s cannot be used: %v", n, g.Name, err)
			}
			l.keys[name] = g
			continue
		}
		if len(fields[0]) < accessTokenMin {
			return nil, fmt.Errorf("line %d: the token of %s is shorter than %d characters", n, g.Name, accessTokenMin)
		}
		l.tokens[sha256.Sum256([]byte(fields[0]))] = g
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if len(l.tokens)+len(l.keys) == 0 {
		return nil, errors.New("it lists nobody")
	}
	return l, nil
}

// Allow implements Access.
func (l *List) Allow(_ context.Context, ask Ask) (Grant, error) {
	if g, ok := l.tokens[sha256.Sum256([]byte(ask.Token))]; ok && ask.Token != "" {
		return g, nil
	}
	if g, ok := l.keys[ask.Key]; ok && ask.Key != (signal.KeyName{}) {
		return g, nil
	}
	return Grant{}, ErrAccess
}

// A Hook is the access that an HTTP server gives. It is asked by POST with JSON,
//
//	{"what":"room","token":"…"}    or    {"what":"key","token":"","key":"64 hexadecimal digits"}
//
// and allows with 200 and {"name":"…","rooms":N,"claims":N}, of which all may be missing, or with 204. It refuses with
// 401, 403 or 404. What it answered is believed for a minute, a refusal for five seconds. While it cannot be reached
// nobody else gets in.
type Hook struct {
	URL  string
	HTTP *http.Client // nil is http.DefaultClient
	Now  func() time.Time

	mu      sync.Mutex
	answers map[Ask]hookAnswer
}

type hookAnswer struct {
	grant Grant
	ok    bool
	until time.Time
}

// Allow implements Access.
func (h *Hook) Allow(ctx context.Context, ask Ask) (Grant, error) {
	now := h.Now()
	h.mu.Lock()
	a, known := h.answers[ask]
	h.mu.Unlock()
	if !known || !now.Before(a.until) {
		var err error
		if a, err = h.ask(ctx, ask, now); err != nil {
			return Grant{}, err
		}
		h.keep(ask, a, now)
	}
	if !a.ok {
		return Grant{}, ErrAccess
	}
	return a.grant, nil
}

func (h *Hook) keep(ask Ask, a hookAnswer, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers == nil {
		h.answers = make(map[Ask]hookAnswer)
	}
	if len(h.answers) >= hookAnswers {
		for k, old := range h.answers {
			if !now.Before(old.until) {
				delete(h.answers, k)
			}
		}
		if len(h.answers) >= hookAnswers {
			clear(h.answers) // strangers with invented tokens; it is asked again
		}
	}
	h.answers[ask] = a
}

func (h *Hook) ask(ctx context.Context, ask Ask, now time.Time) (hookAnswer, error) {
	var key string
	if ask.Key != (signal.KeyName{}) {
		key = hex.EncodeToString(ask.Key[:])
	}
	body, err := json.Marshal(map[string]string{"what": ask.What, "token": ask.Token, "key": key})
	if err != nil {
		return hookAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, hookWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return hookAnswer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	client := h.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(r)
	if err != nil {
		return hookAnswer{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
		return hookAnswer{ok: true, until: now.Add(hookYes)}, nil
	case http.StatusOK:
		var g struct {
			Name   string
			Rooms  int
			Claims int
		}
		if err := json.NewDecoder(io.LimitReader(resp.Body, hookReply)).Decode(&g); err != nil {
			return hookAnswer{}, fmt.Errorf("the answer of the access hook: %v", err)
		}
		return hookAnswer{Grant{g.Name, max(g.Rooms, 0), max(g.Claims, 0)}, true, now.Add(hookYes)}, nil
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return hookAnswer{until: now.Add(hookNo)}, nil
	}
	return hookAnswer{}, fmt.Errorf("the access hook answered %d", resp.StatusCode)
}

// SetAccess replaces who may begin something at the server; nil is everybody.
func (s *Server) SetAccess(a Access) { s.access.Store(&a) }

// admit says why somebody may not begin something, or nil. m counts it for the holder of the grant.
func (s *Server) admit(q *request, what string, key signal.KeyName, m measure) *problem {
	a := s.access.Load()
	if a == nil || *a == nil {
		return nil
	}
	g, err := (*a).Allow(q.r.Context(), Ask{What: what, Token: q.r.Header.Get(AccessHeader), Key: key})
	switch {
	case errors.Is(err, ErrAccess):
		return &problem{
			status: http.StatusUnauthorized, text: "this rendezvous is for those who have its token",
			hint: "ask its operator for one, and set signal_token", limit: limitAccess,
		}
	case err != nil:
		s.cfg.Logger.Warn("access cannot be decided", "err", err)
		return &problem{status: http.StatusServiceUnavailable, text: "the rendezvous cannot find out who may use it", hint: "try again in a moment", retry: 2 * time.Second}
	}
	most := g.Rooms
	if m == perClaim {
		most = g.Claims
	}
	if most > 0 && !s.limits.allowGrant(g.Name, m, most) {
		return tooMany(limitAccess, "this token has been used too often", 10*time.Second)
	}
	return nil
}
