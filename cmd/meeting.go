package cmd

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"adit/internal/history"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/internal/turn"
	"adit/signal"

	"github.com/urfave/cli/v2"
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

// meeting turns the meeting flags of c into a peer's configuration.
func meeting(u *ui, c *cli.Context) (peer.Config, error) {
	cfg := peer.Config{
		Signal:      c.String("signal"),
		Port:        c.Int("port"),
		PortMapping: !c.Bool("no-port-mapping"),
		Loopback:    c.Bool("loopback"),
		Timeout:     c.Duration("timeout"),

		ResumeTimeout: c.Duration("resume-timeout"),

		Events: u.event,
		Logger: u.logger(),
	}
	var err error
	if cfg.Budget, err = budget(c.String("memory")); err != nil {
		return cfg, err
	}
	if dir, err := identity.StateDir(); err == nil {
		cfg.Worked = history.Open(filepath.Join(dir, "paths.json"))
		cfg.Tombstones = peer.OpenTombstones(filepath.Join(dir, "sessions"))
	}
	if byCode(cfg.Signal) {
		cfg.Signals = rendezvousOf(cfg.Signal)
		cfg.Signal = cfg.Signals[0] // where codes are
		for _, s := range cfg.Signals[1:] {
			if !byCode(s) {
				return cfg, usagef("for example --signal https://a.example.org,https://b.example.org", "--signal %q is no URL", s)
			}
			if err := checkSignal(s); err != nil {
				return cfg, err
			}
		}
	}
	if cfg.Signal == "" {
		cfg.Signal = "paste"
	}
	if err := checkSignal(cfg.Signal); err != nil {
		return cfg, err
	}
	if token := c.String("signal-token"); token != "" && byCode(cfg.Signal) {
		cfg.Signal = signal.WithToken(cfg.Signal, token)
		for i, s := range cfg.Signals {
			cfg.Signals[i] = signal.WithToken(s, token)
		}
	}
	if cfg.Port < 0 || cfg.Port > 65535 {
		return cfg, usagef("give a port from 1 to 65535", "--port %d is no port", cfg.Port)
	}
	if cfg.Timeout < 0 {
		return cfg, usagef("for example --timeout 30s", "--timeout %s is in the past", cfg.Timeout)
	}
	if cfg.ResumeTimeout < 0 {
		return cfg, usagef("for example --resume-timeout 1h", "--resume-timeout %s is in the past", cfg.ResumeTimeout)
	}
	switch p := c.String("path"); p {
	case "", "auto":
	case "direct", "relay":
		cfg.Path = peer.PathPolicy(p)
	default:
		return cfg, usagef("use auto, direct or relay", "--path %q is no choice", p)
	}
	for _, s := range c.StringSlice("turn") {
		if err := turn.CheckURL(s); err != nil {
			return cfg, usagef("for example --turn turn:relay.example.org:3478?transport=udp", "--turn: %v", err)
		}
		cfg.TURN = append(cfg.TURN, signal.TURNServer{URL: s, Username: c.String("turn-user"), Password: c.String("turn-password")})
	}
	if cfg.STUN, err = stunList(c.StringSlice("stun")); err != nil {
		return cfg, err
	}
	if cfg.STUN == nil && !byCode(cfg.Signal) && !cfg.Loopback {
		cfg.STUN = publicSTUN
	}
	return cfg, nil
}

// byCode reports whether peers meet by a code: with a rendezvous.
func byCode(signal string) bool {
	return strings.HasPrefix(signal, "http://") || strings.HasPrefix(signal, "https://")
}

func checkSignal(s string) error {
	const hint = "use paste, the http(s) URL of a rendezvous, or exec:CMD"
	switch {
	case s == "paste":
		return nil
	case strings.HasPrefix(s, "exec:"):
		if strings.TrimSpace(s[len("exec:"):]) == "" {
			return usagef("for example --signal 'exec:ssh host cat'", "--signal exec: lacks a command")
		}
		return nil
	case byCode(s):
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return usagef(hint, "--signal %q is no URL", s)
		}
		return nil
	}
	if host, _, _ := strings.Cut(s, "/"); strings.Contains(host, ".") && !strings.Contains(s, "://") {
		return usagef("did you mean --signal https://"+s+"?", "--signal %q is no URL", s)
	}
	if n := nearest(s, []string{"paste"}); n != "" {
		return usagef("did you mean paste?", "--signal %q is nothing adit knows", s)
	}
	return usagef(hint, "--signal %q is nothing adit knows", s)
}

// stunList checks --stun: nil if there is none, an empty list for "none".
func stunList(given []string) ([]string, error) {
	var out []string
	for _, s := range given {
		if s == "none" {
			if len(given) > 1 {
				return nil, usagef("give none alone, or servers only", "--stun none and --stun with a server exclude each other")
			}
			return []string{}, nil
		}
		s = strings.TrimPrefix(s, "stun:")
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), stunPort
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/@ ") {
			return nil, usagef("for example --stun stun.example.org:3478", "--stun %q is no HOST:PORT", s)
		}
		out = append(out, net.JoinHostPort(host, port))
	}
	return out, nil
}

// invitation is the command that joins from another machine.
func invitation(c *cli.Context, command, code string) string {
	s := "adit " + command + " " + code
	if c.Bool("loopback") {
		s += " --loopback"
	}
	if command == "connect" && c.String("save") != "" {
		s += " --save NAME" // which is the other person's to choose
	}
	if fromConfig(c, "signal") {
		return s // the other machine has it in its own file, most likely
	}
	return s + " --signal " + quoted(signal.PublicURL(c.String("signal")))
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
		return usagef("run it without the line, and paste when it asks", "this is a line to paste, not a code")
	case code == "" && byCode(signal):
		return usagef(`give the code that "adit `+other+`" prints on the other machine`, "a meeting at a rendezvous needs a code")
	case code != "" && !byCode(signal):
		return usagef("give --signal URL as the other side does, or leave the code out and paste lines", "a code needs a rendezvous, and none is configured")
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
			return nil, usagef("use --signal with a rendezvous or exec:CMD", "there is no terminal to paste a line at, and standard input carries data")
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
	if f.hint == "" || f.code == exitOther {
		u.say("%s", f.message)
		return
	}
	u.say("%s; %s", f.message, f.hint)
}
