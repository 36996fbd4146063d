//go:build hostile

// Command hostile is a peer that means ill, for the tests. It meets an exposer by a code, with the handshake that every
// peer does, and then sends what it likes over the link: by kind of attack, at a given rate, for a given time.
//
// It prints "up" when the session stands, and at the end "ended: " with the reason if the exposer has ended the session,
// "done" otherwise.
//
// It is built with "go build -tags hostile" and is no part of adit.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/link"
	"adit/internal/peer"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

func run() error {
	signal := flag.String("signal", "", "URL of the rendezvous")
	meeting := flag.String("code", "", "code to meet by")
	name := flag.String("attack", "", "one of "+strings.Join(slices.Sorted(maps.Keys(attacks)), ", "))
	target := flag.String("target", "", "what streams ask for; the default target if empty")
	span := flag.Duration("for", 5*time.Second, "how long")
	rate := flag.Int("rate", 20_000, "packets a second")
	flag.Parse()
	attack := attacks[*name]
	if attack == nil {
		return fmt.Errorf("no attack %q", *name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *span+time.Minute)
	defer cancel()
	s, err := peer.Dial(ctx, peer.Config{Role: peer.Connecter, Signal: *signal, Code: *meeting, Timeout: time.Minute})
	if err != nil {
		return err
	}
	fmt.Println("up")
	a := &attacker{link: s.Link(), until: time.Now().Add(*span), began: time.Now(), rate: *rate, target: *target}
	a.link.Receive(a.deliver)
	attack(a)
	for time.Now().Before(a.until) && a.alive() {
		a.again()
		time.Sleep(20 * time.Millisecond)
	}
	select {
	case <-a.link.Done():
		fmt.Println("ended:", a.link.Err())
	default:
		fmt.Println("done")
		_ = s.Close() // the exposer may have closed it
	}
	return nil
}

// KCP's commands, and the kinds of adit's control messages (docs/streams.md).
const (
	cmdPush = 81

	msgReset  = 2
	msgFin    = 3
	msgCredit = 5
	msgStop   = 6
	msgSync   = 7
)

// The kinds of the link's control packets (docs/wire.md).
const (
	kindPing      = 1
	kindChallenge = 3
	kindMessage   = 6
	offer         = 4
)

var attacks = map[string]func(*attacker){
	"streams":   streams,
	"hoard":     hoard,
	"holes":     holes,
	"sizes":     sizes,
	"unknown":   unknown,
	"syncs":     syncs,
	"controls":  controls,
	"resets":    resets,
	"fragments": fragments,
	"parts":     parts,
	"flows":     flows,
	"pings":     pings,
	"offers":    offers,
}

// streams opens streams without end.
func streams(a *attacker) {
	for id := uint32(1); a.goesOn(); id += 2 {
		a.push(id, 0, header(a.target))
	}
}

// hoard opens a thousand streams, grants all the credit there is, takes what comes and acknowledges nothing.
func hoard(a *attacker) {
	var messages []byte
	for id := uint32(1); id <= 2000 && a.goesOn(); id += 2 {
		a.push(id, 0, header(a.target))
		messages = append(messages, control(msgCredit, id, binary.BigEndian.AppendUint64(nil, 1<<62))...)
	}
	time.Sleep(500 * time.Millisecond) // credit for a stream that is not there yet would be ignored
	a.say(messages)
}

// holes opens streams and sends all of them but the second segment.
func holes(a *attacker) {
	b := make([]byte, 1100)
	for id := uint32(1); a.goesOn(); id += 2 {
		a.push(id, 0, header(a.target))
		for sn := uint32(2); sn < 2000 && a.goesOn(); sn++ {
			a.push(id, sn, b)
		}
	}
}

// sizes sends control messages and headers of sizes that cannot be.
func sizes(a *attacker) {
	a.push(1, 0, []byte{0xff, 0xff, 1})
	a.push(3, 0, header(a.target))
	a.say(control(msgFin, 3, binary.BigEndian.AppendUint64(nil, 1<<63)))
	a.say(control(msgCredit, 3, binary.BigEndian.AppendUint64(nil, 1<<64-1)))
	a.say([]byte{0xff, 0xff, msgReset, 0, 0, 0, 3})
}

// unknown sends a message of a kind that a later version may have.
func unknown(a *attacker) { a.say([]byte{0, 5, 99, 0, 0, 0, 1}) }

func syncs(a *attacker) {
	for a.goesOn() {
		a.say(slices.Repeat(control(msgSync, 0, make([]byte, 8)), 70))
	}
}

// controls sends every control message about streams that are and are not.
func controls(a *attacker) {
	for a.goesOn() {
		var b []byte
		for len(b) < 1000 {
			id := rand.Uint32N(4000)
			switch rand.IntN(4) {
			case 0:
				b = append(b, control(msgFin, id, binary.BigEndian.AppendUint64(nil, rand.Uint64()))...)
			case 1:
				b = append(b, control(msgCredit, id, binary.BigEndian.AppendUint64(nil, rand.Uint64()))...)
			case 2:
				b = append(b, control(msgStop, id, code)...)
			case 3:
				b = append(b, control(msgReset, id, append(binary.BigEndian.AppendUint64(nil, rand.Uint64()), code...))...)
			}
		}
		a.say(b)
	}
}

// resets opens streams and resets them at once.
func resets(a *attacker) {
	for id := uint32(1); a.goesOn(); {
		var b []byte
		for range 25 {
			a.push(id, 0, header(a.target))
			b = append(b, control(msgReset, id, append(binary.BigEndian.AppendUint64(nil, uint64(len(header(a.target)))), code...))...)
			b = append(b, control(msgStop, id, code)...)
			id += 2
		}
		a.say(b)
	}
}

// fragments sends first halves of payloads.
func fragments(a *attacker) {
	for id := uint32(0); a.goesOn(); id++ {
		b := binary.BigEndian.AppendUint32([]byte{0}, id)
		a.inject(link.TypeFragment, append(b, make([]byte, 700)...))
	}
}

// parts sends first parts of datagrams on many flows.
func parts(a *attacker) {
	for id := uint32(1); id < 200; id += 2 {
		a.push(id, 0, header(a.target))
	}
	for n := uint16(0); a.goesOn(); n++ {
		b := binary.LittleEndian.AppendUint32(nil, (rand.Uint32N(100)*2+1)|1<<31)
		b = append(b, 64, 0)
		b = binary.BigEndian.AppendUint16(b, n)
		b = binary.BigEndian.AppendUint16(b, 65000)
		a.inject(link.TypeData, append(b, make([]byte, 65000/64+1)...))
	}
}

// flows opens streams and sends datagrams beside each.
func flows(a *attacker) {
	for id := uint32(1); a.goesOn(); id += 2 {
		a.push(id, 0, header(a.target))
		b := append(binary.LittleEndian.AppendUint32(nil, id|1<<31), 1)
		for range 10 {
			a.inject(link.TypeData, append(b, "a datagram"...))
		}
	}
}

// pings asks for answers from the link.
func pings(a *attacker) {
	for a.goesOn() {
		a.inject(link.TypeControl, append([]byte{kindPing}, make([]byte, 1000)...))
		a.inject(link.TypeControl, binary.BigEndian.AppendUint64([]byte{kindChallenge}, rand.Uint64()))
	}
}

// offers sends halves of generations, each with another number and names.
func offers(a *attacker) {
	for id := uint64(0); a.goesOn(); id++ {
		b := binary.BigEndian.AppendUint64([]byte{kindMessage}, id)
		b = append(b, offer)
		b = binary.BigEndian.AppendUint32(b, uint32(id))
		b = append(b, 1, byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())) // a description: its index,
		for range 16 {
			b = append(b, byte(rand.Uint32())) // its seed,
		}
		b = append(b, 1, 12) // and one candidate
		b = append(b, 0, 127, 0, 0, 1, byte(rand.Uint32()), 99, 0, 0, 0, 1, 0)
		a.inject(link.TypeControl, b[:len(b)-1])
	}
}

// code is that of a reset or a stop.
var code = []byte{0, 0, 0, 1}

// header is what a stream begins with.
func header(target string) []byte {
	h := []byte{1}
	if target != "" {
		h = append([]byte{2}, target...)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(h))), h...)
}

// control is a message of conversation 0.
func control(kind byte, stream uint32, rest []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(5+len(rest)))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, rest...)
}

// An attacker has a link and no manners.
type attacker struct {
	link   *link.Link
	began  time.Time
	until  time.Time
	rate   int
	target string
	sent   int

	mu    sync.Mutex
	said  [][]byte // packets of conversation 0 that the exposer may not have
	first uint32   // the number of the first of them
}

func (a *attacker) alive() bool {
	select {
	case <-a.link.Done():
		return false
	default:
		return true
	}
}

// goesOn keeps to the rate and says whether there is time left.
func (a *attacker) goesOn() bool {
	if ahead := time.Duration(a.sent)*time.Second/time.Duration(a.rate) - time.Since(a.began); ahead > 2*time.Millisecond {
		time.Sleep(ahead)
	}
	return a.alive() && time.Now().Before(a.until)
}

func (a *attacker) inject(typ byte, b []byte) {
	a.sent++
	_ = a.link.Inject(typ, b) // lost, then
}

// segment is one of KCP's.
func segment(id, sn uint32, b []byte) []byte {
	p := binary.LittleEndian.AppendUint32(nil, id)
	p = append(p, cmdPush, 0, 0xff, 0xff)
	p = binary.LittleEndian.AppendUint32(p, 0)
	p = binary.LittleEndian.AppendUint32(p, sn)
	p = binary.LittleEndian.AppendUint32(p, 0)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(b)))
	return append(p, b...)
}

func (a *attacker) push(id, sn uint32, b []byte) { a.inject(link.TypeData, segment(id, sn, b)) }

// say sends messages in conversation 0, which must arrive in order, and waits while a hundred packets are on their way.
func (a *attacker) say(messages []byte) {
	for len(messages) > 0 {
		n := min(len(messages), 1100)
		a.mu.Lock()
		p := segment(0, a.first+uint32(len(a.said)), messages[:n])
		a.said = append(a.said, p)
		a.mu.Unlock()
		a.inject(link.TypeData, p)
		messages = messages[n:]
		for a.alive() && time.Now().Before(a.until) {
			a.mu.Lock()
			waiting := len(a.said)
			a.mu.Unlock()
			if waiting < 100 {
				break
			}
			time.Sleep(5 * time.Millisecond)
			a.again()
		}
	}
}

// again repeats the first packets that were not acknowledged.
func (a *attacker) again() {
	a.mu.Lock()
	said := slices.Clone(a.said[:min(len(a.said), 4)])
	a.mu.Unlock()
	for _, p := range said {
		a.inject(link.TypeData, p)
	}
}

// deliver takes what the exposer sends, and looks at nothing but how much of conversation 0 it has.
func (a *attacker) deliver(p []byte) {
	if len(p) < 24 || binary.LittleEndian.Uint32(p) != 0 {
		return
	}
	una := binary.LittleEndian.Uint32(p[16:])
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := una - a.first; n <= uint32(len(a.said)) {
		a.said, a.first = a.said[n:], una
	}
}
