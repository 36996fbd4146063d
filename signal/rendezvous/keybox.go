package rendezvous

import (
	"bytes"
	"container/list"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"adit/internal/fair"
	"adit/signal"
)

const (
	keyNonceLen  = 8 + 24           // when it was made, and the server's MAC
	keyNonceLife = 30 * time.Second // how long a claim may take

	// keyboxIdle is how long a mailbox by key outlives the last poll of its listener, who has to claim it
	// again then; keyAbsent is how long he still counts as being there between two polls.
	keyboxIdle = 5 * time.Minute
	keyAbsent  = 5 * time.Second

	// keyOfferGrace is how long an offer waits for its sender to ask for it again after a connection broke.
	keyOfferGrace = 10 * time.Second

	keyboxBytes   = 1024 // what an empty one is counted as: they may take half of the memory, and offers the other half
	keyOfferBytes = 512  // what an offer without its text is counted as
	keyboxOffers  = 1024 // that a mailbox knows of, fetched ones included: five seconds of the most that may come
	keyBatchBytes = 40 << 10
)

// Errors of keyboxes.
var (
	errNoListener = errors.New("nobody listens")       // 404
	errReplaced   = errors.New("replaced by another")  // 410
	errKeyBusy    = errors.New("too many offers wait") // 429
	errNoOffer    = errors.New("no such offer")        // 404
)

// keyboxes are where holders of keys are offered sessions. A mailbox exists while somebody listens who has
// proved that its key is his; who proves it last is the listener. Offers are for him alone, and wait while
// their senders do.
//
//	listener                     mailbox                             sender
//	claim ---------------------->|
//	poll, with a challenge ----->|------ challenge ---------------->|
//	   <---- offers of a while --|<----------------------- offer ---|  waits
//	accept one, with an answer ->|------ answer, a room ----------->|
type keyboxes struct {
	limits  Limits
	now     func() time.Time
	start   time.Time        // what nonces count from: a clock that is set back must not make them older
	secret  [32]byte         // of nonces
	private *ecdh.PrivateKey // of proofs, this process's

	mu     sync.Mutex
	byName map[signal.KeyName]*list.Element
	recent *list.List           // of *keybox, the one used last at the end
	shares fair.Pool[*keybox]   // of those who claimed them, or asked first
	offers fair.Pool[*keyOffer] // of their senders, by bytes
}

type keybox struct {
	name   signal.KeyName
	usedAt time.Time
	share  *fair.Member[*keybox]
	askers int // who wait for a listener, or look for one

	token     string // the listener's; empty while there is none
	former    string // of the one before him
	stamp     int64  // of the nonce that he claimed with: an older one is a repetition
	challenge string
	polls     int           // of his, under way
	polledAt  time.Time     // when the last one ended
	present   chan struct{} // closed and replaced when he comes

	offers  []*keyOffer // the oldest first
	last    uint64      // number of the last offer
	arrived chan struct{}
	rate    *rate.Limiter
}

type keyOffer struct {
	box    *keybox
	share  *fair.Member[*keyOffer]
	number uint64
	id     string
	token  string // its sender's
	from   netip.Prefix
	body   []byte // nil once the listener has it
	holds  int    // requests of its sender under way
	heldAt time.Time
	done   chan struct{} // closed when room is set, or the offer is void
	room   *created      // nil if void
}

func newKeyboxes(limits Limits, now func() time.Time) *keyboxes {
	k := &keyboxes{limits: limits, now: now, start: now(), byName: make(map[signal.KeyName]*list.Element), recent: list.New()}
	rand.Read(k.secret[:]) // never fails
	var err error
	if k.private, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		panic("rendezvous: " + err.Error()) // randomness never fails
	}
	return k
}

// nonce makes one for a claim of name. It is not kept: the server knows its own again.
func (k *keyboxes) nonce(name signal.KeyName) []byte {
	return k.sign(name, k.sinceStart())
}

// sinceStart returns what a nonce made now is stamped with, in ns. Like the secret it means nothing to a later process.
func (k *keyboxes) sinceStart() int64 { return int64(k.now().Sub(k.start)) }

func (k *keyboxes) sign(name signal.KeyName, stamp int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(stamp))
	mac := hmac.New(sha256.New, k.secret[:])
	mac.Write(b)
	mac.Write(name[:])
	return mac.Sum(b)[:keyNonceLen]
}

// claim makes the prover the listener of a mailbox, which counts as its address's from then on, and returns its token.
// Errors: signal.ErrClaim, ErrFull.
func (k *keyboxes) claim(name signal.KeyName, nonce []byte, host string, proof []byte, from netip.Addr) (string, error) {
	if err := k.proved(name, nonce, host, proof); err != nil {
		return "", err
	}
	stamp := int64(binary.BigEndian.Uint64(nonce))
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.openLocked(name, from)
	switch {
	case err != nil:
		return "", err
	case stamp <= b.stamp:
		return "", signal.ErrClaim
	}
	k.shares.Remove(b.share)
	b.share = k.shares.Add(from, 1, b)
	b.token, b.former, b.stamp, b.challenge, b.polledAt = secret(), b.token, stamp, "", time.Time{}
	k.emptyLocked(b) // what waits was made for a challenge of the listener before
	return b.token, nil
}

// proved says whether a proof for a nonce of this server shows that its maker holds a key: signal.ErrClaim if not.
func (k *keyboxes) proved(name signal.KeyName, nonce []byte, host string, proof []byte) error {
	if len(nonce) != keyNonceLen {
		return signal.ErrClaim
	}
	stamp := int64(binary.BigEndian.Uint64(nonce))
	age := time.Duration(k.sinceStart() - stamp)
	if !hmac.Equal(nonce, k.sign(name, stamp)) || age < 0 || age > keyNonceLife {
		return signal.ErrClaim
	}
	return signal.CheckKey(k.private, name, nonce, host, proof)
}

// openLocked returns a mailbox, making it for an address if there is none. Where all are in use the network that has
// the most gives one up: the one used longest ago. Errors: ErrFull, if that is the address's own.
func (k *keyboxes) openLocked(name signal.KeyName, from netip.Addr) (*keybox, error) {
	now := k.now()
	for e := k.recent.Front(); e != nil && now.Sub(e.Value.(*keybox).usedAt) >= keyboxIdle; e = k.recent.Front() {
		k.removeLocked(e)
	}
	if e, ok := k.byName[name]; ok {
		return k.usedLocked(e), nil
	}
	if k.shares.Len() >= min(k.limits.Keyboxes, k.limits.KeyboxBytes/2/keyboxBytes) {
		victim, own := k.shares.Victim(from, 1)
		if victim == nil || own {
			return nil, ErrFull
		}
		k.removeLocked(k.byName[victim.Value.name])
	}
	b := &keybox{
		name: name, usedAt: now, stamp: -1, present: make(chan struct{}), arrived: make(chan struct{}),
		rate: rate.NewLimiter(rate.Limit(k.limits.OffersPerSecond), k.limits.OffersPerSecond),
	}
	b.share = k.shares.Add(from, 1, b)
	k.byName[name] = k.recent.PushBack(b)
	return b, nil
}

func (k *keyboxes) removeLocked(e *list.Element) {
	b := k.recent.Remove(e).(*keybox)
	delete(k.byName, b.name)
	k.shares.Remove(b.share)
	k.emptyLocked(b)
	close(b.present) // its waiters look again
	b.present = make(chan struct{})
}

func (k *keyboxes) usedLocked(e *list.Element) *keybox {
	b := e.Value.(*keybox)
	b.usedAt = k.now()
	k.recent.MoveToBack(e)
	k.shares.Touch(b.share)
	return b
}

// emptyLocked makes all offers of a mailbox void, and ends the polls of who has listened so far.
func (k *keyboxes) emptyLocked(b *keybox) {
	for _, o := range b.offers {
		k.dropLocked(o)
	}
	b.offers = nil
	close(b.arrived)
	b.arrived = make(chan struct{})
}

// thereLocked reports whether somebody listens.
func (k *keyboxes) thereLocked(b *keybox) bool {
	return b.challenge != "" && (b.polls > 0 || k.now().Sub(b.polledAt) < keyAbsent)
}

// ask begins a search for the listener of a mailbox, which ends with done. A mailbox that nobody has claimed is there
// for as long as somebody asks for it. Errors: ErrFull.
func (k *keyboxes) ask(name signal.KeyName, from netip.Addr) (done func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.openLocked(name, from)
	if err != nil {
		return nil, err
	}
	b.askers++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		b.askers--
		if e := k.byName[name]; e != nil && e.Value == b && b.askers == 0 && b.token == "" {
			k.removeLocked(e)
		}
	}, nil
}

// challenge returns what the listener published last, else the channel that is closed when one comes. The caller has
// asked for the mailbox. Errors: ErrFull, if the mailbox had to make room for another.
func (k *keyboxes) challenge(name signal.KeyName) (string, <-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.byName[name]
	if !ok {
		return "", nil, ErrFull
	}
	b := k.usedLocked(e)
	if k.thereLocked(b) {
		return b.challenge, nil, nil
	}
	return "", b.present, nil
}

// count returns how many mailboxes there are.
func (k *keyboxes) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.byName)
}

// listens says whether token is the listener's of a mailbox. Errors are listenerLocked's.
func (k *keyboxes) listens(name signal.KeyName, token string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.listenerLocked(name, token)
	return err
}

// listenerLocked returns the mailbox whose listener holds token.
func (k *keyboxes) listenerLocked(name signal.KeyName, token string) (*keybox, error) {
	e, ok := k.byName[name]
	switch {
	case !ok:
		return nil, errNoListener
	case token != "" && equal(e.Value.(*keybox).token, token):
		return k.usedLocked(e), nil
	case token != "" && equal(e.Value.(*keybox).former, token):
		return nil, errReplaced
	}
	return nil, errNoListener
}

// poll begins a poll of the listener, who publishes a challenge with it. He ends it with done.
func (k *keyboxes) poll(name signal.KeyName, token, challenge string) (done func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.listenerLocked(name, token)
	if err != nil {
		return nil, err
	}
	if !k.thereLocked(b) {
		close(b.present)
		b.present = make(chan struct{})
	}
	b.challenge = challenge
	b.polls++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		b.polls--
		b.polledAt = k.now()
	}, nil
}

// fetch returns the offers after a number, as many as one reply takes, else the channel that is closed when
// there may be one. Those up to that number need not be kept.
//
//	0        8        24      26
//	[number ][id, 16 ][length][offer ...]    each
func (k *keyboxes) fetch(name signal.KeyName, token string, after uint64) ([]byte, <-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.listenerLocked(name, token)
	if err != nil {
		return nil, nil, err
	}
	k.pruneLocked(b)
	var out []byte
	for _, o := range b.offers {
		if o.body == nil {
			continue
		}
		if o.number <= after {
			k.offers.Grow(o.share, -len(o.body))
			o.body = nil
			continue
		}
		if len(out)+26+len(o.body) > keyBatchBytes {
			break
		}
		out = binary.BigEndian.AppendUint64(out, o.number)
		out = append(out, fromHex(o.id)...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(o.body)))
		out = append(out, o.body...)
	}
	return out, b.arrived, nil
}

// pruneLocked drops the offers whose senders are gone.
func (k *keyboxes) pruneLocked(b *keybox) {
	now := k.now()
	b.offers = slices.DeleteFunc(b.offers, func(o *keyOffer) bool {
		if o.holds > 0 || now.Sub(o.heldAt) < keyOfferGrace {
			return false
		}
		k.dropLocked(o)
		return true
	})
}

// evictLocked drops the offer that the listener fetched first and has not accepted: he has most likely found that
// its sender is a stranger, who must not keep others out by waiting. It reports whether there was one.
func (k *keyboxes) evictLocked(b *keybox) bool {
	i := slices.IndexFunc(b.offers, func(o *keyOffer) bool { return o.body == nil && o.room == nil })
	if i < 0 {
		return false
	}
	k.dropLocked(b.offers[i])
	b.offers = slices.Delete(b.offers, i, i+1)
	return true
}

// dropLocked makes an offer void. The caller takes it off the list.
func (k *keyboxes) dropLocked(o *keyOffer) {
	k.offers.Remove(o.share)
	o.body = nil
	if o.room == nil {
		close(o.done)
	}
}

// offer leaves an offer, or finds the one that its sender left with the same token before. The sender holds it
// until he calls done; dropped says that he does not want it any more. Errors: errNoListener, errKeyBusy,
// ErrFull.
func (k *keyboxes) offer(name signal.KeyName, token string, from netip.Addr, body []byte) (o *keyOffer, done func(dropped bool), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.byName[name]
	if !ok || !k.thereLocked(e.Value.(*keybox)) {
		return nil, nil, errNoListener
	}
	b := k.usedLocked(e)
	k.pruneLocked(b)
	waiting, his := 0, 0
	for _, x := range b.offers {
		if equal(x.token, token) {
			o = x
		}
		if x.body != nil {
			waiting++
		}
		if x.from == fair.Address(from) {
			his++
		}
	}
	if o == nil {
		switch {
		case his >= k.limits.OffersAtOnce, waiting >= k.limits.OffersWaiting, !b.rate.AllowN(k.now(), 1), len(b.offers) >= keyboxOffers && !k.evictLocked(b):
			return nil, nil, errKeyBusy
		}
		size := keyOfferBytes + len(body)
		for k.offers.Weight()+size > k.limits.KeyboxBytes/2 {
			victim, own := k.offers.Victim(from, size)
			if victim == nil || own {
				return nil, nil, ErrFull
			}
			other := victim.Value
			other.box.offers = slices.DeleteFunc(other.box.offers, func(x *keyOffer) bool { return x == other })
			k.dropLocked(other)
		}
		b.last++
		o = &keyOffer{box: b, number: b.last, id: secret(), token: token, from: fair.Address(from), body: bytes.Clone(body), done: make(chan struct{})}
		o.share = k.offers.Add(from, size, o)
		b.offers = append(b.offers, o)
		close(b.arrived)
		b.arrived = make(chan struct{})
	}
	o.holds++
	return o, func(dropped bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		o.holds--
		o.heldAt = k.now()
		if dropped {
			o.heldAt = time.Time{}
			k.pruneLocked(b)
		}
	}, nil
}

// accept gives an offer's sender what make returns, a room with the answer in it. It is made once: errNoOffer
// for an offer that was accepted before, or whose sender is gone. Other errors are listenerLocked's and make's.
func (k *keyboxes) accept(name signal.KeyName, token, id string, make func(sender string) (*created, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.listenerLocked(name, token)
	if err != nil {
		return err
	}
	k.pruneLocked(b)
	i := slices.IndexFunc(b.offers, func(o *keyOffer) bool { return o.id == id })
	if i < 0 || b.offers[i].room != nil {
		return errNoOffer
	}
	room, err := make(b.offers[i].token)
	if err != nil {
		return err
	}
	b.offers[i].room = room
	close(b.offers[i].done)
	return nil
}

// leave ends the listening of token's holder.
func (k *keyboxes) leave(name signal.KeyName, token string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.listenerLocked(name, token)
	if err != nil {
		return err
	}
	b.token, b.challenge = "", ""
	k.emptyLocked(b)
	return nil
}
