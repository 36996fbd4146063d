// Package control lets the processes of one user on one machine talk to each other: one asks another
// how it does, ends it, or has it open a stream over a session that it has already.
//
// Each process that runs a session listens at a unix socket of its own, DIR/PID.sock. Requests and
// replies are JSON objects, one a line; docs/control.md describes them.
//
//	client                                     server
//	{"request":"status"}  ──────────────────>
//	                      <──────────────────  {"status":{...}}
//	{"request":"dial","peer":"home","target":"localhost:22"} ──>
//	                      <──────────────────  {"match":true}   this process has such a session
//	                      <──────────────────  {"ok":true}      the stream is open
//	frames of bytes       <─────────────────>  frames of bytes, each direction ending alone
//
// Whoever may open the socket may do all of it: the directory is the user's alone, which is checked,
// and on Linux, macOS and FreeBSD the kernel is asked who the client is. Windows has no control socket.
//
// Errors: [ErrUnsupported], [ErrDir], [ErrNoMatch], [Refusal].
package control

import (
	"errors"
	"time"
)

var (
	// ErrUnsupported is a system without control sockets.
	ErrUnsupported = errors.New("this system has no control socket")
	// ErrDir is a directory that others than this user could change.
	ErrDir = errors.New("the directory of control sockets is not this user's alone")
	// ErrNoMatch says that no running process has a session with that peer.
	ErrNoMatch = errors.New("no running process has a session with that peer")
)

// A Refusal is what a process answers to a request that it cannot do.
type Refusal struct {
	Message string // no capital, no period
	Hint    string // what to do about it; may be empty
	Code    int    // for a stream that the peer refused its code; else 0
}

func (r *Refusal) Error() string { return r.Message }

// What a request may ask for.
const (
	requestStatus = "status"
	requestStop   = "stop"
	requestDial   = "dial"
)

// lineBytes bounds a request, and linesBytes a reply: a status with 1,000 sessions is half of it.
const (
	lineBytes  = 16 << 10
	linesBytes = 4 << 20
)

// A request is one line of a client.
type request struct {
	Request string `json:"request"`
	Peer    string `json:"peer,omitempty"`
	Target  string `json:"target,omitempty"`
}

// A reply is one line of a server.
type reply struct {
	Status *Status `json:"status,omitempty"`
	Match  *bool   `json:"match,omitempty"`
	OK     bool    `json:"ok,omitempty"`
	Error  string  `json:"error,omitempty"`
	Hint   string  `json:"hint,omitempty"`
	Code   int     `json:"code,omitempty"`
}

// refusal returns the error of r, nil if there is none.
func (r reply) refusal() error {
	if r.Error == "" {
		return nil
	}
	return &Refusal{Message: r.Error, Hint: r.Hint, Code: r.Code}
}

// A Status is what one process does. Its JSON form is an interface: fields may be added.
type Status struct {
	PID       int        `json:"pid"`
	Command   string     `json:"command"` // expose, connect, pipe, serve
	Version   string     `json:"version,omitempty"`
	Since     time.Time  `json:"since"`             // the start of the process
	Now       time.Time  `json:"now"`               // when this was true, by the clock of Since
	State     string     `json:"state"`             // waiting, up, interrupted or serving
	Doing     string     `json:"doing,omitempty"`   // a few words, while there is no session
	Targets   []string   `json:"targets,omitempty"` // what it offers to its peers
	Listening []Listener `json:"listening,omitempty"`
	Sessions  []Session  `json:"sessions"`
	Opened    uint64     `json:"streams_opened"`  // since the start
	Refused   uint64     `json:"streams_refused"` // the same
}

// A Listener is a local address whose connections are forwarded, or served.
type Listener struct {
	Addr   string `json:"addr"`
	Target string `json:"target"`
}

// A Session is one peer within reach. Counters count since the session began and never fall, unless a
// new path had to count anew.
type Session struct {
	Peer  string    `json:"peer,omitempty"` // its name, where it has one
	Met   string    `json:"met"`            // key, code, paste or exec
	Since time.Time `json:"since"`
	State string    `json:"state"` // up or interrupted

	Path       Path     `json:"path"`
	Local      []string `json:"local_candidates,omitempty"`
	Remote     []string `json:"remote_candidates,omitempty"`
	RTT        float64  `json:"rtt_ms"` // smoothed
	MinRTT     float64  `json:"min_rtt_ms"`
	Streams    int      `json:"streams"`
	Rate       float64  `json:"path_bit_s"`     // what the path is thought to carry, bits per second
	SendRate   float64  `json:"send_bit_s"`     // measured between two requests by the client
	RecvRate   float64  `json:"receive_bit_s"`  // the same
	Packet     int      `json:"packet_bytes"`   // the largest packet, a UDP payload
	Queue      int      `json:"queue_bytes"`    // waiting to be sent
	Sent       uint64   `json:"sent_bytes"`     // everything on the wire is counted, repetitions too
	Received   uint64   `json:"received_bytes"` // each packet once
	SentPkts   uint64   `json:"sent_packets"`
	RecvPkts   uint64   `json:"received_packets"`
	Lost       uint64   `json:"lost_packets"`     // of those sent
	Resent     uint64   `json:"resent_packets"`   // because they were found lost, or might be
	Spurious   uint64   `json:"spurious_packets"` // found lost, and arrived all the same
	Replayed   uint64   `json:"replayed_packets"` // came twice
	Rejected   uint64   `json:"rejected_packets"` // came with this session's index and were not the peer's
	Dropped    uint64   `json:"dropped_packets"`  // for want of room in a queue
	Generation int      `json:"generation,omitempty"`
}

// A Path is the way packets take to a peer.
type Path struct {
	Kind      string `json:"kind"` // direct or relay
	Transport string `json:"transport,omitempty"`
	Local     string `json:"local"`  // candidate type and address, when the path came up
	Remote    string `json:"remote"` // the same of the peer
	To        string `json:"to"`     // where packets go now
}

// Rates fills in the send and receive rates of after from what was counted since before, which is an
// earlier status of the same process. Sessions that began in between count from their beginning.
func (after *Status) Rates(before *Status) {
	if before != nil && before.PID != after.PID {
		before = nil
	}
	for i := range after.Sessions {
		s := &after.Sessions[i]
		sent, received, since := uint64(0), uint64(0), s.Since
		if before != nil {
			for _, b := range before.Sessions {
				if b.Since.Equal(s.Since) && b.Peer == s.Peer && b.Sent <= s.Sent && b.Received <= s.Received {
					sent, received, since = b.Sent, b.Received, before.Now
					break
				}
			}
		}
		if d := after.Now.Sub(since).Seconds(); d > 0 {
			s.SendRate = float64(s.Sent-sent) * 8 / d
			s.RecvRate = float64(s.Received-received) * 8 / d
		}
	}
}
