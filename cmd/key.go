package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"adit/internal/fail"
	"adit/internal/identity"
	"adit/internal/suggest"

	"github.com/urfave/cli/v2"
)

// keyOptions are those of "adit key". They say what to do once, so that no variable and no file has them.
type keyOptions struct {
	given
	outputOptions
	rotate, yes bool
}

func newKeyOptions() *keyOptions { return new(keyOptions) }

func (o *keyOptions) list() []option {
	return append([]option{
		{name: "rotate", to: &o.rotate, usage: "replace the key pair by a new one"},
		{name: "yes", short: "y", to: &o.yes, usage: "do not ask"},
	}, o.outputOptions.list()...)
}

func (o *keyOptions) check(bad *complaints) { o.outputOptions.check(bad) }

func keyCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:  "key",
		Usage: "show this machine's public key, or replace the key pair",
		Description: `Print the public key by which peers know this machine; the key pair is made on first use. The
fingerprint, its first 16 letters, is for comparing by eye or over the phone.

  adit key           then, on the other machine: adit peers add NAME KEY
  adit key --rotate  a new pair; peers refuse it until they have the new key`,
	}, newKeyOptions, func(ctx context.Context, u *ui, o *keyOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit key", "key takes no arguments, only flags")
		}
		dir, err := identity.StateDir()
		if err != nil {
			return err
		}
		if o.rotate {
			return rotate(ctx, u, dir, o.yes)
		}
		k, err := identity.LoadOrCreate(dir)
		if err != nil {
			return err
		}
		return u.showKey(shownKey{Key: k.Public(), Path: identity.KeyFile(dir)})
	})
}

// A shownKey is what "adit key --json" prints.
type shownKey struct {
	Key         identity.PublicKey  `json:"key"`
	Fingerprint string              `json:"fingerprint"`
	Path        string              `json:"path"`
	Old         *identity.PublicKey `json:"old,omitempty"` // what it was before the rotation
}

func (u *ui) showKey(k shownKey) error {
	k.Fingerprint = k.Key.Fingerprint()
	if u.json {
		b, err := json.Marshal(k)
		if err != nil {
			return err
		}
		u.answer("%s", b)
		return nil
	}
	u.answer("%s", k.Key)
	u.say("fingerprint %s, in %s", k.Fingerprint, k.Path)
	return nil
}

// rotate replaces the key pair after a person has agreed.
func rotate(ctx context.Context, u *ui, dir string, yes bool) error {
	const hint = "say adit key --rotate --yes if that is what you want"
	if !yes {
		if u.json || !isTerminal(os.Stdin) {
			return fail.Usagef(hint, "peers will refuse this machine until they have the new key, and there is no terminal to ask at")
		}
		u.prompt("Peers will refuse this machine until they have the new key. Rotate? [y/N] ")
		answer, err := readLine(ctx, os.Stdin)
		if err != nil {
			return err
		}
		if a := strings.ToLower(answer); a != "y" && a != "yes" {
			return fail.Usagef(hint, "the key stays as it is")
		}
	}
	old, now, err := identity.Rotate(dir)
	if now.IsZero() {
		return err
	}
	shown := shownKey{Key: now, Path: identity.KeyFile(dir)}
	if !old.IsZero() {
		shown.Old = &old
	}
	if err := u.showKey(shown); err != nil {
		return err
	}
	if !old.IsZero() {
		u.say("the old one was %s; tell each peer: adit peers add NAME KEY --replace", old.Fingerprint())
	}
	return err // of what came after the new key was in force
}

// readLine reads one line, or returns the cause of ctx. The reader stays behind then: the process ends.
func readLine(ctx context.Context, f *os.File) (string, error) {
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1) // the one line
	go func() {
		s, err := bufio.NewReader(f).ReadString('\n')
		got <- line{strings.TrimSpace(s), err}
	}()
	select {
	case l := <-got:
		if l.text == "" && l.err != nil {
			return "", fail.Usagef("say yes or no", "no answer was given")
		}
		return l.text, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// failureOfIdentity gives the errors of keys and peers their exit codes; nil for any other.
func failureOfIdentity(err error) *fail.Failure {
	var file *identity.FileError
	var changed *identity.KeyChangedError
	f := &fail.Failure{Code: fail.Usage, Message: err.Error()}
	switch {
	case errors.As(err, &changed):
		f.Code = fail.Auth
		f.Hint = "ask its owner; if it was rotated: adit peers add " + changed.Name + " KEY --replace"
	case errors.As(err, &file):
		f.Message, f.Hint = file.Error(), "config.example.toml shows every key"
		if n := suggest.Nearest(file.Unknown, file.Known); n != "" {
			f.Hint = "did you mean " + n + "?"
		}
	case errors.Is(err, identity.ErrPermissions):
		f.Hint = "change its permissions, and think of who may have read or written it"
	case errors.Is(err, identity.ErrKeyFile):
		f.Hint = "restore it from a copy, or make a new one: adit key --rotate"
	case errors.Is(err, identity.ErrBusy):
		f.Code, f.Hint = fail.Other, "try again; if nothing runs, see who holds the lock file"
	case errors.Is(err, identity.ErrKeyText):
		f.Hint = `take what "adit key" prints on the other machine`
	case errors.Is(err, identity.ErrUnknown):
		f.Hint = `"adit peers list" shows the names`
	case errors.Is(err, identity.ErrName):
		f.Hint = "for example: home, work-laptop"
	case errors.Is(err, identity.ErrTaken), errors.Is(err, identity.ErrForm):
	default:
		return nil
	}
	return f
}
