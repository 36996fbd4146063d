package cmd

import (
	"math"

	"adit/internal/relay"
	"adit/signal/rendezvous"
)

// A limitFlag is a limit of the rendezvous as a hidden option, and so as a variable and a key of the config file.
type limitFlag struct {
	name, usage string
	field       func(*rendezvous.Limits) *int
}

var limitTable = []limitFlag{
	{"limit-connections", "connections in all; fewer if there are not enough file descriptors", func(l *rendezvous.Limits) *int { return &l.Connections }},
	{"limit-connections-of-one", "connections of an address", func(l *rendezvous.Limits) *int { return &l.ConnectionsOfOne }},
	{"limit-connections-per-minute", "new connections of an address", func(l *rendezvous.Limits) *int { return &l.ConnectionsPerMinute }},
	{"limit-polls", "requests that wait, in all", func(l *rendezvous.Limits) *int { return &l.Polls }},
	{"limit-polls-of-one", "requests that wait, of an address, without a token", func(l *rendezvous.Limits) *int { return &l.PollsOfOne }},
	{"limit-bodies", "request bodies being read, in all", func(l *rendezvous.Limits) *int { return &l.Bodies }},
	{"limit-bodies-of-one", "request bodies being read, of an address", func(l *rendezvous.Limits) *int { return &l.Uploads }},
	{"limit-requests-per-minute", "requests of an address", func(l *rendezvous.Limits) *int { return &l.RequestsPerMinute }},
	{"limit-requests-per-minute-inside", "requests of each good token, which do not count for its address", func(l *rendezvous.Limits) *int { return &l.RequestsPerMinuteInside }},
	{"limit-bytes-per-minute", "message bytes of an address", func(l *rendezvous.Limits) *int { return &l.BytesPerMinute }},
	{"limit-rooms", "rooms in all", func(l *rendezvous.Limits) *int { return &l.Rooms }},
	{"limit-room-bytes", "bytes of memory for rooms", func(l *rendezvous.Limits) *int { return &l.Bytes }},
	{"limit-rooms-per-minute", "rooms that an address creates, and as many that it joins", func(l *rendezvous.Limits) *int { return &l.RoomsPerMinute }},
	{"limit-used-nameplates", "numbers of used codes that are remembered", func(l *rendezvous.Limits) *int { return &l.Used }},
	{"limit-messages", "messages of a side of a room", func(l *rendezvous.Limits) *int { return &l.Messages }},
	{"limit-failed-joins", "wrong codes of an address in a minute that cost no wait", func(l *rendezvous.Limits) *int { return &l.FailedJoins }},
	{"limit-mailboxes", "mailboxes of sessions in all", func(l *rendezvous.Limits) *int { return &l.Mailboxes }},
	{"limit-mailboxes-of-one", "mailboxes of sessions of an address", func(l *rendezvous.Limits) *int { return &l.MailboxesOfOne }},
	{"limit-mailbox-bytes", "bytes of memory for mailboxes of sessions", func(l *rendezvous.Limits) *int { return &l.MailboxBytes }},
	{"limit-keys", "mailboxes of keys in all", func(l *rendezvous.Limits) *int { return &l.Keyboxes }},
	{"limit-key-bytes", "bytes of memory for mailboxes of keys and their offers", func(l *rendezvous.Limits) *int { return &l.KeyboxBytes }},
	{"limit-claims-per-minute", "mailboxes of keys that an address claims", func(l *rendezvous.Limits) *int { return &l.ClaimsPerMinute }},
	{"limit-offers-per-second", "offers to one key", func(l *rendezvous.Limits) *int { return &l.OffersPerSecond }},
	{"limit-offers-waiting", "offers to one key that have not been fetched", func(l *rendezvous.Limits) *int { return &l.OffersWaiting }},
	{"limit-offers-at-once", "offers of an address to one key at once", func(l *rendezvous.Limits) *int { return &l.OffersAtOnce }},
	{"limit-offers-per-minute", "offers of an address to keys", func(l *rendezvous.Limits) *int { return &l.OffersPerMinute }},
	{"limit-addresses", "addresses remembered", func(l *rendezvous.Limits) *int { return &l.Addresses }},
}

// limitOptions returns the options of serve that are limits of the rendezvous. They are for the config file, and stand in
// docs/rendezvous.md instead of the help.
func limitOptions(l *rendezvous.Limits) []option {
	var list []option
	for _, f := range limitTable {
		list = append(list, option{name: f.name, to: f.field(l), usage: f.usage, hidden: true})
	}
	list = append(list, option{name: "limit-failed-join-wait", to: &l.FailedJoinWait, usage: "the longest wait after a wrong code", hidden: true})
	return own("serve", list...)
}

func checkLimits(l *rendezvous.Limits, bad *complaints) {
	for _, f := range limitTable {
		if n := *f.field(l); n < 1 || n > math.MaxInt32 {
			bad.about(f.name, "a number of at least 1", "%d is no limit", n)
		}
	}
	if l.FailedJoinWait <= 0 {
		bad.about("limit-failed-join-wait", "for example --limit-failed-join-wait 1m", "%v is no time", l.FailedJoinWait)
	}
}

// connectionsFor returns how many connections there may be where nothing is said: as many as the file descriptors allow,
// with one for each of the relay's allocations and a thousand for everything else.
func connectionsFor(limit, allocations int) int {
	if most := descriptors(); most > 0 {
		limit = min(limit, max(most-allocations-1000, most/2))
	}
	return limit
}

// relayAllocations is how many file descriptors the relay may use.
func relayAllocations(t turnConfig) int {
	if !t.on {
		return 0
	}
	return min(t.allocations, relay.DefaultAllocations)
}
