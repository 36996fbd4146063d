package rendezvous

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"adit/signal"
)

// A holder of a key, and his mailbox.
type holder struct {
	private, public [32]byte
	name            signal.KeyName
}

func newHolder(t testing.TB) holder {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := holder{private: [32]byte(k.Bytes()), public: [32]byte(k.PublicKey().Bytes())}
	if h.name, err = signal.KeyNameOf(h.public); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h holder) claim(t testing.TB, k *keyboxes) string {
	t.Helper()
	token, err := h.tryClaim(t, k, k.nonce(h.name))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (h holder) tryClaim(t testing.TB, k *keyboxes, nonce []byte) (string, error) {
	t.Helper()
	proof, err := signal.ProveKey(h.private, [32]byte(k.private.PublicKey().Bytes()), nonce, "host")
	if err != nil {
		t.Fatal(err)
	}
	return k.claim(h.name, nonce, "host", proof, from(1))
}

// listen claims a mailbox and is in a poll.
func (h holder) listen(t testing.TB, k *keyboxes) string {
	t.Helper()
	token := h.claim(t, k)
	if _, err := k.poll(h.name, token, boxID(1)); err != nil {
		t.Fatal(err)
	}
	return token
}

func from(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestKeyClaim(t *testing.T) {
	now := newClock()
	k := newKeyboxes(Limits{}.withDefaults(), now.Now)
	h, other := newHolder(t), newHolder(t)
	nonce := k.nonce(h.name)
	if _, err := (holder{other.private, h.public, h.name}).tryClaim(t, k, nonce); !errors.Is(err, signal.ErrClaim) {
		t.Errorf("somebody else's proof: got %v, want %v", err, signal.ErrClaim)
	}
	if _, err := h.tryClaim(t, k, k.nonce(other.name)); !errors.Is(err, signal.ErrClaim) {
		t.Errorf("another mailbox's nonce: got %v, want %v", err, signal.ErrClaim)
	}
	first, err := h.tryClaim(t, k, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.tryClaim(t, k, nonce); !errors.Is(err, signal.ErrClaim) {
		t.Errorf("the same proof again: got %v, want %v", err, signal.ErrClaim)
	}
	now.add(time.Second)
	late := k.nonce(h.name)
	second := h.claim(t, k)
	if _, err := k.poll(h.name, first, boxID(1)); !errors.Is(err, errReplaced) {
		t.Errorf("the listener before: got %v, want %v", err, errReplaced)
	}
	if _, err := k.poll(h.name, boxID(9), boxID(1)); !errors.Is(err, errNoListener) {
		t.Errorf("a token of nobody: got %v, want %v", err, errNoListener)
	}
	if _, err := k.poll(h.name, second, boxID(1)); err != nil {
		t.Errorf("the listener: %v", err)
	}
	now.add(keyNonceLife + time.Second)
	if _, err := h.tryClaim(t, k, late); !errors.Is(err, signal.ErrClaim) {
		t.Errorf("an old nonce: got %v, want %v", err, signal.ErrClaim)
	}
}

// A nonce says how old the process was when it made it, which grows whatever becomes of the clock on the wall.
func TestKeyNonceStamp(t *testing.T) {
	k := newKeyboxes(Limits{}.withDefaults(), time.Now)
	h := newHolder(t)
	if age := time.Duration(binary.BigEndian.Uint64(k.nonce(h.name))); age < 0 || age > time.Hour {
		t.Errorf("a nonce is stamped with %v, want the time since the start", age)
	}
}

func TestKeyPresence(t *testing.T) {
	now := newClock()
	k := newKeyboxes(Limits{}.withDefaults(), now.Now)
	h := newHolder(t)
	there := func() bool {
		end, err := k.ask(h.name, from(1))
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		c, _, err := k.challenge(h.name)
		if err != nil {
			t.Fatal(err)
		}
		return c != ""
	}
	if there() {
		t.Error("somebody is there before anybody came")
	}
	token := h.claim(t, k)
	if there() {
		t.Error("he is there before he polls")
	}
	done, err := k.poll(h.name, token, boxID(1))
	if err != nil {
		t.Fatal(err)
	}
	now.add(time.Minute)
	if !there() {
		t.Error("he is not there during a poll")
	}
	done()
	now.add(keyAbsent - time.Second)
	if !there() {
		t.Error("he is not there between two polls")
	}
	now.add(2 * time.Second)
	if there() {
		t.Error("he is there long after his last poll")
	}
	if _, _, err := k.offer(h.name, boxID(2), from(1), []byte("x")); !errors.Is(err, errNoListener) {
		t.Errorf("an offer to who is gone: got %v, want %v", err, errNoListener)
	}
	if done, err = k.poll(h.name, token, boxID(1)); err != nil || !there() {
		t.Errorf("he comes back: %v", err)
	}
	done()
	if err := k.leave(h.name, token); err != nil || there() {
		t.Errorf("he left: %v", err)
	}
	now.add(keyboxIdle)
	if _, err := k.ask(newHolder(t).name, from(1)); err != nil {
		t.Fatal(err)
	}
	if len(k.byName) != 1 || k.shares.Len() != 1 {
		t.Errorf("%d mailboxes are kept, %d counted, want the new one", len(k.byName), k.shares.Len())
	}
}

func TestKeyOffersBounded(t *testing.T) {
	now := newClock()
	limits := Limits{OffersWaiting: 8, OffersAtOnce: 2, OffersPerSecond: 1000}.withDefaults()
	k := newKeyboxes(limits, now.Now)
	h := newHolder(t)
	token := h.listen(t, k)
	offer := func(n, address int) error {
		_, _, err := k.offer(h.name, boxID(n), from(address), make([]byte, 1000))
		return err
	}
	for n := range 2 {
		if err := offer(n, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := offer(2, 1); !errors.Is(err, errKeyBusy) {
		t.Errorf("a third of one address: got %v, want %v", err, errKeyBusy)
	}
	if err := offer(1, 1); err != nil {
		t.Errorf("the second again: %v", err)
	}
	for n := 3; n < 9; n++ {
		if err := offer(n, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := offer(9, 9); !errors.Is(err, errKeyBusy) {
		t.Errorf("a ninth: got %v, want %v", err, errKeyBusy)
	}
	b, _, err := k.fetch(h.name, token, 0)
	if err != nil || len(b) != 8*(26+1000) {
		t.Fatalf("fetched %d bytes and %v, want 8 offers", len(b), err)
	}
	if again, _, _ := k.fetch(h.name, token, 0); len(again) != len(b) {
		t.Error("what was not acknowledged is not there again")
	}
	last := binary.BigEndian.Uint64(b[7*(26+1000):])
	if rest, _, _ := k.fetch(h.name, token, last); len(rest) != 0 {
		t.Error("what was acknowledged is there again")
	}
	if err := offer(9, 9); err != nil {
		t.Errorf("after that: %v", err)
	}
	if want := 9*keyOfferBytes + 1000; k.offers.Weight() != want {
		t.Errorf("counted %d bytes, want %d", k.offers.Weight(), want)
	}
}

// Strangers who wait for an answer that never comes keep nobody out.
func TestKeyOffersHeld(t *testing.T) {
	now := newClock()
	k := newKeyboxes(Limits{OffersPerSecond: 10 * keyboxOffers}.withDefaults(), now.Now)
	h := newHolder(t)
	token := h.listen(t, k)
	var held []*keyOffer
	after := uint64(0)
	for n := range 2 * keyboxOffers {
		o, _, err := k.offer(h.name, boxID(n), from(n), []byte("x"))
		if err != nil {
			t.Fatalf("offer %d: %v", n, err)
		}
		held = append(held, o)
		if n%100 == 99 {
			for b, _, _ := k.fetch(h.name, token, after); len(b) > 0; b, _, _ = k.fetch(h.name, token, after) {
				after = binary.BigEndian.Uint64(b[len(b)-26-1:])
			}
		}
	}
	for n, o := range held {
		void := false
		select {
		case <-o.done:
			void = true
		default:
		}
		if void != (n < keyboxOffers) {
			t.Fatalf("offer %d of %d: void is %v", n, len(held), void)
		}
	}
	if want := keyboxOffers*keyOfferBytes + len(held)%100; k.offers.Weight() != want {
		t.Errorf("counted %d bytes, want %d", k.offers.Weight(), want)
	}
}

func TestKeyOfferRate(t *testing.T) {
	now := newClock()
	k := newKeyboxes(Limits{OffersPerSecond: 10}.withDefaults(), now.Now)
	h := newHolder(t)
	h.listen(t, k)
	taken := 0
	for n := range 1000 {
		if n%100 == 0 {
			now.add(time.Second)
		}
		o, done, err := k.offer(h.name, boxID(n), from(n), []byte("x"))
		if err == nil {
			taken++
			done(true)
			if o.holds != 0 {
				t.Fatal("held by nobody and counted")
			}
		}
	}
	if taken != 100 {
		t.Errorf("%d offers in ten seconds, want 100", taken)
	}
	if k.offers.Weight() != 0 {
		t.Errorf("%d bytes of offers are left, want none", k.offers.Weight())
	}
}

// Where all mailboxes are in use the address with the most gives one up, and a mailbox that nobody claimed is there
// for as long as somebody asks for it.
func TestKeyboxesFull(t *testing.T) {
	k := newKeyboxes(Limits{Keyboxes: 4}.withDefaults(), newClock().Now)
	claim := func(h holder, by int) (string, error) {
		nonce := k.nonce(h.name)
		proof, err := signal.ProveKey(h.private, [32]byte(k.private.PublicKey().Bytes()), nonce, "host")
		if err != nil {
			t.Fatal(err)
		}
		return k.claim(h.name, nonce, "host", proof, from(by))
	}
	var done []func()
	for range 4 {
		end, err := k.ask(newHolder(t).name, from(1))
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, end)
	}
	if _, err := k.ask(newHolder(t).name, from(1)); !errors.Is(err, ErrFull) {
		t.Errorf("a fifth of the same address: got %v, want %v", err, ErrFull)
	}
	mine := newHolder(t)
	token, err := claim(mine, 2)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := claim(newHolder(t), 1); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if err := k.listens(mine.name, token); err != nil {
		t.Errorf("the one mailbox of an address, while another claims ten: %v", err)
	}
	for _, end := range done {
		end()
	}
	if got := len(k.byName); got != 1 || k.shares.Len() != 1 {
		t.Errorf("%d mailboxes are left, %d counted, want the claimed one", got, k.shares.Len())
	}
}

func TestKeyRequests(t *testing.T) {
	c := call(t, Config{})
	key := "/v1/key/" + strings.Repeat("ab", signal.KeyNameLen)
	for _, tt := range []struct {
		name, method, path, token string
		body                      int
		want                      int
	}{
		{"nobody is there", http.MethodGet, key, "", 0, http.StatusNoContent},
		{"no such name", http.MethodGet, key[:len(key)-1], "", 0, http.StatusNotFound},
		{"a name in capitals", http.MethodGet, strings.ToUpper(key), "", 0, http.StatusNotFound},
		{"another verb", http.MethodPatch, key, "", 0, http.StatusMethodNotAllowed},
		{"a claim without a proof", http.MethodPut, key + "/claim", "", 10, http.StatusForbidden},
		{"a claim with a wrong proof", http.MethodPut, key + "/claim", "", 64, http.StatusForbidden},
		{"an offer without a token", http.MethodPost, key + "/offers", "", 10, http.StatusBadRequest},
		{"an empty offer", http.MethodPost, key + "/offers", boxID(1), 0, http.StatusBadRequest},
		{"an offer too large", http.MethodPost, key + "/offers", boxID(1), MaxOffer + 1, http.StatusRequestEntityTooLarge},
		{"an offer to nobody", http.MethodPost, key + "/offers", boxID(1), MaxOffer, http.StatusNotFound},
		{"a poll without a token", http.MethodGet, key + "/offers/0/" + boxID(1), "", 0, http.StatusNotFound},
		{"a poll of nobody", http.MethodGet, key + "/offers/0/" + boxID(1), boxID(2), 0, http.StatusNotFound},
		{"an accept of nobody", http.MethodPost, key + "/offers/" + boxID(1), boxID(2), 10, http.StatusNotFound},
		{"an accept of nothing", http.MethodPost, key + "/offers/" + boxID(1), boxID(2), 0, http.StatusNotFound},
		{"nobody leaves", http.MethodDelete, key + "/claim", boxID(2), 0, http.StatusNotFound},
	} {
		if got := c.do(tt.method, tt.path, tt.token, make([]byte, tt.body)); got.Code != tt.want {
			t.Errorf("%s: status %d, want %d: %s", tt.name, got.Code, tt.want, got.Body)
		}
	}
}

// One address has so many offers a minute, and no more.
func TestKeyOffersOfAnAddress(t *testing.T) {
	c := call(t, Config{Now: newClock().Now, Limits: Limits{OffersPerMinute: 60}})
	key := "/v1/key/" + strings.Repeat("ab", signal.KeyNameLen)
	busy := 0
	for n := range 100 {
		if c.do(http.MethodPost, key+"/offers", boxID(n), []byte("x")).Code == http.StatusTooManyRequests {
			busy++
		}
	}
	if busy != 40 {
		t.Errorf("%d offers of 100 are too many, want 40", busy)
	}
}

func FuzzKeyRoute(f *testing.F) {
	key := "/v1/key/" + strings.Repeat("0f", signal.KeyNameLen)
	for _, p := range []string{"", "/claim", "/offers", "/offers/" + boxID(1), "/offers/12/" + boxID(1)} {
		f.Add(http.MethodGet, key+p)
		f.Add(http.MethodPost, key+p)
	}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, method, path string) {
		r := parseRoute(method, path)
		if r.action >= actKeyAsk && r.action <= actKeyLeave && !strings.HasPrefix(path, fmt.Sprintf("/v1/key/%x", r.key[:])) {
			t.Errorf("%s is taken for mailbox %x", path, r.key)
		}
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Method, req.URL.Path = method, path
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req) // no panic
	})
}
