package signal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func before() time.Time { return inTime.Add(-time.Minute) }

// tokenProblem returns err as a *TokenError.
func tokenProblem(t *testing.T, err error) *TokenError {
	t.Helper()
	var e *TokenError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *TokenError", err)
	}
	checkSentences(t, e)
	return e
}

func TestPasteSend(t *testing.T) {
	var out bytes.Buffer
	var told []string
	p := NewPaste(PasteConfig{Out: &out, OnToken: func(s string) { told = append(told, s) }})
	defer p.Close()
	m := sampleMessage(KindOffer)
	if err := p.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	want := token(t, m)
	if out.String() != want+"\n" || !reflect.DeepEqual(told, []string{want}) {
		t.Errorf("wrote %q and told %q, want %q", out.String(), told, want)
	}
	if p.Trickles() {
		t.Error("trickles")
	}
	if err := p.Send(t.Context(), Message{Kind: KindOffer, Body: make([]byte, MaxToken)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
}

func TestPasteSendFails(t *testing.T) {
	broken := errors.New("broken")
	r, w := io.Pipe()
	r.CloseWithError(broken)
	p := NewPaste(PasteConfig{Out: w})
	if err := p.Send(t.Context(), sampleMessage(KindOffer)); !errors.Is(err, broken) {
		t.Errorf("to a broken pipe: %v, want %v", err, broken)
	}
	p.Close()
	_, out := io.Pipe()
	defer out.Close()
	p = NewPaste(PasteConfig{Out: out})
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Millisecond, func() { cancel(broken) })
	if err := p.Send(ctx, sampleMessage(KindOffer)); !errors.Is(err, broken) {
		t.Errorf("to a pipe that nobody reads: %v, want the cause of the context", err)
	}
	p.Close()
	if err := p.Send(t.Context(), sampleMessage(KindOffer)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, want net.ErrClosed", err)
	}
}

// Where no person watches, a piece of chat is read up to the token and what is wrong is final.
func TestPasteFromPipe(t *testing.T) {
	answer, offer := sampleMessage(KindAnswer), sampleMessage(KindOffer)
	a, o := token(t, answer), token(t, offer)
	late := answer
	late.Expires = before().Add(-3 * time.Minute)
	for _, c := range []struct {
		name, in string
		problem  string // empty: the answer is read
		rest     string
	}{
		{"a line", a + "\nrest", "", "rest"},
		{"windows line", a + "\r\nrest\n", "", "rest\n"},
		{"no newline", a, "", ""},
		{"chat before", "hello\n\n[12:00] bob: here it is\n" + a + "\nrest", "", "rest"},
		{"wrapped", wrap(a, "", 80) + "\nrest", "", "rest"},
		{"wrapped and quoted", "> " + wrap(a, "> ", 70) + "\n\nrest", "", "\nrest"},
		{"a cut one before", a[:100] + "\n" + a + "\n", "", ""},
		{"both in a line", o + " " + a + "\n", "", ""},
		{"nothing", "", "ended", ""},
		{"only chat", "hello\nthere\n", "ended", ""},
		{"cut by the end", a[:90], "cut", ""},
		{"cut by the end after a newline", a[:90] + "\n", "cut", ""},
		{"cut by an empty line", a[:90] + "\n\nrest", "cut", "rest"},
		{"cut by an ellipsis", a[:90] + "…\nrest", "cut", "rest"},
		{"cut by a terminal", "0123456789 " + strings.Repeat("x", 900-2) + " " + a[:1024-11-900+1] + "\n\n", "1024", ""},
		{"damaged", a[:50] + "!" + a[51:] + "\nrest", "damaged", "rest"},
		{"version", "adit7a.AAAAA\nrest", "version 7", "rest"},
		{"offer", o + "\nrest", "an offer where an answer is due", "rest"},
		{"expired", token(t, late) + "\nrest", "expired 3 minutes ago", "rest"},
		{"ssh", "SSH-2.0-OpenSSH_10.0\r\nbinary", "ssh", "binary"},
		{"unfinished for many lines", a[:40] + strings.Repeat("\n>", maxPendingLines-1) + "\nrest", "cut", "rest"},
		{"unfinished for many bytes", a[:40] + strings.Repeat("\n"+strings.Repeat(">", 1023), 8) + "\nrest", "cut", "rest"},
		{"endless line", strings.Repeat("x", 2*maxLine), "longer than 64 KiB", strings.Repeat("x", maxLine)},
		{"endless lines", strings.Repeat(strings.Repeat("x ", 511)+"\n", 70), "no line of adit", ""},
	} {
		for _, reader := range []string{"plain", "bufio"} {
			t.Run(c.name+" "+reader, func(t *testing.T) {
				var in io.Reader = iotest.DataErrReader(struct{ io.Reader }{strings.NewReader(c.in)})
				if reader == "bufio" {
					in = bufio.NewReader(in)
				}
				p := NewPaste(PasteConfig{In: in, Expect: KindAnswer, Now: before})
				defer p.Close()
				got, err := p.Receive(t.Context())
				if c.problem == "" {
					if err != nil || !reflect.DeepEqual(got, answer) {
						t.Fatalf("got %+v, %v, want %+v", got, err, answer)
					}
				} else if e := tokenProblem(t, err); !strings.Contains(e.Problem, c.problem) {
					t.Errorf("got %q, want %q in it", e.Problem, c.problem)
				}
				if c.name == "endless lines" {
					return
				}
				if rest, err := io.ReadAll(in); err != nil || string(rest) != c.rest {
					t.Errorf("left %.40q, %v, want %.40q", rest, err, c.rest)
				}
			})
		}
	}
}

func TestPasteWrongKind(t *testing.T) {
	p := NewPaste(PasteConfig{In: strings.NewReader(token(t, sampleMessage(KindAnswer))), Expect: KindOffer, Now: before})
	defer p.Close()
	_, err := p.Receive(t.Context())
	if e := tokenProblem(t, err); !strings.Contains(e.Problem, "an answer where an offer is due") {
		t.Error(e)
	}
}

// Lines of a session that lost its path, and those of a new one, are not taken for each other.
func TestPasteHalf(t *testing.T) {
	for _, expect := range []Kind{KindOffer, KindAnswer, KindHalf, 0} {
		for _, kind := range []Kind{KindOffer, KindAnswer, KindHalf} {
			p := NewPaste(PasteConfig{In: strings.NewReader(token(t, sampleMessage(kind))), Expect: expect, Now: before})
			m, err := p.Receive(t.Context())
			want := expect == kind || expect == 0 && kind != KindHalf
			var te *TokenError
			if (err == nil) != want || want && m.Kind != kind || !want && (!errors.As(err, &te) || te.Hint == "") {
				t.Errorf("%v where %v is due: %v, %v", kind, expect, m.Kind, err)
			}
			p.Close()
		}
	}
}

func TestPasteReadFails(t *testing.T) {
	broken := errors.New("broken")
	p := NewPaste(PasteConfig{In: iotest.ErrReader(broken)})
	defer p.Close()
	for range 2 {
		if _, err := p.Receive(t.Context()); !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	}
}

// Both ends of a pipe: the line must not be waited for before it is written.
func TestPasteOwnToken(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	p := NewPaste(PasteConfig{In: r, Out: w, Expect: KindAnswer, Now: before})
	defer p.Close()
	if err := p.Send(t.Context(), sampleMessage(KindOffer)); err != nil {
		t.Fatal(err)
	}
	_, err := p.Receive(t.Context())
	if e := tokenProblem(t, err); !strings.Contains(e.Problem, "your own") {
		t.Error(e)
	}
}

// What follows the token belongs to the caller, also while the answer is being sent.
func TestPasteLeavesTheRest(t *testing.T) {
	offer := sampleMessage(KindOffer)
	in := strings.NewReader(token(t, offer) + "\npayload")
	var out bytes.Buffer
	p := NewPaste(PasteConfig{In: in, Out: &out, Expect: KindOffer, Now: before})
	if m, err := p.Receive(t.Context()); err != nil || !reflect.DeepEqual(m, offer) {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := p.Send(t.Context(), sampleMessage(KindAnswer)); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if rest, _ := io.ReadAll(in); string(rest) != "payload" {
		t.Errorf("left %q, want the payload", rest)
	}
}

func TestPasteUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		p := NewPaste(PasteConfig{In: r, Now: before})
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if _, err := p.Receive(ctx); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause of the context", err)
		}
		// The read goes on: its line is there for the next call.
		m := sampleMessage(KindAnswer)
		if _, err := io.WriteString(w, token(t, m)+"\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Receive(t.Context()); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("got %+v, %v, want %+v", got, err, m)
		}
		go func() {
			time.Sleep(time.Second) // in the bubble's time
			p.Close()
			p.Close()
		}()
		if _, err := p.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		if _, err := p.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		w.Close()
	})
}

// A person is told what is wrong, once for each paste, and may try again.
func TestPasteInteractive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		var problems, prompts []string
		p := NewPaste(PasteConfig{
			In: r, Interactive: true, Expect: KindAnswer, Now: before,
			Prompt:  func(s string) { prompts = append(prompts, s) },
			OnError: func(err error) { problems = append(problems, tokenProblem(t, err).Problem) },
		})
		defer p.Close()
		offer, answer := sampleMessage(KindOffer), sampleMessage(KindAnswer)
		if err := p.Send(t.Context(), offer); err != nil {
			t.Fatal(err)
		}
		a := token(t, answer)
		pastes := []string{
			"\n",
			"what?\n",
			token(t, offer) + "\nthanks\nbye\n", // one complaint, and not about the thanks
			token(t, offer) + "\n",
			token(t, Message{Kind: KindOffer}) + "\n",
			a[:40] + "x" + a[41:] + "\n",
			a[:100] + "\n", // asks for the rest
			"\n",           // gives up
			strings.Repeat("x", maxLine+9) + "\n",
			a[:100] + "\n",
			a[100:] + "\n",
		}
		go func() {
			for _, s := range pastes {
				io.WriteString(w, s)
				time.Sleep(time.Second) // in the bubble's time: a person's pause
			}
		}()
		got, err := p.Receive(t.Context())
		if err != nil || !reflect.DeepEqual(got, answer) {
			t.Errorf("got %+v, %v, want %+v", got, err, answer)
		}
		want := []string{"no line of adit", "your own", "your own", "an offer where", "damaged", "cut", "64 KiB"}
		if len(problems) != len(want) {
			t.Fatalf("told %q, want %q", problems, want)
		}
		for i := range want {
			if !strings.Contains(problems[i], want[i]) {
				t.Errorf("told %q, want %q in it", problems[i], want[i])
			}
		}
		rest := 0
		for _, s := range prompts {
			if strings.Contains(s, "paste the rest") {
				rest++
			}
		}
		if want := 1 + len(want) + 2; len(prompts) != want || rest != 2 {
			t.Errorf("prompted %d times, %d for the rest, want %d and 2: %q", len(prompts), rest, want, prompts)
		}
		synctest.Wait()
		time.Sleep(2 * time.Second) // lets the writer end
	})
}

// A person who pastes the whole conversation means the one usable token in it.
func TestPasteInteractiveConversation(t *testing.T) {
	answer := sampleMessage(KindAnswer)
	in := strings.NewReader("me: " + token(t, Message{Kind: KindOffer}) + "\nyou: sure\nyou: " + token(t, answer) + "\n")
	p := NewPaste(PasteConfig{In: in, Interactive: true, Expect: KindAnswer, Now: before,
		OnError: func(err error) { t.Errorf("told %v", err) }})
	defer p.Close()
	if got, err := p.Receive(t.Context()); err != nil || !reflect.DeepEqual(got, answer) {
		t.Errorf("got %+v, %v, want %+v", got, err, answer)
	}
}

func TestPasteInteractiveEnd(t *testing.T) {
	a := token(t, sampleMessage(KindAnswer))
	for _, c := range []struct{ in, want string }{
		{"", "ended"},
		{"what?\n", "no line of adit"},
		{a[:50], "cut"},
		{a[:50] + "\n", "cut"},
		{a[:50] + "\n \n", "cut"},
		{a[:50] + "!x", "damaged"},
	} {
		p := NewPaste(PasteConfig{In: strings.NewReader(c.in), Interactive: true, Now: before})
		for range 2 { // and stays so
			_, err := p.Receive(t.Context())
			if e := tokenProblem(t, err); !strings.Contains(e.Problem, c.want) {
				t.Errorf("%q: got %q, want %q in it", c.in, e.Problem, c.want)
			}
		}
		p.Close()
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "1 second",
		59 * time.Second:        "59 seconds",
		time.Minute:             "1 minute",
		47*time.Hour + 1:        "47 hours",
		50 * time.Hour:          "2 days",
		90*time.Minute - 1:      "1 hour",
		59*time.Minute + 59*1e9: "59 minutes",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
