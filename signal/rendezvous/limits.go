package rendezvous

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"adit/internal/fair"
)

// Limits bounds what a server spends. A zero field means its default, which suits one user, ten thousand, and five
// thousand behind one address. An address is an IPv4 address or an IPv6 /56, which is what one household gets; a
// network is an IPv4 address or an IPv6 /48, which is what one site gets. What is bounded in all is shared fairly when
// it is used up: the network that holds the most makes room for others (package fair).
type Limits struct {
	Connections          int // in all, 16,384; an eighth of them is for those that have not sent a request yet
	ConnectionsOfOne     int // of an address, 8,192
	ConnectionsPerMinute int // new ones of an address, 12,000

	Polls      int // in all, 16,384
	PollsOfOne int // of an address, without a token, 4,096
	Bodies     int // request bodies being read, in all, 1,024
	Uploads    int // and of an address, 64

	Rooms        int // nameplates that wait for their joiner and rooms in use, in all, 50,000
	Bytes        int // memory for rooms and messages in all, 64 MiB
	Used         int // nameplates of used rooms remembered until their time is over, 200,000; 64 bytes each
	Messages     int // messages a side, 32
	Mailboxes    int // in all, 20,000
	MailboxBytes int // memory for them in all, 32 MiB
	Keyboxes     int // mailboxes by key in all, 32,768
	KeyboxBytes  int // memory for them in all, 64 MiB

	MailboxesOfOne  int // that an address was the first to ask for, 4,096
	OffersPerSecond int // to one mailbox by key, 200
	OffersWaiting   int // in one until the listener fetches them, 256
	OffersAtOnce    int // of an address in one, 16
	OffersPerMinute int // of an address to mailboxes by key, 600

	RequestsPerMinute       int           // requests of an address, 12,000
	RequestsPerMinuteInside int           // of each token that is good, before they count for its address; 240
	RoomsPerMinute          int           // rooms an address may create, and as many it may join; 600
	ClaimsPerMinute         int           // mailboxes by key that an address may claim, 12,000
	BytesPerMinute          int           // message bytes stored for an address, 16 MiB
	FailedJoins             int           // wrong nameplates of an address in a minute that cost nothing, 10
	FailedJoinWait          time.Duration // the longest wait after a further one: it begins with 1 s and doubles; 1 minute
	Addresses               int           // addresses remembered, the least recently seen is forgotten; 16,384
}

const (
	// networkShare is how much more a network of many addresses may do each minute than one of them.
	networkShare = 4

	pollsInside     = 4 // polls at once of one token
	failedWaitLeast = time.Second
	failedForget    = 10 * time.Minute // after so long without a wrong nameplate the wait begins anew
)

// DefaultLimits returns the limits of a server that sets none.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&l.Connections, 16_384)
	set(&l.ConnectionsOfOne, 8192)
	set(&l.ConnectionsPerMinute, 12_000)
	set(&l.Polls, 16_384)
	set(&l.PollsOfOne, 4096)
	set(&l.Bodies, 1024)
	set(&l.Uploads, 64)
	set(&l.Rooms, 50_000)
	set(&l.Bytes, 64<<20)
	set(&l.Used, 200_000)
	set(&l.Messages, 32)
	set(&l.Mailboxes, 20_000)
	set(&l.MailboxBytes, 32<<20)
	set(&l.Keyboxes, 32_768)
	set(&l.KeyboxBytes, 64<<20)
	set(&l.MailboxesOfOne, 4096)
	set(&l.OffersPerSecond, 200)
	set(&l.OffersWaiting, 256)
	set(&l.OffersAtOnce, 16)
	set(&l.OffersPerMinute, 600)
	set(&l.RequestsPerMinute, 12_000)
	set(&l.RequestsPerMinuteInside, 240)
	set(&l.RoomsPerMinute, 600)
	set(&l.ClaimsPerMinute, 12_000)
	set(&l.BytesPerMinute, 16<<20)
	l.BytesPerMinute = max(l.BytesPerMinute, MaxMessage)
	set(&l.FailedJoins, 10)
	set(&l.Addresses, 16_384)
	if l.FailedJoinWait <= 0 {
		l.FailedJoinWait = time.Minute
	}
	return l
}

// A measure is something that an account counts by the minute.
type measure int

const (
	perRequest measure = iota
	perInside
	perConnection
	perRoom
	perJoin
	perClaim
	perByte
	perOffer
	perFailure
	measures
)

func (l *Limits) perMinute(m measure) int {
	return [measures]int{
		perRequest: l.RequestsPerMinute, perInside: l.RequestsPerMinuteInside, perConnection: l.ConnectionsPerMinute,
		perRoom: l.RoomsPerMinute, perJoin: l.RoomsPerMinute, perClaim: l.ClaimsPerMinute,
		perByte: l.BytesPerMinute, perOffer: l.OffersPerMinute, perFailure: l.FailedJoins,
	}[m]
}

// limiter counts what each address does, for a bounded number of addresses.
type limiter struct {
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	others accounts          // of addresses, networks and names
	tokens accounts          // of tokens, apart: a crowd of them must not have addresses forgotten
	bodies fair.Pool[func()] // request bodies being read; Value ends one
	polls  fair.Pool[func()] // requests that wait; Value ends one
	// without and inside count the polls of each address without a token, and of each token. They are apart from
	// known so that forgetting an account does not forget what it has open.
	without map[netip.Prefix]int
	inside  map[string]int
	wrong   []int // wrong nameplates in each of the last minutes, a ring
	wrongAt int64 // the minute of the newest
}

// accounts are a bounded number of them: the one seen least recently makes room.
type accounts struct {
	known  map[any]*list.Element
	recent list.List // of *account, the most recently seen in front
}

type account struct {
	key     any
	buckets [measures]*rate.Limiter // made when they are first used

	wait     time.Duration // after the last wrong nameplate that was not free; 0 if there was none
	free     time.Time     // when it is over
	failedAt time.Time
}

func newLimiter(limits Limits, now func() time.Time) *limiter {
	return &limiter{
		limits:  limits,
		now:     now,
		others:  accounts{known: make(map[any]*list.Element)},
		tokens:  accounts{known: make(map[any]*list.Element)},
		without: make(map[netip.Prefix]int),
		inside:  make(map[string]int),
		wrong:   make([]int, int(failedForget/time.Minute)),
	}
}

// accountLocked returns the account of a key, making place for it if needed. A string is a token.
func (l *limiter) accountLocked(key any) *account {
	of := &l.others
	if _, token := key.(string); token {
		of = &l.tokens
	}
	if e, ok := of.known[key]; ok {
		of.recent.MoveToFront(e)
		return e.Value.(*account)
	}
	for len(of.known) >= l.limits.Addresses {
		e := of.recent.Back()
		delete(of.known, e.Value.(*account).key)
		of.recent.Remove(e)
	}
	a := &account{key: key}
	of.known[key] = of.recent.PushFront(a)
	return a
}

// spendLocked takes n out of an account's bucket, which holds share times what the limits say.
func (l *limiter) spendLocked(key any, m measure, n, share int) bool {
	a := l.accountLocked(key)
	if a.buckets[m] == nil {
		most := l.limits.perMinute(m) * share
		a.buckets[m] = rate.NewLimiter(rate.Limit(float64(most)/60), most)
	}
	return a.buckets[m].AllowN(l.now(), n)
}

// allow counts n for an address and its network, and says whether both may.
func (l *limiter) allow(addr netip.Addr, m measure, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allowLocked(addr, m, n)
}

func (l *limiter) allowLocked(addr netip.Addr, m measure, n int) bool {
	own, network := fair.Address(addr), fair.Network(addr)
	return l.spendLocked(own, m, n, 1) && (own == network || l.spendLocked(network, m, n, networkShare))
}

// allowInside counts a request of the holder of a good token.
func (l *limiter) allowInside(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spendLocked(token, perInside, 1, 1)
}

// granted is the account of a name in a list of access.
type granted string

// allowGrant counts something for a name, which may do so most times a minute.
func (l *limiter) allowGrant(name string, m measure, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accountLocked(granted(name))
	if a.buckets[m] == nil || a.buckets[m].Burst() != most {
		a.buckets[m] = rate.NewLimiter(rate.Limit(float64(most)/60), most)
	}
	return a.buckets[m].AllowN(l.now(), 1)
}

// join says whether an address may try a nameplate. If it has to wait after wrong ones, wait says for how long.
func (l *limiter) join(addr netip.Addr) (ok bool, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, key := range l.keys(addr) {
		wait = max(wait, l.accountLocked(key).free.Sub(now))
	}
	if wait > 0 {
		return false, wait
	}
	return l.allowLocked(addr, perJoin, 1), 0
}

// keys returns the accounts of an address: its own and, where that is another, its network's.
func (l *limiter) keys(addr netip.Addr) []any {
	own, network := fair.Address(addr), fair.Network(addr)
	if own == network {
		return []any{own}
	}
	return []any{own, network}
}

// joinFailed counts a nameplate that does not exist: somebody may be trying them all. The first ones of a minute cost
// nothing. Each further one costs a wait, twice as long as the one before.
func (l *limiter) joinFailed(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.wrongLocked(now)
	l.wrong[l.wrongAt%int64(len(l.wrong))]++
	for i, key := range l.keys(addr) {
		share := 1
		if i > 0 {
			share = networkShare
		}
		a := l.accountLocked(key)
		if now.Sub(a.failedAt) >= failedForget {
			a.wait = 0
		}
		a.failedAt = now
		if !l.spendLocked(key, perFailure, 1, share) {
			a.wait = min(max(2*a.wait, failedWaitLeast), l.limits.FailedJoinWait)
			a.free = now.Add(a.wait)
		}
	}
}

// wrongLocked moves the ring of wrong nameplates on to now.
func (l *limiter) wrongLocked(now time.Time) {
	minute := now.Unix() / 60
	if minute-l.wrongAt >= int64(len(l.wrong)) {
		clear(l.wrong)
	} else {
		for m := l.wrongAt + 1; m <= minute; m++ {
			l.wrong[m%int64(len(l.wrong))] = 0
		}
	}
	l.wrongAt = max(l.wrongAt, minute)
}

// wrongLately returns how many wrong nameplates there were in the last ten minutes.
func (l *limiter) wrongLately() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrongLocked(l.now())
	sum := 0
	for _, n := range l.wrong {
		sum += n
	}
	return sum
}

// A poll is a request that waits.
type poll struct {
	kicked chan struct{} // closed when it has to make room for another
	done   func()        // to be called at its end
}

// poll begins one: of a token that is good, or of an address without one ("" for token). limit names the limit that
// stands against it.
func (l *limiter) poll(addr netip.Addr, token string) (p poll, limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := fair.Address(addr)
	if token != "" && l.inside[token] >= pollsInside || token == "" && l.without[own] >= l.limits.PollsOfOne {
		return poll{}, limitPollsOfOne
	}
	if l.polls.Len() >= l.limits.Polls {
		victim, his := l.polls.Victim(addr, 1)
		if victim == nil || his {
			return poll{}, limitPolls
		}
		l.polls.Remove(victim)
		victim.Value()
	}
	p.kicked = make(chan struct{})
	m := l.polls.Add(addr, 1, sync.OnceFunc(func() { close(p.kicked) }))
	if token != "" {
		l.inside[token]++
	} else {
		l.without[own]++
	}
	p.done = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.polls.Remove(m)
		if token != "" {
			drop(l.inside, token)
		} else {
			drop(l.without, own)
		}
	}
	return p, ""
}

// waiting returns how many requests wait.
func (l *limiter) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.polls.Len()
}

// drop counts down and forgets what is zero.
func drop[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

// upload takes one of an address's request bodies and one of all; the caller gives both back with done. Where all are
// in use one of the network that has the most is cut off: end is called, with the limiter locked, and must not block.
// limit names the limit that stands against it.
func (l *limiter) upload(addr netip.Addr, end func()) (done func(), limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bodies.Of(addr) >= l.limits.Uploads {
		return nil, limitUploads
	}
	if l.bodies.Len() >= l.limits.Bodies {
		victim, _ := l.bodies.Victim(addr, 1)
		if victim == nil {
			victim = l.bodies.Oldest() // nobody has more than one: it has had the longest
		}
		l.bodies.Remove(victim)
		victim.Value()
	}
	m := l.bodies.Add(addr, 1, end)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.bodies.Remove(m)
	}, ""
}
