package rendezvous

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"
)

func FuzzRoute(f *testing.F) {
	id := "0123456789abcdef0123456789abcdef"
	for _, path := range []string{"/v1/health", "/v1/ice", "/v1/room", "/v1/room/1234/join", "/v1/room/" + id, "/v1/room/" + id + "/0", "/v1/room/" + id + "/007", "//", "/v1/room//join"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", ""} {
			f.Add(method, path)
		}
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		r := parseRoute(method, path)
		var back string
		switch r.action {
		case actNone, actBadVerb:
			if r.name != "" || r.seq != 0 {
				t.Fatalf("refused %q with parts: %+v", path, r)
			}
			return
		case actKeyAsk, actKeyNonce, actKeyClaim, actKeyPoll, actKeyOffer, actKeyAccept, actKeyLeave:
			return // FuzzKeyRoute looks at these
		case actHealth:
			back = "/v1/health"
		case actICE:
			back = "/v1/ice"
		case actCreate:
			back = "/v1/room"
		case actJoin:
			back = "/v1/room/" + r.name + "/join"
		case actLeave:
			back = "/v1/room/" + r.name
		case actPut, actGet:
			back = "/v1/room/" + r.name + "/" + strconv.Itoa(r.seq)
		}
		if back != path {
			t.Fatalf("%q was read as %q", path, back)
		}
	})
}

// FuzzRequest throws requests at a server that has one room: it never panics, never replies with a
// server's fault, and the room stays as it was.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/room", "", "application/adit", "Bearer x", []byte("x"))
	f.Add("GET", "/v1/room/0123456789abcdef0123456789abcdef/0", "wait=1", "", "Bearer 0123456789abcdef0123456789abcdef", []byte(nil))
	f.Add("PUT", "/v1/room/0123456789abcdef0123456789abcdef/0", "", "application/adit", "Bearer 0123456789abcdef0123456789abcdef", []byte("x"))
	f.Add("DELETE", "/v1/room/0123456789abcdef0123456789abcdef", "", "", "", []byte(nil))
	f.Add("POST", "/v1/room/1234/join", "", "application/adit; x=y", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, query, kind, auth string, body []byte) {
		s := New(Config{Now: time.Now, Limits: Limits{RoomsPerMinute: 1 << 30, RequestsPerMinute: 1 << 30}})
		defer s.Close()
		room := Room{Nameplate: "9876543210", ID: secret(), Token: secret(), Expires: time.Now().Add(time.Hour), First: []byte("first")}
		if err := s.store.Create(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		r := &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, RemoteAddr: "192.0.2.1:1", Host: auth,
			Header: http.Header{"Content-Type": {kind}, "Authorization": {auth}},
			Body:   http.NoBody, ContentLength: int64(len(body)),
		}
		if len(body) > 0 {
			r = r.WithContext(t.Context())
			r.Body = readCloser{bytes.NewReader(body)}
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("reply %d: %s", w.Code, w.Body)
		}
		if b, _, err := s.store.Get(t.Context(), room.ID, room.Token, 0); b != nil || err != nil {
			t.Fatalf("the room has changed: %q, %v", b, err)
		}
	})
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }
