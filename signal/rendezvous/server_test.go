package rendezvous

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/testtier"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// A caller makes requests of a server without a network.
type caller struct {
	t    *testing.T
	h    http.Handler
	from string // the address it comes from
}

func call(t *testing.T, cfg Config) caller {
	t.Helper()
	s := New(cfg)
	t.Cleanup(s.Close)
	return caller{t, s.Handler(), "192.0.2.1:4000"}
}

func (c caller) do(method, path, token string, body []byte, header ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.RemoteAddr = c.from
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if method == http.MethodPost || method == http.MethodPut {
		r.Header.Set("Content-Type", ContentType)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	return w
}

// want makes a request and checks its status, and that a refusal says why.
func (c caller) want(status int, method, path, token string, body []byte, header ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	w := c.do(method, path, token, body, header...)
	if w.Code != status {
		c.t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	if status >= 400 {
		var p struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Error == "" {
			c.t.Errorf("%s %s: the refusal %q says nothing", method, path, w.Body)
		}
	}
	return w
}

func (c caller) create(first []byte) created {
	c.t.Helper()
	return c.read(c.want(http.StatusCreated, "POST", "/v1/room", "", first))
}

func (c caller) join(nameplate, token string) created {
	c.t.Helper()
	return c.read(c.want(http.StatusOK, "POST", "/v1/room/"+nameplate+"/join", token, nil))
}

func (c caller) read(w *httptest.ResponseRecorder) created {
	c.t.Helper()
	var r created
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func TestRoom(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now})
	a := c.create([]byte("first"))
	if !isNameplate(a.Nameplate) || !isHex(a.ID) || !isHex(a.Token) || a.Seconds != 600 || !a.Expires.Equal(k.now.Add(10*time.Minute)) {
		t.Errorf("created %+v", a)
	}
	k.add(time.Minute)
	b := c.join(a.Nameplate, "")
	if b.ID != a.ID || b.Token == a.Token || !isHex(b.Token) || b.Seconds != 540 || !b.Expires.Equal(a.Expires) ||
		b.Message != base64.StdEncoding.EncodeToString([]byte("first")) {
		t.Errorf("joined %+v", b)
	}
	room := "/v1/room/" + a.ID
	if got := c.want(200, "GET", room+"/0", b.Token, nil); got.Body.String() != "first" || got.Header().Get("Content-Type") != ContentType {
		t.Errorf("message 0 is %q of type %q", got.Body, got.Header().Get("Content-Type"))
	}
	c.want(204, "GET", room+"/1", b.Token, nil)
	c.want(204, "PUT", room+"/0", b.Token, []byte("offer"))
	c.want(204, "PUT", room+"/0", b.Token, []byte("offer")) // a retry
	c.want(409, "PUT", room+"/0", b.Token, []byte("other"))
	c.want(409, "PUT", room+"/2", b.Token, []byte("early"))
	c.want(400, "PUT", room+"/1", b.Token, nil)
	if got := c.want(200, "GET", room+"/0?wait=25", a.Token, nil).Body.String(); got != "offer" {
		t.Errorf("message is %q, want %q", got, "offer")
	}

	// The creator leaves: what it sent stays, then it is gone.
	c.want(204, "PUT", room+"/1", a.Token, []byte("bye"))
	c.want(204, "DELETE", room, a.Token, nil)
	c.want(200, "GET", room+"/1", b.Token, nil)
	c.want(410, "GET", room+"/2?wait=25", b.Token, nil)
	c.want(410, "PUT", room+"/1", b.Token, []byte("anyone"))
	c.want(204, "PUT", room+"/0", b.Token, []byte("offer")) // a retry is still one
	c.want(401, "GET", room+"/0", a.Token, nil)
	c.want(409, "POST", "/v1/room/"+a.Nameplate+"/join", "", nil)
	c.want(204, "DELETE", room, b.Token, nil)
	c.want(404, "GET", room+"/0", b.Token, nil)
	c.want(409, "POST", "/v1/room/"+a.Nameplate+"/join", "", nil) // used, not unknown
	k.add(10 * time.Minute)
	c.want(404, "POST", "/v1/room/"+a.Nameplate+"/join", "", nil)
}

func TestJoinTwice(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	a := c.create(nil)
	token := secret()
	b := c.join(a.Nameplate, token)
	if b.Token != token || b.Message != "" {
		t.Errorf("joined %+v, want its own token and no message", b)
	}
	c.want(204, "PUT", "/v1/room/"+a.ID+"/0", a.Token, []byte("now"))
	if again := c.join(a.Nameplate, token); again.Token != token || again.Message == "" {
		t.Errorf("asked again: %+v", again)
	}
	c.want(409, "POST", "/v1/room/"+a.Nameplate+"/join", secret(), nil)
	c.want(409, "POST", "/v1/room/"+a.Nameplate+"/join", "", nil)
	c.want(409, "POST", "/v1/room/"+a.Nameplate+"/join", a.Token, nil)
	c.want(200, "GET", "/v1/room/"+a.ID+"/0", token, nil) // the room does not mind
}

func TestToken(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	a, other := c.create([]byte("x")), c.create([]byte("y"))
	room := "/v1/room/" + a.ID
	for _, token := range []string{"", secret(), other.Token, a.Token[:31], a.Token + "0", strings.ToUpper(a.Token) + "G"} {
		c.want(401, "GET", room+"/0", token, nil)
		c.want(401, "PUT", room+"/1", token, []byte("x"))
		c.want(401, "DELETE", room, token, nil)
	}
	c.want(404, "GET", "/v1/room/"+secret()+"/0", a.Token, nil)
	c.want(404, "PUT", "/v1/room/"+secret()+"/0", a.Token, []byte("x"))
	c.want(404, "DELETE", "/v1/room/"+secret(), a.Token, nil)
}

func TestCreatorLeavesAlone(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	a := c.create(nil)
	c.want(204, "DELETE", "/v1/room/"+a.ID, a.Token, nil)
	c.want(404, "POST", "/v1/room/"+a.Nameplate+"/join", "", nil)
	c.want(404, "GET", "/v1/room/"+a.ID+"/0", a.Token, nil)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	a := c.create(nil)
	room := "/v1/room/" + a.ID
	for _, r := range []struct {
		name, method, path string
		body               []byte
		header             []string
		status             int
	}{
		{"nothing", "GET", "/x", nil, nil, 404},
		{"other version", "GET", "/v2/health", nil, nil, 404},
		{"below health", "GET", "/v1/health/x", nil, nil, 404},
		{"long path", "GET", "/v1/room/" + strings.Repeat("a", 4000), nil, nil, 404},
		{"dots", "GET", "/v1/../v1/health", nil, nil, 404},
		{"verb", "GET", "/v1/room", nil, nil, 405},
		{"other verb", "PATCH", room + "/0", nil, nil, 405},
		{"preflight", "OPTIONS", "/v1/room", nil, nil, 405},
		{"short nameplate", "POST", "/v1/room/12/join", nil, nil, 404},
		{"no number", "PUT", room + "/x", []byte("x"), nil, 404},
		{"negative", "PUT", room + "/-1", []byte("x"), nil, 404},
		{"leading zero", "PUT", room + "/00", []byte("x"), nil, 404},
		{"large number", "PUT", room + "/99999", []byte("x"), nil, 404},
		{"wait", "GET", room + "/0?wait=x", nil, nil, 400},
		{"other query", "GET", room + "/0?x=1", nil, nil, 400},
		{"poll with a body", "GET", room + "/0", []byte("x"), nil, 400},
		{"page", "POST", "/v1/room", nil, []string{"Origin", "https://page.example"}, 403},
		{"page without origin", "GET", "/v1/ice", nil, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"form", "POST", "/v1/room", nil, []string{"Content-Type", "text/plain"}, 415},
		{"form to a room", "PUT", room + "/0", []byte("x"), []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"too large", "PUT", room + "/0", make([]byte, MaxMessage+1), nil, 413},
		{"too large to create", "POST", "/v1/room", make([]byte, MaxMessage+1), nil, 413},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := caller{t, c.h, c.from}
			w := c.want(r.status, r.method, r.path, a.Token, r.body, r.header...)
			for name := range w.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("reply has %s", name)
				}
			}
		})
	}
	c.want(204, "PUT", room+"/0", a.Token, make([]byte, MaxMessage), "Content-Type", ContentType+"; charset=x")
}

func TestAdvertise(t *testing.T) {
	t.Parallel()
	c := call(t, Config{STUN: []string{":3478", "stun.example:19302", "[2001:db8::1]:3478"}})
	for host, want := range map[string]string{
		"rendezvous.example":      "[rendezvous.example:3478 stun.example:19302 [2001:db8::1]:3478]",
		"rendezvous.example:8080": "[rendezvous.example:3478 stun.example:19302 [2001:db8::1]:3478]",
		"[::1]:8080":              "[[::1]:3478 stun.example:19302 [2001:db8::1]:3478]",
		"192.0.2.7":               "[192.0.2.7:3478 stun.example:19302 [2001:db8::1]:3478]",
		"a b":                     "[stun.example:19302 [2001:db8::1]:3478]",
		"":                        "[stun.example:19302 [2001:db8::1]:3478]",
	} {
		r := httptest.NewRequest("GET", "/v1/ice", nil)
		r.Host = host
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, r)
		var got struct{ STUN []string }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || fmt.Sprint(got.STUN) != want {
			t.Errorf("host %q: got %v, want %s", host, got.STUN, want)
		}
	}
	c.want(200, "GET", "/v1/health", "", nil)
	if got := call(t, Config{}).want(200, "GET", "/v1/ice", "", nil).Body.String(); got != "{\"stun\":[]}\n" {
		t.Errorf("with no server: %q", got)
	}
}

// wire starts a server as HTTPServer makes it, and returns its address.
func wire(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	s := New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := s.HTTPServer("")
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = web.Serve(s.Listener(l))
	}()
	t.Cleanup(func() {
		if err := web.Shutdown(t.Context()); err != nil {
			_ = web.Close()
		}
		<-served
	})
	return s, l.Addr().String()
}

// send writes a request by hand and returns the status of the reply.
func send(t *testing.T, addr, request string) (net.Conn, int) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no reply: %v", err)
	}
	r.Body.Close()
	return c, r.StatusCode
}

func TestOnTheWire(t *testing.T) {
	t.Parallel()
	_, addr := wire(t, Config{})
	head := "POST /v1/room HTTP/1.1\r\nHost: x\r\nContent-Type: application/adit\r\n"
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"garbage", "\x16\x03\x01 garbage\r\n\r\n", 400},
		{"large header", "GET /v1/health HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		{"a promise of gigabytes", head + "Content-Length: 9999999999\r\n\r\n", 413},
		{"endless chunks", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+strings.Repeat("x", 4096)+"\r\n", 8), 413},
		{"a slow body", head + "Content-Length: 100\r\n\r\nslow", 408},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.status == 408 {
				testtier.Long(t)
			}
			t.Parallel()
			began := time.Now()
			if _, status := send(t, addr, c.request); status != c.status {
				t.Errorf("got %d, want %d", status, c.status)
			}
			if took := time.Since(began); took > bodyWait+time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Many requests that promise large bodies and send none hold no memory to speak of.
func TestSlowRequestsCostLittle(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	_, addr := wire(t, Config{Limits: Limits{Uploads: 16}})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	busy := 0
	for range 200 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		fmt.Fprintf(c, "POST /v1/room HTTP/1.1\r\nHost: x\r\nContent-Type: application/adit\r\nContent-Length: %d\r\n\r\nx", MaxMessage)
	}
	// Those above the limit of one address are refused at once; the others wait for their bodies.
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if r, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusTooManyRequests {
				busy++
			}
		}
		if busy > 100 {
			break
		}
	}
	if busy == 0 {
		t.Error("one address may have any number of requests open")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("200 slow requests hold %d bytes", grown)
	}
}

// A poll outlives the server's deadlines for quick requests, and ends when something happens.
func TestPoll(t *testing.T) {
	t.Parallel()
	s, addr := wire(t, Config{})
	c := caller{t, s.Handler(), "192.0.2.1:4000"}
	a := c.create(nil)
	b := c.join(a.Nameplate, "")
	type result struct {
		status int
		body   string
	}
	poll := func(token string, seq, wait int) chan result {
		got := make(chan result, 1)
		r, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://%s/v1/room/%s/%d?wait=%d", addr, a.ID, seq, wait), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Close = true
		go func() {
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				got <- result{body: err.Error()}
				return
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			got <- result{resp.StatusCode, string(text)}
		}()
		return got
	}
	wait := 2
	if testtier.IsLong() {
		wait = 17 // longer than ReadTimeout
	}
	long := poll(a.Token, 0, wait)
	message := poll(b.Token, 0, 25)
	c.want(204, "PUT", "/v1/room/"+a.ID+"/0", a.Token, []byte("hello"))
	if got := <-message; got != (result{200, "hello"}) {
		t.Errorf("poll for a message: %+v", got)
	}
	if got := <-poll(b.Token, 1, 1); got != (result{204, ""}) {
		t.Errorf("poll without a message: %+v", got)
	}
	if got := <-long; got != (result{204, ""}) {
		t.Errorf("poll of %d s: %+v", wait, got)
	}
	gone := poll(a.Token, 0, 25)
	closed := poll(b.Token, 1, 25)
	c.want(204, "DELETE", "/v1/room/"+b.ID, b.Token, nil)
	if got := <-gone; got.status != 410 {
		t.Errorf("poll as the peer leaves: %+v", got)
	}
	if got := <-closed; got.status != 401 {
		t.Errorf("poll as one's own side leaves: %+v", got)
	}
	d := c.create(nil)
	a = d
	ended := poll(d.Token, 0, 25)
	s.Close()
	if got := <-ended; got.status != 503 {
		t.Errorf("poll as the server closes: %+v", got)
	}
	c.want(503, "GET", "/v1/health", "", nil)
}

func TestClientAddr(t *testing.T) {
	t.Parallel()
	s := New(Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
	defer s.Close()
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "198.51.100.1", "192.0.2.1"}, // not trusted
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"10.0.0.1:5", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:5", "203.0.113.9, 198.51.100.1", "198.51.100.1"}, // the left one is the client's claim
		{"10.0.0.1:5", "203.0.113.9, 198.51.100.1, 10.9.9.9", "198.51.100.1"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "198.51.100.1, nonsense", "10.0.0.1"},
		{"[::1]:5", "2001:db8::1", "2001:db8::1"},
		{"[::ffff:10.0.0.1]:5", "198.51.100.1", "198.51.100.1"},
		{"@", "198.51.100.1", "invalid IP"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := s.clientAddr(r).String(); got != c.want {
			t.Errorf("from %s for %q: got %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

// A server that drains begins nothing, and goes on with what it has begun.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	defer s.Close()
	c := caller{t, s.Handler(), "192.0.2.1:4000"}
	c.want(200, "GET", "/v1/ready", "", nil)
	a := c.create(nil)
	s.Drain()
	for _, refused := range [][2]string{{"GET", "/v1/ready"}, {"POST", "/v1/room"}} {
		if w := c.want(503, refused[0], refused[1], "", nil); w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: a 503 without Retry-After", refused[0], refused[1])
		}
	}
	c.want(200, "GET", "/v1/health", "", nil)
	b := c.join(a.Nameplate, "")
	c.want(204, "PUT", "/v1/room/"+a.ID+"/0", b.Token, []byte("offer"))
	c.want(200, "GET", "/v1/room/"+a.ID+"/0", a.Token, nil)
}

// A browser that came by mistake gets a page, and nothing else.
func TestPage(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	w := c.do("GET", "/", "", nil, "Sec-Fetch-Mode", "navigate")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Body.String(), "adit connect") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy is %q, want one that lets nothing in", csp)
	}
	if w := c.do("HEAD", "/", "", nil); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: got %d and %d bytes", w.Code, w.Body.Len())
	}
	c.want(403, "GET", "/v1/ice", "", nil, "Sec-Fetch-Mode", "cors")
	c.want(404, "POST", "/", "", nil)
}
