package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// tokenPrefix is how a pasted line begins; a code never does.
const tokenPrefix = "adit"

// pipeOptions are those of "adit pipe".
type pipeOptions struct {
	given
	meetingOptions
	outputOptions
	join bool
}

func newPipeOptions() *pipeOptions { return new(pipeOptions) }

func (o *pipeOptions) list() []option {
	return slices.Concat(own("pipe",
		option{name: "join", to: &o.join, usage: "join with a pasted line, or by a command: the other side runs adit pipe without it"},
	), o.meetingOptions.list(), o.outputOptions.list())
}

func (o *pipeOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
}

func pipeCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "pipe",
		Usage:     "join standard input and output to those of a peer",
		ArgsUsage: "[CODE]",
		Description: `Standard input goes to the peer's standard output, and the other way round. One side runs it
without a code and shows one; the other joins. It ends when both inputs have ended and everything
has been written. A terminal counts as an empty input where the output is none.

  tar c photos | adit pipe        on one machine
  adit pipe CODE | tar x          on the other
  adit pipe --join | tar x        the same with pasted lines`,
	}, newPipeOptions, func(ctx context.Context, u *ui, o *pipeOptions) error {
		u.dataOut = true
		if len(o.args) > 1 && !isCode(o.args) {
			return fail.Usagef("for example: adit pipe CODE", "pipe takes one code, not %d arguments", len(o.args))
		}
		cfg := o.meetingOptions.config(u)
		cfg.Code = strings.Join(o.args, "-")
		o.join = o.join || cfg.Code != ""
		if o.join {
			if err := checkCode(cfg.Signal, cfg.Code, "pipe"); err != nil {
				return err
			}
			cfg.Role = peer.Connecter
		}
		return pipe(ctx, u, o, cfg)
	})
}

func pipe(ctx context.Context, u *ui, o *pipeOptions, cfg peer.Config) error {
	u.onCode = func(code string) string { return o.invitation(&o.given, "pipe", code, false) }
	u.onToken = fmt.Sprintf("On the other machine run %q and paste this line:", joinCommand(cfg, "pipe --join"))
	if o.join {
		u.onToken = "Send this line back to the other side:"
		u.afterOwn = "waiting for the other side to paste this line"
	}
	s, end, err := meet(ctx, u, cfg, true)
	if err != nil {
		return err
	}
	defer end()
	in := dataInput(u)
	typed := isTerminal(os.Stdin)
	if typed && !u.outTTY {
		in, typed = strings.NewReader(""), false // nobody types into the middle of a pipeline
	}
	t := &transfer{began: time.Now(), size: sizeOf(os.Stdin), first: func() {
		if u.outTTY {
			u.plain() // the peer's text and a status line do not share a screen
		}
	}}
	if typed {
		u.plain()
	}
	u.measureWith(t.meter(func() string { return pathOf(s) }))
	in, out := t.counting(in, dataOutput())
	err = written(forwards.Ended(ctx, s, tunnel.Pipe(ctx, tunnel.Over(s.Streams()), o.join, in, out)))
	if err == nil {
		u.say("%s", t.summary(time.Now(), pathOf(s)))
	}
	return err
}

// sizeOf returns how many bytes are left of a file; 0 for what is no file.
func sizeOf(f *os.File) uint64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return uint64(max(info.Size()-at, 0))
}
