package cmd

import (
	"math"

	"adit/internal/relay"
	"adit/signal/rendezvous"

	"github.com/urfave/cli/v2"
)

// A limitFlag is a limit of the rendezvous as a hidden flag, and so as a variable and a key of the config file.
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

// limitFlags returns the flags of serve that are limits of the rendezvous. They are for the config file, and stand in
// docs/rendezvous.md instead of the help.
func limitFlags() []cli.Flag {
	defaults := rendezvous.DefaultLimits()
	var flags []cli.Flag
	for _, f := range limitTable {
		flags = append(flags, &cli.IntFlag{Name: f.name, Usage: f.usage, Value: *f.field(&defaults), Hidden: true})
	}
	flags = append(flags, &cli.DurationFlag{Name: "limit-failed-join-wait", Usage: "the longest wait after a wrong code", Value: defaults.FailedJoinWait, Hidden: true})
	return ownFlags("serve", flags...)
}

// limitsOf reads the limits. Without an own value the connections are as many as the file descriptors allow, with one
// for each of the relay's allocations and a thousand for everything else.
func limitsOf(c *cli.Context, allocations int) (rendezvous.Limits, error) {
	var l rendezvous.Limits
	for _, f := range limitTable {
		n := c.Int(f.name)
		if n < 1 || n > math.MaxInt32 {
			return l, usagef("a number of at least 1", "--%s %d is no limit", f.name, n)
		}
		*f.field(&l) = n
	}
	l.FailedJoinWait = c.Duration("limit-failed-join-wait")
	if l.FailedJoinWait <= 0 {
		return l, usagef("for example --limit-failed-join-wait 1m", "--limit-failed-join-wait %v is no time", l.FailedJoinWait)
	}
	if most := descriptors(); most > 0 && !c.IsSet("limit-connections") {
		l.Connections = min(l.Connections, max(most-allocations-1000, most/2))
	}
	return l, nil
}

// relayAllocations is how many file descriptors the relay may use.
func relayAllocations(t turnConfig) int {
	if !t.on {
		return 0
	}
	return min(t.allocations, relay.DefaultAllocations)
}
