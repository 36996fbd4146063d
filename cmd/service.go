package cmd

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"
)

//go:embed adit.service.tmpl
var unitText string

// unitTemplate is the unit of systemd that adit service writes. docs/service.md explains each line.
var unitTemplate = template.Must(template.New("unit").Parse(unitText))

// A unit is what the template is filled with.
type unit struct {
	Name    string // adit-Name.service, or adit.service
	Command string // the command line, quoted
	User    bool   // a service of the user, not of the system
	Low     bool   // it may listen at ports below 1024
}

// File returns the name of the unit's file.
func (n unit) File() string {
	if n.Name == "adit" {
		return "adit.service"
	}
	return "adit-" + n.Name + ".service"
}

func serviceCommand(u *ui, app *cli.App) *cli.Command {
	return &cli.Command{
		Name:      "service",
		Usage:     "have systemd run adit: install, uninstall, status",
		ArgsUsage: "install|uninstall|status [-- COMMAND…]",
		Description: `Have systemd run an adit at each start of the machine (--system) or for this user (--user, the
default but for root), start it again when it fails, and know how it does. What follows -- is the
command line of adit: expose, connect or serve. The unit is hardened; --print shows it.

  adit service install -- expose 22 --listen
  adit service install --name rendezvous -- serve --http :8080 --stun :3478
  adit service status
  adit service uninstall --name rendezvous`,
		Flags: append(ownFlags("service",
			&cli.BoolFlag{Name: "user", Usage: "a service of this user, which runs while the user is logged in, or lingers"},
			&cli.BoolFlag{Name: "system", Usage: "a service of the system; only root can install it"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` to tell several apart: the unit is adit-NAME.service", Value: "adit"},
			&cli.BoolFlag{Name: "print", Usage: "print the unit and change nothing"},
		), commonFlags(outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			m := manager{u: u, user: c.Bool("user"), name: c.String("name")}
			if runtime.GOOS != "linux" {
				return &failure{code: exitOther, message: "adit service knows systemd only, and this system has none", hint: "have your system's service manager run the command line as it is; docs/service.md has examples"}
			}
			switch {
			case c.Bool("user") && c.Bool("system"):
				return usagef("leave one of the two out", "--user and --system exclude each other")
			case !c.Bool("system") && os.Geteuid() != 0:
				m.user = true
			}
			if !serviceName.MatchString(m.name) {
				return usagef("for example --name home", "--name %q is no name for a unit: letters, digits, - and _", m.name)
			}
			verb, rest := c.Args().First(), c.Args().Tail()
			if len(rest) > 0 && verb != "install" {
				return usagef(`for example: adit service `+verb, "service %s takes no command line", verb)
			}
			switch verb {
			case "install":
				return m.install(ctx, app, rest, c.Bool("print"))
			case "uninstall":
				return m.uninstall(ctx)
			case "status":
				return m.status(ctx)
			}
			return usagef("for example: adit service install -- expose 22", "service wants install, uninstall or status")
		}),
	}
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// A manager is systemd, of the system or of the user.
type manager struct {
	u    *ui
	user bool
	name string
}

func (m manager) unit() unit { return unit{Name: m.name, User: m.user} }

// dir is where units go that people put there (systemd.unit(5)).
func (m manager) dir() (string, error) {
	if !m.user {
		return "/etc/systemd/system", nil
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", &failure{code: exitOther, message: err.Error(), hint: "set HOME"}
	}
	return filepath.Join(config, "systemd", "user"), nil
}

// serviceLine checks the command line of a service and returns it as a unit takes it.
func serviceLine(app *cli.App, args []string) (string, error) {
	const example = "for example: adit service install -- expose 22 --listen"
	if len(args) == 0 {
		return "", usagef(example, "service install wants the command line of adit after --")
	}
	if !slices.Contains([]string{"expose", "connect", "serve"}, args[0]) {
		return "", usagef(example, "a service runs expose, connect or serve, not %q", args[0])
	}
	if _, err := permute(app, args); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	words := []string{unitQuoted(self)}
	for _, a := range args {
		if strings.ContainsAny(a, "\n\x00") {
			return "", usagef(example, "an argument of a service cannot have a line break")
		}
		words = append(words, unitQuoted(a))
	}
	return strings.Join(words, " "), nil
}

// unitQuoted writes a word as ExecStart takes it (systemd.service(5), "Command lines").
func unitQuoted(s string) string {
	s = strings.NewReplacer("%", "%%", "$", "$$").Replace(s)
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func (n unit) text() string {
	var b strings.Builder
	if err := unitTemplate.Execute(&b, n); err != nil {
		panic("cmd: unit: " + err.Error()) // the template is the binary's own
	}
	return b.String()
}

func (m manager) install(ctx context.Context, app *cli.App, args []string, printOnly bool) error {
	line, err := serviceLine(app, args)
	if err != nil {
		return err
	}
	n := m.unit()
	n.Command, n.Low = line, args[0] == "serve"
	if printOnly {
		m.u.answer("%s", strings.TrimSuffix(n.text(), "\n"))
		return nil
	}
	if !m.user {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		if why := hiddenFromService(self); why != "" {
			return &failure{code: exitOther, message: fmt.Sprintf("a service of the system cannot run %s: %s", self, why), hint: "install it first: install -m 755 " + self + " /usr/local/bin/adit, and run that"}
		}
	}
	dir, err := m.dir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, n.File())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m.cannot(err)
	}
	if err := os.WriteFile(path, []byte(n.text()), 0o644); err != nil {
		return m.cannot(err)
	}
	m.u.say("wrote %s", path)
	for _, args := range [][]string{{"daemon-reload"}, {"enable", n.File()}, {"restart", n.File()}} {
		if err := m.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	m.u.say("%s runs; \"adit service status\" shows how it does, \"journalctl %s-u %s\" what it says", n.File(), m.flag(), n.File())
	if !m.user && args[0] != "serve" {
		m.u.say("its key and its peers are its own: XDG_STATE_HOME=/var/lib/adit/%s XDG_CONFIG_HOME=/etc adit key, or peers …", n.Name)
	}
	return nil
}

// hiddenFromService says why a service that runs as another user, with the unit's walls around it, cannot run a
// program; "" if it can.
func hiddenFromService(path string) string {
	for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if strings.HasPrefix(path, dir+"/") {
			return "it does not see " + dir
		}
	}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err.Error()
		}
		if info.Mode()&0o001 == 0 {
			return "others may not use " + at
		}
		if at == filepath.Dir(at) {
			return ""
		}
	}
}

func (m manager) uninstall(ctx context.Context) error {
	dir, err := m.dir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, m.unit().File())
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return &failure{code: exitOther, message: "there is no " + path, hint: "--name, --user and --system say which one is meant"}
	}
	if err := m.systemctl(ctx, "disable", "--now", m.unit().File()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return m.cannot(err)
	}
	m.u.say("removed %s", path)
	return m.systemctl(ctx, "daemon-reload")
}

// status shows what systemd knows.
func (m manager) status(ctx context.Context) error {
	return m.systemctl(ctx, "--no-pager", "status", m.unit().File())
}

// flag is what systemctl and journalctl take for a service of the user.
func (m manager) flag() string {
	if m.user {
		return "--user "
	}
	return ""
}

func (m manager) systemctl(ctx context.Context, args ...string) error {
	if m.user {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return &failure{code: exitOther, message: fmt.Sprintf("systemctl %s: %v", strings.Join(args, " "), err), hint: "systemctl says above what is wrong"}
	}
	return nil
}

func (m manager) cannot(err error) error {
	hint := "see who may write there"
	if errors.Is(err, fs.ErrPermission) && !m.user {
		hint = "run it as root, or with --user"
	}
	return &failure{code: exitOther, message: err.Error(), hint: hint}
}
