package cmd

import (
	"context"
	"fmt"
	"os"
	"strings"

	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// tokenPrefix is how a pasted line begins; a code never does.
const tokenPrefix = "adit"

func pipeCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:      "pipe",
		Usage:     "join standard input and output to those of a peer",
		ArgsUsage: "[CODE]",
		Description: `Standard input goes to the peer's standard output, and the other way round. One side runs it
without a code and shows one; the other joins. It ends when both inputs have ended and everything
has been written. A terminal counts as an empty input where the output is none.

  tar c photos | adit pipe        on one machine
  adit pipe CODE | tar x          on the other
  adit pipe --join | tar x        the same with pasted lines`,
		Flags: append(ownFlags("pipe",
			&cli.BoolFlag{Name: "join", Usage: "join with a pasted line, or by a command: the other side runs adit pipe without it"},
		), commonFlags(meetingFlags, outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			u.dataOut = true
			cfg, err := meeting(u, c)
			if err != nil {
				return err
			}
			if c.NArg() > 1 {
				return usagef("for example: adit pipe CODE", "pipe takes one code, not %d arguments", c.NArg())
			}
			cfg.Code = c.Args().First()
			join := c.Bool("join") || cfg.Code != ""
			if join {
				if err := checkCode(cfg.Signal, cfg.Code, "pipe"); err != nil {
					return err
				}
				cfg.Role = peer.Connecter
			}
			return pipe(ctx, u, c, cfg, join)
		}),
	}
}

func pipe(ctx context.Context, u *ui, c *cli.Context, cfg peer.Config, join bool) error {
	u.onCode = func(code string) string { return invitation(c, "pipe", code) }
	u.onToken = fmt.Sprintf("On the other machine run %q and paste this line:", joinCommand(cfg, "pipe --join"))
	if join {
		u.onToken = "Send this line back to the other side:"
	}
	s, end, err := meet(ctx, u, cfg, true)
	if err != nil {
		return err
	}
	defer end()
	in := dataInput(u)
	if isTerminal(os.Stdin) && !u.outTTY {
		in = strings.NewReader("") // nobody types into the middle of a pipeline
	}
	return written(streamEnded(ctx, s, tunnel.Pipe(ctx, tunnel.Over(s.Streams()), join, in, dataOutput())))
}
