package rendezvous

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func boxID(n int) string { return fmt.Sprintf("%032x", n) }

// TestMailbox leaves letters and fetches them, waiting ones included.
func TestMailbox(t *testing.T) {
	s := New(Config{})
	defer s.Close()
	do := func(method, path, body string) (int, []byte) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", ContentType)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.Bytes()
	}
	box := "/v1/mailbox/" + boxID(1)
	if code, _ := do(http.MethodGet, box+"/0/0", ""); code != http.StatusNoContent {
		t.Fatalf("an empty mailbox: status %d, want 204", code)
	}
	got := make(chan []byte)
	go func() {
		_, b := do(http.MethodGet, box+"/0/0?wait=20", "")
		got <- b
	}()
	if code, b := do(http.MethodPut, box+"/0/5", "first"); code != http.StatusNoContent {
		t.Fatalf("put: status %d: %s", code, b)
	}
	first := <-got
	if string(first[8:]) != "first" {
		t.Fatalf("got %q", first)
	}
	after := fmt.Sprint(binary.BigEndian.Uint64(first))
	if code, _ := do(http.MethodGet, box+"/0/"+after, ""); code != http.StatusNoContent {
		t.Errorf("the same letter again: status %d, want 204", code)
	}
	if code, _ := do(http.MethodGet, box+"/1/0", ""); code != http.StatusNoContent {
		t.Errorf("the other side's: status %d, want 204", code)
	}
	for i, x := range []string{"second", "third", "overtaken"} { // the newest takes the place of those before it
		do(http.MethodPut, box+"/0/"+[]string{"6", "8", "7"}[i], x)
	}
	if code, b := do(http.MethodGet, box+"/0/"+after, ""); code != http.StatusOK || string(b[8:]) != "third" {
		t.Errorf("status %d, %q, want the newest letter", code, b)
	}
	for _, c := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"empty letter", http.MethodPut, box + "/0/9", "", 400},
		{"large letter", http.MethodPut, box + "/0/9", strings.Repeat("x", MaxLetter+1), 413},
		{"no such side", http.MethodPut, box + "/2/9", "x", 404},
		{"short id", http.MethodGet, "/v1/mailbox/1234/0/0", "", 404},
		{"no number", http.MethodGet, box + "/0/-1", "", 404},
		{"long number", http.MethodGet, box + "/0/" + strings.Repeat("9", 16), "", 404},
		{"wrong method", http.MethodDelete, box + "/0/9", "", 405},
		{"a letter without a number", http.MethodPut, box + "/0", "x", 404},
	} {
		if code, _ := do(c.method, c.path, c.body); code != c.want {
			t.Errorf("%s: status %d, want %d", c.name, code, c.want)
		}
	}
}

// TestMailboxLimits: what nobody asks for is forgotten, and all of them together are bounded.
func TestMailboxLimits(t *testing.T) {
	now := time.Now()
	m := newMailboxes(Limits{Mailboxes: 3, MailboxesOfOne: 3, MailboxBytes: 4*mailboxBytes + 100}, func() time.Time { return now })
	for i := range 3 {
		if err := m.put(boxID(i), 0, 1, []byte("letter"), from(i), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.put(boxID(3), 0, 1, []byte("letter"), from(9), true); !errors.Is(err, ErrFull) {
		t.Errorf("a fourth mailbox: %v, want ErrFull", err)
	}
	if err := m.put(boxID(3), 0, 1, []byte("letter"), from(9), false); !errors.Is(err, errNewMailbox) {
		t.Errorf("a mailbox that may not be made: %v", err)
	}
	if err := m.put(boxID(0), 1, 1, bytes.Repeat([]byte("x"), 4*mailboxBytes), from(9), true); !errors.Is(err, ErrFull) {
		t.Errorf("too many bytes: %v, want ErrFull", err)
	}
	for range 25 { // one is in use for a day
		now = now.Add(mailboxIdle - time.Minute)
		if _, _, err := m.get(boxID(0), 0, 0, from(9), true); err != nil {
			t.Fatal(err)
		}
	}
	if l, _, err := m.get(boxID(0), 0, 0, from(9), true); err != nil || l.body != nil {
		t.Errorf("after a day: %q, %v; want it forgotten", l.body, err)
	}
	now = now.Add(mailboxIdle)
	if _, _, err := m.get(boxID(9), 0, 0, from(9), true); err != nil || len(m.byID) != 1 || m.bytes != mailboxBytes {
		t.Errorf("%v, %d mailboxes of %d bytes, want the idle ones forgotten", err, len(m.byID), m.bytes)
	}
}

// TestMailboxRoom: the oldest mailbox makes room for a new one, but not one that somebody may wait at.
func TestMailboxRoom(t *testing.T) {
	now := time.Now()
	m := newMailboxes(Limits{Mailboxes: 4, MailboxesOfOne: 2, MailboxBytes: 4*mailboxBytes + 2*MaxLetter}, func() time.Time { return now })
	open := func(n, by int) error {
		now = now.Add(time.Second)
		_, _, err := m.get(boxID(n), 0, 0, from(by), true)
		return err
	}
	want := func(boxes ...int) {
		t.Helper()
		var got []int
		for n := range 20 {
			if m.byID[boxID(n)] != nil {
				got = append(got, n)
			}
		}
		if !slices.Equal(got, boxes) {
			t.Errorf("got mailboxes %v, want %v", got, boxes)
		}
	}
	for _, b := range [][2]int{{0, 1}, {1, 2}, {2, 2}, {3, 3}} {
		if err := open(b[0], b[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(4, 2); !errors.Is(err, errMailboxes) {
		t.Errorf("a third of one address: got %v, want %v", err, errMailboxes)
	}
	if err := open(4, 3); !errors.Is(err, ErrFull) {
		t.Errorf("a fifth in all: got %v, want %v", err, ErrFull)
	}
	want(0, 1, 2, 3)
	now = now.Add(mailboxBusy)
	if err := open(4, 2); err != nil { // in the place of its address's oldest
		t.Error(err)
	}
	want(0, 2, 3, 4)
	if err := errors.Join(open(0, 9), open(5, 4)); err != nil { // in the place of the oldest of all
		t.Error(err)
	}
	want(0, 3, 4, 5)
	for side := range 2 { // there is space for two letters
		if err := m.put(boxID(0), side, 1, make([]byte, MaxLetter), from(1), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.put(boxID(5), 0, 1, make([]byte, mailboxBytes), from(1), true); err != nil {
		t.Error(err)
	}
	if err := m.put(boxID(5), 1, 1, make([]byte, mailboxBytes), from(1), true); !errors.Is(err, ErrFull) {
		t.Errorf("letters where all others are waited at: got %v, want %v", err, ErrFull)
	}
	want(0, 4, 5)
	now = now.Add(mailboxIdle)
	if err := open(6, 1); err != nil || m.shares.Len() != 1 || m.bytes != mailboxBytes {
		t.Errorf("%v, %d mailboxes, %d bytes; want the idle ones forgotten", err, m.shares.Len(), m.bytes)
	}
}

// TestMailboxStranger: one address that asks for all the mailboxes it can keeps nobody else from his.
func TestMailboxStranger(t *testing.T) {
	now := newClock()
	stranger := call(t, Config{Now: now.Now, Limits: Limits{Mailboxes: 300}})
	friend := caller{t, stranger.h, "192.0.2.77:1"}
	friend.want(http.StatusNoContent, http.MethodPut, "/v1/mailbox/"+boxID(0)+"/0/1", "", []byte("letter"))
	for n := 1; n <= 600; n++ {
		if n%50 == 0 { // both do what they may in a minute
			for range 2 {
				now.add(25 * time.Second)
				friend.want(http.StatusOK, http.MethodGet, "/v1/mailbox/"+boxID(0)+"/0/0", "", nil)
			}
			now.add(10 * time.Second)
		}
		stranger.do(http.MethodGet, "/v1/mailbox/"+boxID(n)+"/0/0", "", nil)
	}
	for n := range 60 {
		friend.want(http.StatusNoContent, http.MethodGet, "/v1/mailbox/"+boxID(1000+n)+"/0/0", "", nil)
	}
	friend.want(http.StatusOK, http.MethodGet, "/v1/mailbox/"+boxID(0)+"/0/0", "", nil)
}

// TestMailboxTURN: relays are for two who have both asked for letters.
func TestMailboxTURN(t *testing.T) {
	s := New(Config{TURN: TURN{URLs: []string{"turn:relay.example:3478"}, Secret: []byte("secret")}})
	defer s.Close()
	do := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	box := "/v1/mailbox/" + boxID(1)
	if code, _ := do(http.MethodGet, box+"/0/turn"); code != http.StatusConflict {
		t.Errorf("no mailbox: status %d, want 409", code)
	}
	do(http.MethodGet, box+"/0/0")
	if code, _ := do(http.MethodGet, box+"/0/turn"); code != http.StatusConflict {
		t.Errorf("one side alone: status %d, want 409", code)
	}
	do(http.MethodGet, box+"/1/0")
	code, first := do(http.MethodGet, box+"/0/turn")
	if code != http.StatusOK || !strings.Contains(first, "turn:relay.example:3478") {
		t.Fatalf("status %d, %s; want a relay", code, first)
	}
	if _, again := do(http.MethodGet, box+"/0/turn"); again[:len(again)/2] != first[:len(first)/2] {
		t.Errorf("asked again: %s, before %s", again, first)
	}
	if _, other := do(http.MethodGet, box+"/1/turn"); other == first {
		t.Errorf("both sides have the same credentials")
	}
	if code, _ := do(http.MethodPut, box+"/0/turn"); code != http.StatusMethodNotAllowed {
		t.Errorf("put: status %d, want 405", code)
	}
}
