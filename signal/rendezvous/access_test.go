package rendezvous

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/signal"
)

const goodToken = "qk7Wn3vS0cPz4tYb"

func parseTestList(t *testing.T, text string, keys map[string][32]byte) (*List, error) {
	t.Helper()
	return ParseList(strings.NewReader(text), func(s string) ([32]byte, bool) {
		k, ok := keys[s]
		return k, ok
	})
}

func TestParseList(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"good", "# people\n\n" + goodToken + " alice rooms=10 claims=3\n", ""},
		{"nobody", "# nobody yet\n", "lists nobody"},
		{"no name", goodToken + "\n", "line 1 lacks a name"},
		{"short", "# x\nshort bob\n", "line 2: the token of bob is shorter"},
		{"another limit", goodToken + " alice speed=9\n", `line 1: "speed=9" is no limit`},
		{"no number", goodToken + " alice rooms=many\n", `line 1: "rooms=many" is no limit`},
		{"none", goodToken + " alice rooms=0\n", `line 1: "rooms=0" is no limit`},
		{"a long line", strings.Repeat("x", 2*accessLineMax), "token too long"},
	} {
		_, err := parseTestList(t, tt.text, nil)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), goodToken)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// With a list only its tokens and keys begin something. Joiners and callers need none, nor does the other side of a
// session.
func TestAccessList(t *testing.T) {
	t.Parallel()
	listed, other := newHolder(t), newHolder(t)
	list, err := parseTestList(t, goodToken+" alice rooms=3\nadit1listed backup\n", map[string][32]byte{"adit1listed": listed.public})
	if err != nil {
		t.Fatal(err)
	}
	k := newClock()
	s := New(Config{Access: list, Now: k.Now})
	defer s.Close()
	c := caller{t, s.Handler(), "192.0.2.1:4000"}
	with := func(token string) []string { return []string{AccessHeader, token} }
	c.want(401, "POST", "/v1/room", "", nil)
	c.want(401, "POST", "/v1/room", "", nil, with("another token that is long")...)
	a := c.read(c.want(201, "POST", "/v1/room", "", nil, with(goodToken)...))
	b := c.join(a.Nameplate, "")
	c.want(204, "PUT", "/v1/room/"+a.ID+"/0", b.Token, []byte("x"))

	box := "/v1/mailbox/" + boxID(1)
	c.want(503, "PUT", box+"/1/1", "", []byte("x")) // as long as nobody who may has come
	c.want(204, "PUT", box+"/0/1", "", []byte("x"), with(goodToken)...)
	c.want(204, "PUT", box+"/1/1", "", []byte("x"))

	c.want(201, "POST", "/v1/room", "", nil, with(goodToken)...)
	c.want(429, "POST", "/v1/room", "", nil, with(goodToken)...) // the mailbox counted too
	k.add(time.Minute)
	c.want(201, "POST", "/v1/room", "", nil, with(goodToken)...)

	claim := func(h holder, header ...string) int {
		nonce := s.keys.nonce(h.name)
		proof, err := signal.ProveKey(h.private, [32]byte(s.keys.private.PublicKey().Bytes()), nonce, "example.com")
		if err != nil {
			t.Fatal(err)
		}
		k.add(time.Second)
		return c.do("PUT", "/v1/key/"+hex.EncodeToString(h.name[:])+"/claim", "", append(nonce, proof...), header...).Code
	}
	if got := claim(listed); got != 201 {
		t.Errorf("a listed key: got %d, want 201", got)
	}
	if got := claim(other); got != 401 {
		t.Errorf("another key: got %d, want 401", got)
	}
	if got := claim(other, with(goodToken)...); got != 201 {
		t.Errorf("another key with a token: got %d, want 201", got)
	}
	if got := claim(holder{other.private, listed.public, listed.name}); got != 403 {
		t.Errorf("a listed key's name without its proof: got %d, want 403", got)
	}
	s.SetAccess(nil)
	c.want(201, "POST", "/v1/room", "", nil)
}

// A hook is asked once a minute for each token, and while it cannot be asked nobody new gets in.
func TestAccessHook(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	var broken atomic.Bool
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var ask map[string]string
		err := json.NewDecoder(r.Body).Decode(&ask)
		switch {
		case err != nil || ask["what"] != "room" || r.Method != http.MethodPost:
			t.Errorf("asked %s for %v, %v", r.Method, ask, err)
		case broken.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case ask["token"] == "one":
			_, _ = w.Write([]byte(`{"name":"alice","rooms":2}`))
		case ask["token"] == "two":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer hook.Close()
	k := newClock()
	c := call(t, Config{Now: k.Now, Access: &Hook{URL: hook.URL, HTTP: hook.Client(), Now: k.Now}})
	create := func(want int, token string) {
		t.Helper()
		c.want(want, "POST", "/v1/room", "", nil, AccessHeader, token)
	}
	create(201, "one")
	create(201, "one")
	create(429, "one")
	for range 5 {
		create(201, "two")
		create(401, "three")
	}
	if got := asked.Load(); got != 3 {
		t.Errorf("the hook was asked %d times, want 3", got)
	}
	broken.Store(true)
	create(201, "two") // known for a minute
	create(503, "four")
	k.add(hookYes)
	create(503, "two")
	broken.Store(false)
	create(201, "two")
	create(401, "four")
}

// A client takes its token from the URL, shows it to nobody else, and says what is wrong without one.
func TestAccessClient(t *testing.T) {
	t.Parallel()
	list, err := parseTestList(t, goodToken+" alice\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Access: list})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	defer s.Close()
	if _, err := (&signal.Client{URL: web.URL}).Create(t.Context()); !errors.Is(err, signal.ErrAccess) {
		t.Errorf("without a token: got %v, want %v", err, signal.ErrAccess)
	}
	url := signal.WithToken(web.URL, goodToken)
	if got := signal.PublicURL(url); got != web.URL || url == web.URL {
		t.Errorf("PublicURL(%q) = %q, want %q", url, got, web.URL)
	}
	r, err := (&signal.Client{URL: url}).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	_, err = (&signal.Client{URL: signal.WithToken(web.URL, "wrong-token-of-someone")}).Create(t.Context())
	if !errors.Is(err, signal.ErrAccess) || strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("with a wrong token: got %v, want %v and no token in it", err, signal.ErrAccess)
	}
}
