package cmd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/fail"
	"adit/internal/history"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/internal/suggest"
	"adit/internal/turn"
	"adit/signal"
)

// publicSTUN is asked what address the world sees where neither flags nor a rendezvous name servers.
// They are raced: one that is dead delays nobody.
var publicSTUN = []string{
	"stun.l.google.com:19302",
	"stun.cloudflare.com:3478",
	"stun.nextcloud.com:3478",
	"global.stun.twilio.com:3478",
}

const stunPort = "3478" // RFC 8489 section 18.6

// meetingOptions say how a command meets a peer.
type meetingOptions struct {
	signal, signalToken    string
	stun                   []string
	port                   int
	path                   string
	turn                   []string
	turnUser, turnPassword string
	noPortMapping          bool
	timeout, resume        time.Duration
	memory                 string
	verify                 string
	loopback               bool

	// Set by check.
	rendezvous []string // the URLs of signal; none if it is something else
	servers    []string // of stun; nil if nothing is said, empty for "none"
}

func (o *meetingOptions) list() []option {
	ice := func(one option) option { return shared(iceTable, one)[0] }
	top := func(one option) option { return shared("", one)[0] }
	return []option{
		top(option{name: "signal", to: &o.signal, usage: "`HOW` the two find each other: paste, the URL of a rendezvous, or exec:CMD", none: "paste", values: []string{"paste", "http://", "https://", "exec:"}}),
		top(option{name: "signal-token", to: &o.signalToken, usage: "the token for a rendezvous that is not open to everybody; better in the variable or the config file, out of sight", hidden: true}),
		ice(option{name: "stun", to: &o.stun, usage: "`HOST:PORT` of a STUN server, several times if you like, or none", none: "the rendezvous' own, else public ones", values: []string{"none"}}),
		ice(option{name: "port", to: &o.port, usage: "fixed UDP port `N`", none: "any"}),
		ice(option{name: "path", to: &o.path, usage: "`WHICH` paths to use: auto, direct, or relay, which hides this machine's addresses", none: "auto: a relay until there is a direct one", values: pathChoices}),
		ice(option{name: "turn", to: &o.turn, usage: "`URL` of a relay, turn:HOST:PORT?transport=udp or tcp, turns: for TLS; several times if you like", none: "those of the rendezvous", values: []string{"turn:", "turns:"}}),
		ice(option{name: "turn-user", to: &o.turnUser, usage: "`NAME` to log in with there"}),
		ice(option{name: "turn-password", to: &o.turnPassword, usage: "its password; better in the variable or the config file, out of sight"}),
		ice(option{name: "no-port-mapping", to: &o.noPortMapping, usage: "ask no router for a port (PCP, NAT-PMP, UPnP)"}),
		top(option{name: "timeout", to: &o.timeout, usage: "give up if there is no path after `D`, say 30s", none: "wait for the peer"}),
		top(option{name: "resume-timeout", to: &o.resume, usage: "end the session if the peer stays away for `D`", none: "24h for a peer that is met by key, else 10m"}),
		top(option{name: "verify", to: &o.verify, usage: "with pasted lines, forward once a person has compared the four words: `WHEN`, ask or no", none: "ask on a terminal", values: verifyChoices}),
		top(option{name: "memory", to: &o.memory, usage: "what all streams together may hold in memory, `SIZE`, say 64MiB", none: "half of the machine's or its control group's, 16 to 160 MiB"}),
		ice(option{name: "loopback", to: &o.loopback, usage: "both peers are on this machine"}),
	}
}

// iceTable holds the common options that say by which ways a path is looked for.
const iceTable = "ice"

// verifyChoices are whether forwards wait until a person has compared the words.
var verifyChoices = []string{"ask", "no"}

var pathChoices = []string{"auto", "direct", "relay"}

func (o *meetingOptions) check(bad *complaints) {
	for i, s := range rendezvousOf(o.signal) {
		problem, hint := signalProblem(s)
		if i > 0 && problem == "" && !byCode(s) {
			problem, hint = "is no URL", "for example --signal https://a.example.org,https://b.example.org"
		}
		if problem != "" {
			bad.about("signal", hint, "%q %s", s, problem)
		}
	}
	if byCode(o.signal) {
		o.rendezvous = rendezvousOf(o.signal)
	}
	if o.port < 0 || o.port > 65535 {
		bad.about("port", "give a port from 1 to 65535", "%d is no port", o.port)
	}
	if o.timeout < 0 {
		bad.about("timeout", "for example --timeout 30s", "%s is in the past", o.timeout)
	}
	if o.resume < 0 {
		bad.about("resume-timeout", "for example --resume-timeout 1h", "%s is in the past", o.resume)
	}
	if o.path != "" && !slices.Contains(pathChoices, o.path) {
		bad.about("path", "use auto, direct or relay", "%q is no choice", o.path)
	}
	if n, ok := parseSize(o.memory); o.memory != "" && (!ok || n < leastMemory) {
		bad.about("memory", "for example --memory 64MiB", "%q is no size of 1 MiB or more", o.memory)
	}
	if o.verify != "" && !slices.Contains(verifyChoices, o.verify) {
		bad.about("verify", "use ask or no", "%q is no choice", o.verify)
	}
	for _, s := range o.turn {
		if err := turn.CheckURL(s); err != nil {
			bad.about("turn", "for example --turn turn:relay.example.org:3478?transport=udp", "%v", err)
		}
	}
	var problem, hint string
	if o.servers, problem, hint = stunList(o.stun); problem != "" {
		bad.about("stun", hint, "%s", problem)
	}
}

func (o *meetingOptions) streamMemory() string { return o.memory }

// config turns the options into a peer's configuration, which reports to u.
func (o *meetingOptions) config(u *ui) peer.Config {
	cfg := peer.Config{
		Signal:      o.signal,
		Signals:     o.rendezvous,
		Port:        o.port,
		PortMapping: !o.noPortMapping,
		Loopback:    o.loopback,
		Timeout:     o.timeout,
		STUN:        o.servers,

		ResumeTimeout: o.resume,
		Budget:        budget(o.memory),

		Events: u.event,
		Logger: u.logger(),
	}
	u.verify = o.verify
	switch {
	case len(o.rendezvous) > 0:
		cfg.Signal = o.rendezvous[0] // where codes are
	case cfg.Signal == "":
		cfg.Signal = "paste"
	}
	if o.signalToken != "" && len(o.rendezvous) > 0 {
		cfg.Signals = slices.Clone(o.rendezvous)
		for i, s := range cfg.Signals {
			cfg.Signals[i] = signal.WithToken(s, o.signalToken)
		}
		cfg.Signal = cfg.Signals[0]
	}
	if o.path == "direct" || o.path == "relay" {
		cfg.Path = peer.PathPolicy(o.path)
	}
	for _, s := range o.turn {
		cfg.TURN = append(cfg.TURN, signal.TURNServer{URL: s, Username: o.turnUser, Password: o.turnPassword})
	}
	if cfg.STUN == nil && !byCode(cfg.Signal) && !cfg.Loopback {
		cfg.STUN = publicSTUN
	}
	if dir, err := identity.StateDir(); err == nil {
		if err := writable(dir); err != nil {
			u.say("going on without the state directory: %v", err)
		}
		cfg.Worked = history.Open(filepath.Join(dir, "paths.json"))
		cfg.Tombstones = peer.OpenTombstones(filepath.Join(dir, "sessions"))
	}
	return cfg
}

// writable reports what keeps this process from writing files in a directory, which it makes if need be.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".try-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// byCode reports whether peers meet by a code: with a rendezvous.
func byCode(signal string) bool {
	return strings.HasPrefix(signal, "http://") || strings.HasPrefix(signal, "https://")
}

// rendezvousOf returns the values of a --signal that begins with a URL, which may name several with commas between.
func rendezvousOf(s string) []string {
	if !byCode(s) {
		return []string{s}
	}
	var urls []string
	for _, u := range strings.Split(s, ",") {
		if u = strings.TrimSpace(u); u != "" {
			urls = append(urls, u)
		}
	}
	return urls
}

// signalProblem says what is wrong with one way to meet, as the end of a sentence, and what would be right.
func signalProblem(s string) (problem, hint string) {
	const choices = "use paste, the http(s) URL of a rendezvous, or exec:CMD"
	switch {
	case s == "" || s == "paste":
		return "", ""
	case strings.HasPrefix(s, "exec:"):
		if strings.TrimSpace(s[len("exec:"):]) == "" {
			return "lacks a command", "for example --signal 'exec:ssh host cat'"
		}
		return "", ""
	case byCode(s):
		if u, err := url.Parse(s); err != nil || u.Host == "" {
			return "is no URL", choices
		}
		return "", ""
	}
	// A code of its own has no scheme: "adit serve" speaks http unless it has a certificate.
	if host, _, _ := strings.Cut(s, "/"); strings.ContainsAny(host, ".:") && !strings.Contains(s, "://") {
		scheme := "https"
		if h, port, err := net.SplitHostPort(host); err == nil && h != "" && port != "443" {
			scheme = "http"
		}
		return "is no URL", "did you mean --signal " + scheme + "://" + s + "?"
	}
	if suggest.Nearest(s, []string{"paste"}) != "" {
		return "is nothing adit knows", "did you mean paste?"
	}
	return "is nothing adit knows", choices
}

// stunList reads --stun: nil if there is none, an empty list for "none".
func stunList(given []string) (out []string, problem, hint string) {
	for _, s := range given {
		if s == "none" {
			if len(given) > 1 {
				return nil, "none and a server exclude each other", "give none alone, or servers only"
			}
			return []string{}, "", ""
		}
		s = strings.TrimPrefix(s, "stun:")
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), stunPort
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/@ ") {
			return nil, fmt.Sprintf("%q is no HOST:PORT", s), "for example --stun stun.example.org:3478"
		}
		if _, err := netip.ParseAddr(host); err != nil && !strings.Contains(host, ".") && host != "localhost" && port == stunPort {
			return nil, fmt.Sprintf("%q is no server: it has neither a dot nor a port", s), "for example --stun stun.example.org:3478, or --stun none"
		}
		out = append(out, net.JoinHostPort(host, port))
	}
	return out, "", ""
}

// invitation is the command that joins from another machine. save says that the other person is to choose a name.
func (o *meetingOptions) invitation(g *given, command, code string, save bool) string {
	s := "adit " + command + " " + code
	if o.loopback {
		s += " --loopback"
	}
	if save {
		s += " --save NAME"
	}
	if g.fromFile("signal") {
		return s // the other machine has it in its own file, most likely
	}
	return s + " --signal " + quoted(signal.PublicURL(o.signal))
}

// joinCommand is what the other side runs where lines are pasted.
func joinCommand(cfg peer.Config, command string) string {
	s := "adit " + command
	if cfg.Loopback {
		s += " --loopback"
	}
	return s
}

// checkCode checks that a code and a rendezvous are given together or not at all.
func checkCode(signal, code, other string) error {
	switch {
	case strings.HasPrefix(code, tokenPrefix):
		return fail.Usagef("run it without the line, and paste when it asks", "this is a line to paste, not a code")
	case code == "" && byCode(signal):
		return fail.Usagef(`give the code that "adit `+other+`" prints on the other machine`, "a meeting at a rendezvous needs a code")
	case code != "" && !byCode(signal):
		return fail.Usagef("give --signal URL as the other side does, or leave the code out and paste lines", "a code needs a rendezvous, and none is configured")
	}
	return nil
}

// pasteThrough says where a pasted line is read and written, and returns what releases it. A command
// whose standard input and output carry data talks to the terminal behind them.
func pasteThrough(u *ui, cfg *peer.Config, data bool) (release func(), err error) {
	if cfg.Signal != "paste" {
		return func() {}, nil
	}
	cfg.Paste = signal.PasteConfig{Prompt: u.prompt, OnError: u.pasteError}
	if data {
		in, err := openTerminal()
		if err != nil {
			return nil, fail.Usagef("use --signal with a rendezvous or exec:CMD", "there is no terminal to paste a line at, and standard input carries data")
		}
		cfg.Paste.In, cfg.Paste.Interactive = in, true
		cfg.Paste.Out = nowhere{}
		return func() { in.Close() }, nil
	}
	cfg.Paste.In = os.Stdin
	if cfg.Paste.Interactive = isTerminal(os.Stdin); !cfg.Paste.Interactive {
		cfg.Paste.Prompt = nil // nothing prompts where nobody reads
	}
	cfg.Repaste = cfg.Paste.Interactive || u.json
	cfg.Paste.Out = os.Stdout
	if u.outTTY || u.json {
		cfg.Paste.Out = nowhere{} // the event shows the token
	}
	return func() {}, nil
}

// nowhere takes a token that is shown as an event instead.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// pasteError tells a person what was wrong with a line, who may try again.
func (u *ui) pasteError(err error) {
	f := failureOf(err)
	if f.Hint == "" || f.Code == fail.Other {
		u.say("%s", f.Message)
		return
	}
	u.say("%s; %s", f.Message, f.Hint)
}

// isCode reports whether several arguments are the parts of one code, as it is dictated: a number and words.
func isCode(args []string) bool {
	return len(args) > 1 && args[0] != "" && strings.Trim(args[0], "0123456789") == ""
}
