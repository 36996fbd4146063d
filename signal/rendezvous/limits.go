package rendezvous

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bounds what a server spends. A zero field means its default. An address is an IPv4 address
// or an IPv6 /56, which is what one household gets.
type Limits struct {
	Rooms        int // nameplates in use in all, 20,000
	Bytes        int // memory for rooms and messages in all, 64 MiB
	Messages     int // messages a side, 32
	Mailboxes    int // in all, 20,000
	MailboxBytes int // memory for them in all, 32 MiB
	Keyboxes     int // mailboxes by key in all, 20,000
	KeyboxBytes  int // memory for them in all, 32 MiB

	OffersPerSecond int // to one mailbox by key, 200
	OffersWaiting   int // in one until the listener fetches them, 256
	OffersAtOnce    int // of an address in one, 16

	Bodies int // request bodies being read at once in all, 1,024

	MailboxesOfOne    int           // that an address was the first to ask for, 256
	OffersPerMinute   int           // of an address to mailboxes by key, 60
	RoomsPerMinute    int           // rooms an address may create, and as many it may join; 60
	RequestsPerMinute int           // requests of an address, 600
	BytesPerMinute    int           // message bytes stored for an address, 1 MiB
	FailedJoins       int           // wrong nameplates of an address in a minute before it is banned, 10
	Ban               time.Duration // how long a banned address may not join, 15 minutes
	Polls             int           // an address's polls at once, 64
	Uploads           int           // an address's request bodies at once, 16
	Addresses         int           // addresses remembered, the least recently seen is forgotten; 16,384
}

func (l Limits) withDefaults() Limits {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&l.Rooms, 20_000)
	set(&l.Bytes, 64<<20)
	set(&l.Messages, 32)
	set(&l.Bodies, 1024)
	set(&l.Mailboxes, 20_000)
	set(&l.MailboxBytes, 32<<20)
	set(&l.MailboxesOfOne, 256)
	set(&l.Keyboxes, 20_000)
	set(&l.KeyboxBytes, 32<<20)
	set(&l.OffersPerSecond, 200)
	set(&l.OffersWaiting, 256)
	set(&l.OffersAtOnce, 16)
	set(&l.OffersPerMinute, 60)
	set(&l.RoomsPerMinute, 60)
	set(&l.RequestsPerMinute, 600)
	set(&l.BytesPerMinute, 1<<20)
	l.BytesPerMinute = max(l.BytesPerMinute, MaxMessage)
	set(&l.FailedJoins, 10)
	set(&l.Polls, 64)
	set(&l.Uploads, 16)
	set(&l.Addresses, 16_384)
	if l.Ban <= 0 {
		l.Ban = 15 * time.Minute
	}
	return l
}

// limiter counts what each address does, for a bounded number of addresses.
type limiter struct {
	limits Limits
	now    func() time.Time
	bodies chan struct{} // a slot for each request body in memory, Limits.Bodies of them

	mu     sync.Mutex
	known  map[netip.Prefix]*list.Element
	recent *list.List // of *account, the most recently seen in front
	// active is apart from known so that forgetting an address does not forget what it has open. It
	// holds no more entries than there are requests.
	active map[netip.Prefix]*activity
}

type account struct {
	addr                             netip.Prefix
	requests, creates, joins, failed *rate.Limiter
	bytes, offers                    *rate.Limiter
	bannedUntil                      time.Time
}

type activity struct{ polls, uploads int }

func newLimiter(limits Limits, now func() time.Time) *limiter {
	return &limiter{
		limits: limits,
		now:    now,
		bodies: make(chan struct{}, limits.Bodies),
		known:  make(map[netip.Prefix]*list.Element),
		recent: list.New(),
		active: make(map[netip.Prefix]*activity),
	}
}

// network returns the address that is counted: an IPv4 address or an IPv6 /56.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 56
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // an invalid address: all of these share one account
	}
	return p
}

func perMinute(n int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(float64(n)/60), n)
}

// accountLocked returns the account of an address, making place for it if needed.
func (l *limiter) accountLocked(addr netip.Prefix) *account {
	if e, ok := l.known[addr]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*account)
	}
	for len(l.known) >= l.limits.Addresses {
		e := l.recent.Back()
		delete(l.known, e.Value.(*account).addr)
		l.recent.Remove(e)
	}
	a := &account{
		addr:     addr,
		requests: perMinute(l.limits.RequestsPerMinute),
		creates:  perMinute(l.limits.RoomsPerMinute),
		joins:    perMinute(l.limits.RoomsPerMinute),
		failed:   perMinute(l.limits.FailedJoins),
		bytes:    perMinute(l.limits.BytesPerMinute),
		offers:   perMinute(l.limits.OffersPerMinute),
	}
	l.known[addr] = l.recent.PushFront(a)
	return a
}

func (l *limiter) request(addr netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accountLocked(addr).requests.AllowN(l.now(), 1)
}

func (l *limiter) create(addr netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accountLocked(addr).creates.AllowN(l.now(), 1)
}

func (l *limiter) offer(addr netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accountLocked(addr).offers.AllowN(l.now(), 1)
}

func (l *limiter) store(addr netip.Prefix, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accountLocked(addr).bytes.AllowN(l.now(), n)
}

// join says whether an address may try a nameplate, and if not, for how long it is banned (0 if it is
// only asking too often).
func (l *limiter) join(addr netip.Prefix) (ok bool, banned time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, now := l.accountLocked(addr), l.now()
	if a.bannedUntil.After(now) {
		return false, a.bannedUntil.Sub(now)
	}
	return a.joins.AllowN(now, 1), 0
}

// joinFailed counts a nameplate that does not exist: somebody may be trying them all.
func (l *limiter) joinFailed(addr netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, now := l.accountLocked(addr), l.now()
	if !a.failed.AllowN(now, 1) {
		a.bannedUntil = now.Add(l.limits.Ban)
	}
}

// poll takes one of an address's polls; the caller gives it back with done.
func (l *limiter) poll(addr netip.Prefix) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.activeLocked(addr)
	if a.polls >= l.limits.Polls {
		return nil, false
	}
	a.polls++
	return func() { l.done(addr, func(a *activity) { a.polls-- }) }, true
}

// upload takes one of an address's request bodies and one of all; the caller gives both back with done.
// busy says that it is not the address's own doing if there is none.
func (l *limiter) upload(addr netip.Prefix) (done func(), ok, busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.activeLocked(addr)
	if a.uploads >= l.limits.Uploads {
		return nil, false, false
	}
	select {
	case l.bodies <- struct{}{}:
	default:
		l.tidyLocked(addr, a)
		return nil, false, true
	}
	a.uploads++
	return func() {
		<-l.bodies
		l.done(addr, func(a *activity) { a.uploads-- })
	}, true, false
}

func (l *limiter) done(addr netip.Prefix, give func(*activity)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.active[addr]
	give(a)
	l.tidyLocked(addr, a)
}

func (l *limiter) activeLocked(addr netip.Prefix) *activity {
	a, ok := l.active[addr]
	if !ok {
		a = &activity{}
		l.active[addr] = a
	}
	return a
}

func (l *limiter) tidyLocked(addr netip.Prefix, a *activity) {
	if *a == (activity{}) {
		delete(l.active, addr)
	}
}
