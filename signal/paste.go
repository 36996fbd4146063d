package signal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// quiet is how long the input must be still before a person is told what is wrong with what came:
// a paste of many lines is one paste.
const quiet = 200 * time.Millisecond

// What an unfinished token may take up: one of MaxToken characters in short lines, with a name in
// front of each, and then some. Each line has all of it read again.
const (
	maxPendingBytes = 8 << 10
	maxPendingLines = 100
)

// PasteConfig says where tokens are read and written. The zero value reads nothing and writes
// nothing. All callbacks run in the goroutine that calls Send or Receive and should return soon.
type PasteConfig struct {
	In          io.Reader        // where the peer's token comes from; nil ends at once
	Out         io.Writer        // gets our token alone in a line; nil to show it by OnToken only
	Prompt      func(string)     // shows a person what to do next; nil if there is no terminal
	OnToken     func(string)     // gets our token once it has been written
	OnError     func(error)      // gets a *TokenError for each bad paste while another is awaited
	Expect      Kind             // what the peer's token must be; 0 takes both
	Interactive bool             // a person pastes: a bad paste is reported, not final
	Now         func() time.Time // time.Now if nil
}

// paste is the channel that a person, or a pair of pipes, carries lines for.
type paste struct {
	cfg    PasteConfig
	lines  *lines
	closed chan struct{} // closed by Close
	writer chan struct{} // 1: held while a write is under way

	mu       sync.Mutex
	over     bool      // Close was called
	received bool      // In is not read ahead any more: what follows is not ours
	sent     []Message // to recognise our own

	// Owned by Receive.
	pending string      // lines of a token that is not complete
	cut     *TokenError // why it is not
	held    *TokenError // a complaint that waits for quiet
	skipped int         // bytes of lines without a token
	end     error       // how the input ended
}

// NewPaste returns a Channel over lines of text. Receive reads In up to the newline behind a token
// and not a byte further, so that the caller may read on; In is read in whole lines, byte by byte
// unless it is an io.ByteReader, and by one goroutine at most. That goroutine outlives Receive and
// Close while its read blocks, until In yields a line or ends. The first Send starts it too, because
// the answer may be on its way while the offer is still being written.
//
// Bad input gives a *TokenError: to OnError if Interactive, while Receive goes on, else from Receive.
// Lines without a token are skipped where no person reads the error, up to 64 KiB.
func NewPaste(cfg PasteConfig) Channel { return newPaste(cfg) }

func newPaste(cfg PasteConfig) *paste {
	if cfg.In == nil {
		cfg.In = strings.NewReader("")
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Prompt == nil {
		cfg.Prompt = func(string) {}
	}
	if cfg.OnToken == nil {
		cfg.OnToken = func(string) {}
	}
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &paste{cfg: cfg, lines: newLines(cfg.In), closed: make(chan struct{}), writer: make(chan struct{}, 1)}
}

// Trickles reports false: a person carries one line each way.
func (p *paste) Trickles() bool { return false }

// Close unblocks Send and Receive. It closes neither In nor Out.
func (p *paste) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		close(p.closed)
	}
	return nil
}

func (p *paste) Send(ctx context.Context, m Message) error {
	token, err := m.Token()
	if err != nil {
		return err
	}
	if err := p.ended(ctx, "write"); err != nil {
		return err
	}
	p.mu.Lock()
	p.sent = append(p.sent, Message{Kind: m.Kind, Body: bytes.Clone(m.Body)})
	if !p.received && !p.over {
		p.lines.want()
	}
	p.mu.Unlock()
	// In a goroutine of its own, because a pipe that nobody reads blocks for ever.
	written := make(chan error, 1)
	select {
	case p.writer <- struct{}{}:
	case <-ctx.Done():
		return p.ended(ctx, "write")
	case <-p.closed:
		return p.ended(ctx, "write")
	}
	go func() {
		_, err := io.WriteString(p.cfg.Out, token+"\n")
		<-p.writer
		written <- err
	}()
	select {
	case err := <-written:
		if err != nil {
			return fmt.Errorf("write the token: %w", err)
		}
	case <-ctx.Done():
		return p.ended(ctx, "write")
	case <-p.closed:
		return p.ended(ctx, "write")
	}
	p.cfg.OnToken(token)
	return nil
}

// ended returns the error of a channel that was closed or of a context that is over.
func (p *paste) ended(ctx context.Context, what string) error {
	select {
	case <-p.closed:
		return fmt.Errorf("%s a token: %w", what, net.ErrClosed)
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *paste) Receive(ctx context.Context) (Message, error) {
	if err := p.ended(ctx, "read"); err != nil {
		return Message{}, err
	}
	if p.end != nil {
		return Message{}, p.end
	}
	p.prompt()
	still := time.NewTimer(quiet)
	still.Stop()
	defer still.Stop()
	for {
		p.mu.Lock()
		if !p.over { // after Close no read begins
			p.lines.want()
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return Message{}, p.ended(ctx, "read")
		case <-p.closed:
			return Message{}, p.ended(ctx, "read")
		case <-still.C:
			p.speak()
		case l := <-p.lines.next:
			m, ok, err := p.take(l)
			p.mu.Lock() // before lines.mu
			p.received = p.received || ok
			p.lines.taken()
			p.mu.Unlock()
			if err != nil {
				if over := p.ended(ctx, "read"); over != nil {
					err = over
				}
				return Message{}, err
			}
			if ok {
				return m, nil
			}
			if p.cfg.Interactive && (p.held != nil || p.pending != "") {
				still.Reset(quiet)
			}
		}
	}
}

// take looks at one more line: a message, or an error that ends Receive, or neither.
func (p *paste) take(l line) (Message, bool, error) {
	m, problem := p.judge(l)
	if problem == nil && m.Kind != 0 {
		p.pending, p.cut, p.held, p.skipped, p.end = "", nil, nil, 0, nil
		return m, true, nil
	}
	if problem != nil {
		if !p.cfg.Interactive {
			return Message{}, false, problem
		}
		if p.held == nil || !problem.absent {
			p.held = problem
		}
	}
	if l.err == nil {
		return Message{}, false, nil
	}
	switch {
	case l.err != io.EOF:
		p.end = fmt.Errorf("read a token: %w", l.err)
	case p.pending != "":
		p.end = p.cut
	case p.held != nil:
		p.end = p.held
	default:
		p.end = &TokenError{ended: true,
			Problem: "the input ended before a line came",
			Hint:    "pipe the other side's line into standard input, or run adit in a terminal and paste it there"}
	}
	return Message{}, false, p.end
}

// judge reads a line together with the unfinished ones before it. Without a message and without a
// problem, more lines are due.
func (p *paste) judge(l line) (Message, *TokenError) {
	if strings.TrimSpace(l.text) == "" {
		cut := p.cut
		p.pending, p.cut = "", nil
		if l.err != nil && cut != nil {
			cut.unfinished = false
		}
		return Message{}, cut
	}
	text := l.text
	if p.pending != "" {
		text = p.pending + "\n" + text
	}
	found, problem := scanTokens(text)
	p.pending, p.cut = "", nil
	for _, m := range found {
		if problem = p.check(m); problem == nil {
			return m, nil
		}
	}
	switch {
	case problem.unfinished && !l.long && len(text) < maxPendingBytes && strings.Count(text, "\n")+1 < maxPendingLines:
		p.pending, p.cut = text, problem
		return Message{}, nil
	case l.long:
		return Message{}, &TokenError{
			Problem: fmt.Sprintf("a line of the input is longer than %d KiB", maxLine>>10),
			Hint:    "paste the line alone"}
	case problem.absent && strings.HasPrefix(l.text, "SSH-"):
		return Message{}, &TokenError{
			Problem: "the input is an ssh connection, not a line",
			Hint:    "in a ProxyCommand meet by a code at a rendezvous, or by --signal exec:CMD"}
	case problem.absent && !p.cfg.Interactive:
		if p.skipped += len(l.text) + 1; p.skipped < maxLine {
			return Message{}, nil
		}
	}
	return Message{}, problem
}

// check judges a whole token.
func (p *paste) check(m Message) *TokenError {
	p.mu.Lock()
	own := false
	for _, s := range p.sent {
		own = own || s.Kind == m.Kind && bytes.Equal(s.Body, m.Body)
	}
	p.mu.Unlock()
	switch now := p.cfg.Now(); {
	case own:
		return &TokenError{
			Problem: "that is your own line",
			Hint:    "give it to the other side, and paste here what the other side shows in return"}
	case p.cfg.Expect == KindAnswer && m.Kind == KindOffer:
		return &TokenError{
			Problem: "this is an offer where an answer is due",
			Hint:    `one side runs "adit expose" and the other "adit connect"; paste here what "adit connect" shows`}
	case p.cfg.Expect == KindOffer && m.Kind == KindAnswer:
		return &TokenError{
			Problem: "this is an answer where an offer is due",
			Hint:    `one side runs "adit expose" and the other "adit connect"; paste here what "adit expose" shows`}
	case p.cfg.Expect == KindHalf && m.Kind != KindHalf:
		return &TokenError{
			Problem: fmt.Sprintf("this is an %v of another session", m.Kind),
			Hint:    "paste here what the other side of this session shows now that it is interrupted"}
	case p.cfg.Expect != KindHalf && m.Kind == KindHalf:
		return &TokenError{
			Problem: "this line is for a session that has lost its path",
			Hint:    "paste it where that session runs, or start again on both sides"}
	case !m.Expires.IsZero() && now.After(m.Expires):
		return &TokenError{
			Problem: fmt.Sprintf("this line expired %s ago", age(now.Sub(m.Expires))),
			Hint:    "start again on the other side for a new one; if it is new, check the clocks of both machines"}
	}
	return nil
}

// age writes d in the largest unit that says enough.
func age(d time.Duration) string {
	n, unit := int64(d/(24*time.Hour)), "day"
	switch {
	case d < time.Minute:
		n, unit = max(int64(d/time.Second), 1), "second"
	case d < time.Hour:
		n, unit = int64(d/time.Minute), "minute"
	case d < 48*time.Hour:
		n, unit = int64(d/time.Hour), "hour"
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// speak tells the person what is wrong, or that more is due, now that the input is still.
func (p *paste) speak() {
	switch {
	case p.held != nil:
		e := p.held
		p.held = nil
		p.cfg.OnError(e)
		p.prompt()
	case p.pending != "":
		p.cfg.Prompt(p.cut.Problem + "; paste the rest, or press Enter to start over")
	}
}

func (p *paste) prompt() {
	switch p.cfg.Expect {
	case KindOffer:
		p.cfg.Prompt(`paste the line that "adit expose" shows on the other side, then press Enter`)
	case KindAnswer:
		p.cfg.Prompt("give this line to the other side, paste here what it shows in return, then press Enter")
	default:
		p.cfg.Prompt("paste the line that the other side shows, then press Enter")
	}
}
