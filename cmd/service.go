package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"adit/internal/fail"

	"github.com/urfave/cli/v2"
)

// A manager of services is what starts one at the start of the machine, and again when it fails. The words of a command
// line are the program's path and its arguments, at least one.
type manager interface {
	text(words []string) (string, error)               // what would be installed
	install(ctx context.Context, words []string) error // and starts it; one that is there is replaced
	uninstall(ctx context.Context) error               // and ends it
	status(ctx context.Context) error                  // prints what the manager knows
}

// serviceManager returns this system's.
func serviceManager(u *ui, user bool, name string) (manager, error) {
	switch runtime.GOOS {
	case "linux":
		return systemd{u, user, name}, nil
	case "darwin":
		return launchd{u, user, name}, nil
	}
	return systemManager(u, user, name)
}

// serviceOptions are those of "adit service".
type serviceOptions struct {
	given
	outputOptions
	user, system, print bool
	name                string
}

func newServiceOptions() *serviceOptions { return &serviceOptions{name: "adit"} }

func (o *serviceOptions) list() []option {
	return slices.Concat(own("service",
		option{name: "user", to: &o.user, usage: "a service of this user, which runs while the user is logged in, or lingers"},
		option{name: "system", to: &o.system, usage: "a service of the system; only root can install it"},
		option{name: "name", to: &o.name, usage: "`NAME` to tell several apart: the unit is adit-NAME.service, the job adit.NAME"},
		option{name: "print", to: &o.print, usage: "print what would be installed and change nothing"},
	), o.outputOptions.list())
}

func (o *serviceOptions) check(bad *complaints) {
	o.outputOptions.check(bad)
	if o.user && o.system {
		bad.add(fail.Usagef("leave one of the two out", "--user and --system exclude each other"))
	}
	if !serviceName.MatchString(o.name) {
		bad.about("name", "for example --name home", "%q is no name for a service: letters, digits, - and _", o.name)
	}
}

var serviceVerbs = []string{"install", "uninstall", "status"}

func serviceCommand(u *ui, app *cli.App) *cli.Command {
	return command(u, cli.Command{
		Name:      "service",
		Usage:     "have the system run adit: install, uninstall, status",
		ArgsUsage: "install|uninstall|status [-- COMMAND…]",
		Description: `Have systemd, launchd or Windows run an adit at each start of the machine (--system) or for
this user (--user, the default but for root), and start it again when it fails. What follows --
is the command line of adit: expose, connect or serve. The unit of systemd is hardened;
--print shows what would be installed.

  adit service install -- expose 22 --listen
  adit service install --name rendezvous -- serve --http :8080 --stun :3478
  adit service status
  adit service uninstall --name rendezvous`,
	}, newServiceOptions, func(ctx context.Context, u *ui, o *serviceOptions) error {
		user := o.user || !o.system && os.Geteuid() > 0 // -1 on Windows
		m, err := serviceManager(u, user, o.name)
		if err != nil {
			return err
		}
		verb := o.arg(0)
		if len(o.args) > 1 && verb != "install" {
			return fail.Usagef(`for example: adit service `+verb, "service %s takes no command line", verb)
		}
		switch verb {
		case "install":
			words, err := serviceLine(app, o.args[1:])
			if err != nil {
				return err
			}
			if !o.print {
				return m.install(ctx, words)
			}
			text, err := m.text(words)
			if err != nil {
				return err
			}
			u.answer("%s", strings.TrimSuffix(text, "\n"))
			return nil
		case "uninstall":
			return m.uninstall(ctx)
		case "status":
			return m.status(ctx)
		}
		return fail.Usagef("for example: adit service install -- expose 22", "service wants install, uninstall or status")
	})
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

const serviceExample = "for example: adit service install -- expose 22 --listen"

// serviceLine checks the command line of a service and returns its words.
func serviceLine(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return nil, fail.Usagef(serviceExample, "service install wants the command line of adit after --")
	}
	if !slices.Contains([]string{"expose", "connect", "serve"}, args[0]) {
		return nil, fail.Usagef(serviceExample, "a service runs expose, connect or serve, not %q", args[0])
	}
	if _, err := permute(app, args); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return append([]string{self}, args...), nil
}

// runTool runs a program of the system, which says itself what is wrong.
func runTool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return &fail.Failure{Code: fail.Other, Message: fmt.Sprintf("%s %s: %v", name, strings.Join(args, " "), err), Hint: name + " says above what is wrong"}
	}
	return nil
}

func cannotInstall(err error, user bool) error {
	hint := "see who may write there"
	if errors.Is(err, fs.ErrPermission) && !user {
		hint = "run it as root, or with --user"
	}
	return &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: hint}
}
